"""TransUNet: a residual network, a vision transformer on its coarsest map, and a decoder with skip connections.

Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", 2021, arXiv 2102.04306.
Both published encoders are here: R50-ViT-B/16, and ViT-B/16 on the image itself, without skip connections.

Deviations from the published code, none of which changes its output:
- query, key and value are one projection;
- any image sides divisible by 16 work; positions are resized where the grid differs from their own;
- widths and depths are arguments. A network too narrow for 32 groups per norm has as many groups as its stem has
  channels.
As published, max pooling after the stem has no padding, so the first stage is one row and one column short of a
quarter of the image; its skip connection is padded with zeros at the bottom and at the right.
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.layers.blocks import ConvNormReLU, conv_stack
from c2fvl.models.layers.folded import Convolution
from c2fvl.models.layers.transformer import PatchEmbedding, TransformerBlock, as_map, as_tokens
from c2fvl.models.output import Output, check_positive, check_size

SIZE_STEP = 16
ENCODERS = ("r50-vit-b16", "vit-b16")
NUM_STAGES = 3
NUM_DECODERS = 4
MAX_GROUPS = 32
EXPANSION = 4
MAX_GAP = 3
NORM_EPS = 1e-6


class TransUNet(nn.Module):
    """The network of TransUNet.

    image (B, in_channels, H, W) in [0, 1], H and W divisible by 16; one channel is repeated where the network reads
    more. `text` is ignored. Returns logits (B, num_classes, H, W).

    `encoder` is "r50-vit-b16" or "vit-b16"; the latter has no residual network and ignores `stem_width` and
    `units`. `units` counts the residual units of the three stages; `width`, `num_layers`, `num_heads` and `hidden`
    describe the transformer, `neck_width` and `decoder_widths` the channels behind it. `image_size` decides how many
    positions are learned.

    Raises `ValueError` for arguments that do not go together and for images of a wrong size.
    """

    TEXT = "none"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 9,
        image_size: int = 224,
        encoder: str = "r50-vit-b16",
        stem_width: int = 64,
        units: Sequence[int] = (3, 4, 9),
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden: int = 3072,
        neck_width: int = 512,
        decoder_widths: Sequence[int] = (256, 128, 64, 16),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, stem_width=stem_width, units=units, width=width, num_heads=num_heads)
        check_positive(hidden=hidden, neck_width=neck_width, decoder_widths=decoder_widths)
        if encoder not in ENCODERS:
            raise ValueError(f"encoder is {encoder!r}; known are {', '.join(ENCODERS)}")
        if width % num_heads:
            raise ValueError(f"width is {width}; it must be a multiple of num_heads, such as {num_heads * 64}")
        for name, values, length in (("units", units, NUM_STAGES), ("decoder_widths", decoder_widths, NUM_DECODERS)):
            if len(values) != length:
                raise ValueError(f"{name} is {list(values)}; expected {length} numbers of at least 1")
        check_size(image_size, image_size, SIZE_STEP)
        self.in_channels = in_channels
        self.num_heads = num_heads
        self.num_classes = num_classes
        self.residual = None
        embedded_channels, patch = in_channels, SIZE_STEP
        skip_widths: tuple[int, ...] = ()
        if encoder == "r50-vit-b16":
            self.residual = ResidualEncoder(in_channels=in_channels, stem_width=stem_width, units=units)
            embedded_channels, patch = self.residual.out_channels, 1
            skip_widths = self.residual.skip_widths
        self.embedding = PatchEmbedding(
            embedded_channels, width, patch=patch, grid=image_size // SIZE_STEP, dropout=dropout
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(
                width, num_heads=num_heads, hidden=hidden, dropout=dropout, activate_output=False, norm_eps=NORM_EPS
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.neck = ConvNormReLU(width, neck_width, bias=False)
        self.decoders = nn.ModuleList(
            Decoder(before, skip, after)
            for before, skip, after in zip_longest(
                (neck_width, *decoder_widths[:-1]), skip_widths, decoder_widths, fillvalue=0
            )
        )
        self.head = nn.Conv2d(decoder_widths[-1], num_classes, 3, padding=1)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Output:
        """Return logits (B, num_classes, H, W)."""
        height, width = image.shape[-2:]
        check_size(height, width, SIZE_STEP)
        if image.shape[1] == 1:
            image = image.expand(-1, self.in_channels, -1, -1)
        features, skips = (image, []) if self.residual is None else self.residual(image)
        embedded = self.embedding(features)
        tokens = as_tokens(embedded)
        for block in self.blocks:
            tokens = block(tokens)
        decoded = self.neck(as_map(self.norm(tokens), embedded.shape[-2:]))
        for decoder, skip in zip_longest(self.decoders, skips):
            decoded = decoder(decoded, skip)
        return Output(self.head(decoded))


class StandardisedConvolution(nn.Conv2d):
    """Convolution without bias whose weights have mean 0 and variance 1 per output channel (arXiv 1903.10520)."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the convolved features; the stored weight stays as it is."""
        return self._conv_forward(features, self.standardised(), None)

    def for_inference(self) -> Convolution:
        """Return the convolution by the standardised weight."""
        return Convolution.of(self, self.standardised())

    def standardised(self) -> Tensor:
        """Return the weight that is convolved with."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        return (self.weight - mean) / (variance + 1e-5).sqrt()


class ResidualUnit(nn.Module):
    """Three convolutions, each with a group norm, beside a shortcut: (B, in, H, W) → (B, out, H / stride, W / stride).

    The sides are rounded up. Where the shape changes the shortcut is a convolution whose norm has one group per
    channel and PyTorch's own eps, as published.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, groups: int) -> None:
        super().__init__()
        middle = out_channels // EXPANSION
        self.convolutions = nn.ModuleList(
            [
                StandardisedConvolution(in_channels, middle, kernel_size=1),
                StandardisedConvolution(middle, middle, kernel_size=3, stride=stride),
                StandardisedConvolution(middle, out_channels, kernel_size=1),
            ]
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(groups, channels, eps=NORM_EPS) for channels in (middle, middle, out_channels)
        )
        self.shortcut: nn.Module = nn.Identity()
        self.shortcut_norm: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = StandardisedConvolution(in_channels, out_channels, kernel_size=1, stride=stride)
            self.shortcut_norm = nn.GroupNorm(out_channels, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return the activated sum."""
        shortcut = self.shortcut_norm(self.shortcut(features))
        last = len(self.convolutions) - 1
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            features = norm(convolution(features))
            features = functional.relu(features + shortcut if index == last else features)
        return features


class ResidualEncoder(nn.Module):
    """ResNet-50 with group norms and units as in BiT: image → map at a sixteenth of its size, and three skips.

    Its widths are stem_width × (4, 8, 16) after the stem.
    """

    def __init__(self, *, in_channels: int, stem_width: int, units: Sequence[int]) -> None:
        super().__init__()
        groups = min(MAX_GROUPS, stem_width)
        if stem_width % groups:
            raise ValueError(f"stem_width is {stem_width}; it must be below {MAX_GROUPS} or a multiple of it")
        widths = [stem_width * EXPANSION << stage for stage in range(NUM_STAGES)]
        self.out_channels = widths[-1]
        self.skip_widths = (*reversed(widths[:-1]), stem_width)
        self.stem = StandardisedConvolution(in_channels, stem_width, kernel_size=7, stride=2)
        self.stem_norm = nn.GroupNorm(groups, stem_width, eps=NORM_EPS)
        self.stages = nn.ModuleList()
        before = stem_width
        for stage, (width, count) in enumerate(zip(widths, units, strict=True)):
            first = ResidualUnit(before, width, stride=2 if stage else 1, groups=groups)
            others = (ResidualUnit(width, width, stride=1, groups=groups) for _ in range(count - 1))
            self.stages.append(nn.Sequential(first, *others))
            before = width

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the map (B, C, H / 16, W / 16) and the skips, coarsest first, at H / 8, H / 4 and H / 2."""
        height, width = image.shape[-2:]
        stem = functional.relu(self.stem_norm(self.stem(image)))
        skips = [stem]
        features = functional.max_pool2d(stem, 3, stride=2)
        for stage, module in enumerate(self.stages):
            features = module(features)
            skips.insert(0, _padded(features, height // (4 << stage), width // (4 << stage)))
        return features, skips[1:]


class Decoder(nn.Module):
    """One step up: upsample the coarser map, concatenate the skip connection if there is one, convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolutions = conv_stack(in_channels + skip_channels, out_channels, bias=False)

    def forward(self, coarse: Tensor, skip: Tensor | None) -> Tensor:
        """Return the decoded map: coarse (B, in, h, w) and skip (B, skip, 2h, 2w) → (B, out, 2h, 2w)."""
        upsampled = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=True)
        return self.convolutions(upsampled if skip is None else torch.cat([upsampled, skip], dim=1))


def _padded(features: Tensor, height: int, width: int) -> Tensor:
    """Return the map with zeros below and at the right: (B, C, h, w) → (B, C, height, width)."""
    gaps = (width - features.shape[3], height - features.shape[2])
    assert all(0 <= gap < MAX_GAP for gap in gaps), f"a skip of {tuple(features.shape)} for {height}×{width}"
    return functional.pad(features, (0, gaps[0], 0, gaps[1])) if any(gaps) else features
