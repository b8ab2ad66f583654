"""TransUNet: a ResNet and a vision transformer as encoder, convolutions with skips as decoder.

Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", 2021, arXiv 2102.04306.

The published behaviour is kept where it is odd: the pooling behind the root has no padding and loses a row and a
column, and the skip it feeds is filled up below and to the right. Deviations, none of which changes the output: query,
key and value are one projection; sides that differ from the built one work, if divisible by 16: positions are resized.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.blocks import ConvNormReLU
from c2fvl.models.output import Output, check_size
from c2fvl.models.transformer import PatchEmbedding, TransformerBlock, as_map, as_tokens

SIZE_STEP = 16
UNITS = (3, 4, 9)
"""Bottlenecks of the three stages of the ResNet."""
MOST_GROUPS = 32
NORM_EPS = 1e-6
ENCODERS = ("r50-vit-b16", "vit-b16")


class TransUNet(nn.Module):
    """The network of TransUNet.

    image (B, in_channels, H, W) in [0, 1], H and W divisible by 16; a grey image (B, 1, H, W) is repeated to
    in_channels, as published. It reads no text. Returns logits (B, num_classes, H, W).

    `encoder` is "r50-vit-b16", or "vit-b16": the transformer alone on patches of 16 pixels, without skips. Raises
    `ValueError` for another encoder, for widths that do not divide, and for an image of another size.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 9,
        image_size: int = 224,
        encoder: str = "r50-vit-b16",
        resnet_width: int = 64,
        width: int = 768,
        hidden: int = 3072,
        num_heads: int = 12,
        num_layers: int = 12,
        decoder_width: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise ValueError(f"encoder is {encoder!r}; known are {', '.join(ENCODERS)}")
        if width % num_heads:
            raise ValueError(f"width is {width}; it must be a multiple of num_heads ({num_heads})")
        if decoder_width % 32:
            raise ValueError(f"decoder_width is {decoder_width}; it must be a multiple of 32")
        if resnet_width > MOST_GROUPS and resnet_width % MOST_GROUPS:
            raise ValueError(f"resnet_width is {resnet_width}; it must be at most {MOST_GROUPS} or a multiple of it")
        check_size(image_size, image_size, SIZE_STEP)
        self.in_channels = in_channels
        self.resnet = ResNet(in_channels=in_channels, width=resnet_width) if encoder == "r50-vit-b16" else None
        self.embedding = PatchEmbedding(
            in_channels if self.resnet is None else self.resnet.widths[-1],
            width,
            patch=SIZE_STEP if self.resnet is None else 1,
            grid=image_size // SIZE_STEP,
            dropout=dropout,
        )
        self.layers = nn.ModuleList(
            TransformerBlock(
                width,
                num_heads=num_heads,
                dropout=dropout,
                activate_output=False,
                hidden=hidden,
                norm_eps=NORM_EPS,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.entrance = ConvNormReLU(width, decoder_width, bias=False)
        skips = (0, 0, 0, 0) if self.resnet is None else (*reversed(self.resnet.widths[:-1]), 0)
        widths = tuple(decoder_width // factor for factor in (1, 2, 4, 8, 32))
        self.decoders = nn.ModuleList(
            nn.Sequential(
                ConvNormReLU(before + skip, after, bias=False),
                ConvNormReLU(after, after, bias=False),
            )
            for before, after, skip in zip(widths, widths[1:], skips, strict=False)
        )
        self.head = nn.Conv2d(widths[-1], num_classes, 3, padding=1)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Output:
        """Return logits (B, num_classes, H, W)."""
        check_size(image.shape[-2], image.shape[-1], SIZE_STEP)
        if image.shape[1] == 1 and self.in_channels > 1:
            image = image.expand(-1, self.in_channels, -1, -1)
        features, skips = (image, []) if self.resnet is None else self.resnet(image)
        embedded = self.embedding(features)
        tokens = as_tokens(embedded)
        for layer in self.layers:
            tokens = layer(tokens)
        decoded = self.entrance(as_map(self.norm(tokens), embedded.shape[-2:]))
        for step, convolutions in enumerate(self.decoders):
            decoded = functional.interpolate(decoded, scale_factor=2.0, mode="bilinear", align_corners=True)
            if step < len(skips):
                decoded = torch.cat([decoded, skips[step]], dim=1)
            decoded = convolutions(decoded)
        return Output(self.head(decoded))


class ResNet(nn.Module):
    """The ResNet-50 of TransUNet: group norms, standardised weights, three stages.

    Returns the features (B, 16 · width, H/16, W/16) and three skips, coarsest first: (B, 8 · width, H/8, W/8),
    (B, 4 · width, H/4, W/4) and (B, width, H/2, W/2).
    """

    def __init__(self, *, in_channels: int, width: int) -> None:
        super().__init__()
        self.widths = (width, 4 * width, 8 * width, 16 * width)
        self.root = StandardisedConvolution(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.root_norm = _group_norm(width)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Bottleneck(
                        before if unit == 0 else after,
                        inner=after // 4,
                        out_channels=after,
                        stride=2 if stage and not unit else 1,
                    )
                    for unit in range(units)
                )
            )
            for stage, (units, before, after) in enumerate(zip(UNITS, self.widths, self.widths[1:], strict=False))
        )

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features and the skips."""
        height, width = image.shape[-2:]
        features = functional.relu(self.root_norm(self.root(image)))
        skips = [features]
        features = functional.max_pool2d(features, 3, stride=2)
        for number, stage in enumerate(self.stages):
            features = stage(features)
            if number + 1 < len(self.stages):
                skips.insert(0, _filled_up(features, height >> (number + 2), width >> (number + 2)))
        return features, skips


class Bottleneck(nn.Module):
    """Three convolutions, narrow inside, each behind which norm and ReLU follow, with a shortcut around them."""

    def __init__(self, in_channels: int, *, inner: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            (
                StandardisedConvolution(in_channels, inner, 1, bias=False),
                StandardisedConvolution(inner, inner, 3, stride=stride, padding=1, bias=False),
                StandardisedConvolution(inner, out_channels, 1, bias=False),
            )
        )
        self.norms = nn.ModuleList(_group_norm(width) for width in (inner, inner, out_channels))
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = (
            StandardisedConvolution(in_channels, out_channels, 1, stride=stride, bias=False) if changes else None
        )
        self.shortcut_norm = nn.GroupNorm(out_channels, out_channels, eps=1e-5) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """Return the features (B, out_channels, H / stride, W / stride)."""
        around = features
        if self.shortcut is not None and self.shortcut_norm is not None:
            around = self.shortcut_norm(self.shortcut(features))
        last = len(self.convolutions) - 1
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            features = norm(convolution(features))
            features = functional.relu(features + around if number == last else features)
        return features


class StandardisedConvolution(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1 for each of its outputs; the raw ones are stored."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the convolved features."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return functional.conv2d(features, weight, None, self.stride, self.padding)


def _group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(MOST_GROUPS, width), width, eps=NORM_EPS)


def _filled_up(features: Tensor, height: int, width: int) -> Tensor:
    """Return the features in the upper left corner of a map of zeros of the given size."""
    below, right = height - features.shape[-2], width - features.shape[-1]
    assert 0 <= below < 3
    assert 0 <= right < 3
    return functional.pad(features, (0, right, 0, below)) if below or right else features
