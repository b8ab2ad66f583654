"""LViT: a U-Net whose skip connections pass a U-shaped stack of transformers that reads the words of a report.

Li et al., "LViT: Language meets Vision Transformer in Medical Image Segmentation", IEEE TMI 2023, arXiv 2206.14718
(the tiny variant, as published).

Deviations from the published code, none of which changes its output:
- the quarter of its parameters that receive no gradient is left out;
- tokens are projected before they are upsampled, as in `c2fvl.py`;
- any image side divisible by 16 works: positions, and the text on the patches, are resized where the grid differs
  from the built one;
- an image may have no report, also beside others in a batch: nothing is added to its patches, as in the published
  network without text. In training, the batch norm of the text sees only the images with a report.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.layers.blocks import ConvNormReLU, SkipFusion, UNetEncoder, add_upsampled
from c2fvl.models.layers.cpu_gradients import average_and_maximum
from c2fvl.models.layers.folded import FoldedPixelGate
from c2fvl.models.layers.transformer import TokenReduction, TransformerBlock, TransformerBranch, as_map, as_tokens
from c2fvl.models.output import Output, check_positive, check_size, check_text

SIZE_STEP = 16
NUM_SCALES = 4
NUM_SPECIAL_WORDS = 2
"""Indices before the first word: 0 for no word, 1 for an unknown one."""


class LViT(nn.Module):
    """The network of LViT.

    image (B, in_channels, H, W) in [0, 1], H and W divisible by 16; text (B, text_tokens, text_features), the features
    that a language model gives to the first tokens of each report. With `vocabulary_size` words the network learns
    the features, and text is (B, text_tokens, 1), word indices: 0 for none, 1 for an unknown one, then the words.
    NaN is an image without a report, and so is `text=None` for the whole batch. `text_tokens=0` builds the published
    variant without text, which ignores any. Returns logits (B, num_classes, H, W).

    Raises `ValueError` for a base width that its heads do not divide and for inputs of a wrong shape.
    """

    TEXT = "sentence"
    UNET_HEAD = "head."
    """Where the head of a U-Net goes that this network starts from."""

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        base_width: int = 64,
        image_size: int = 224,
        num_heads: int = 8,
        dropout: float = 0.1,
        text_tokens: int = 10,
        text_features: int = 768,
        vocabulary_size: int = 0,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, base_width=base_width, num_heads=num_heads)
        if base_width % num_heads:
            raise ValueError(f"base_width is {base_width}; it must be a multiple of num_heads ({num_heads})")
        if text_tokens < 0 or text_features < 1 or vocabulary_size < 0:
            raise ValueError("text_tokens and vocabulary_size must be 0 or more, text_features 1 or more")
        check_size(image_size, image_size, SIZE_STEP)
        self.encoder = UNetEncoder(in_channels=in_channels, base_width=base_width)
        widths = self.encoder.widths[:NUM_SCALES]
        grid = image_size // SIZE_STEP
        self.text = (
            TextOverPatches(
                tokens=text_tokens, features=text_features, widths=widths, grid=grid, vocabulary_size=vocabulary_size
            )
            if text_tokens
            else None
        )
        self.branches = nn.ModuleList(
            TransformerBranch(
                width=width,
                patch=SIZE_STEP >> scale,
                grid=grid,
                num_heads=num_heads,
                dropout=dropout,
                join_previous=scale > 0,
            )
            for scale, width in enumerate(widths)
        )
        # From the coarsest scale back to the finest; the coarsest has nothing to reduce.
        self.return_blocks = nn.ModuleList(
            TransformerBlock(width, num_heads=num_heads, dropout=dropout, activate_output=True) for width in widths
        )
        self.return_reductions = nn.ModuleList(TokenReduction(2 * width) for width in widths[:-1])
        self.reconstructions = nn.ModuleList(ConvNormReLU(width, width, kernel_size=1) for width in widths)
        self.decoders = nn.ModuleList(
            Decoder(width, out_channels=widths[max(scale - 1, 0)]) for scale, width in enumerate(widths)
        )
        self.head = nn.Conv2d(base_width, num_classes, 1)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Output:
        """Return logits (B, num_classes, H, W)."""
        height, width = image.shape[-2:]
        check_size(height, width, SIZE_STEP)
        features = self.encoder(image)
        grid = torch.Size((height // SIZE_STEP, width // SIZE_STEP))
        over_patches = None if self.text is None or text is None else self.text(text, image, grid)

        maps = [self.branches[0](features[0], added=over_patches)]
        for scale in range(1, NUM_SCALES):
            maps.append(self.branches[scale](features[scale], maps[-1]))

        decoded = features[NUM_SCALES]
        tokens: Tensor | None = None
        skips: list[Tensor] = []
        for scale in reversed(range(NUM_SCALES)):
            own = self.return_blocks[scale](as_tokens(maps[scale])).transpose(1, 2)  # (B, C, T)
            tokens = own if tokens is None else own + self.return_reductions[scale](tokens)
            restored = self.reconstructions[scale](as_map(tokens.transpose(1, 2), grid))
            skips.insert(0, add_upsampled(features[scale], restored, SIZE_STEP >> scale))
        for scale in reversed(range(NUM_SCALES)):
            decoded = self.decoders[scale](decoded, skips[scale])
        return Output(self.head(decoded))


class TextOverPatches(nn.Module):
    """The tokens of a report → a map that is added to the patches of the finest transformer.

    Convolutions along the tokens narrow their features scale by scale to the finest width. One more convolution, whose
    channels are the tokens, makes one feature vector for each patch.
    """

    def __init__(self, *, tokens: int, features: int, widths: tuple[int, ...], grid: int, vocabulary_size: int) -> None:
        super().__init__()
        self.tokens, self.grid, self.width = tokens, grid, widths[0]
        self.num_numbers = 1 if vocabulary_size else features
        self.words = WordEmbedding(vocabulary_size, tokens, features) if vocabulary_size else None
        # By scale; the coarsest is used first.
        self.projections = nn.ModuleList(
            nn.Conv1d(wider, width, 3, padding=1) for width, wider in zip(widths, (*widths[1:], features), strict=True)
        )
        self.spread = nn.Conv1d(tokens, grid * grid, 3, padding=1)
        self.norm = nn.BatchNorm1d(grid * grid)

    def forward(self, text: Tensor, image: Tensor, grid: torch.Size) -> Tensor:
        """Return the map (B, C, h, w) of text (B, tokens, numbers); zeros for an image without a report."""
        check_text(text, image.shape[0], self.tokens, self.num_numbers)
        known = ~text.isnan().flatten(1).any(dim=1)
        spread = self._over_patches(text.nan_to_num(0.0), known)
        over_patches = torch.where(known[:, None, None, None], spread, torch.zeros_like(spread))
        if over_patches.shape[-2:] == grid:
            return over_patches
        return functional.interpolate(over_patches, size=grid, mode="bilinear", align_corners=False)

    def _over_patches(self, text: Tensor, known: Tensor) -> Tensor:
        features = (text if self.words is None else self.words(text)).transpose(1, 2)  # (B, features, tokens)
        for projection in reversed(self.projections):
            features = projection(features)
        spread = self.spread(features.transpose(1, 2))  # (B, patches, C)
        normal = _norm_of_known(self.norm, spread, known) if self.training else self.norm(spread)
        return as_map(functional.relu(normal), torch.Size((self.grid, self.grid)))


def _norm_of_known(norm: nn.BatchNorm1d, values: Tensor, known: Tensor) -> Tensor:
    """Return (B, N, C) normalised as in training, by the statistics of the rows `known` (B,) alone.

    Missing reports change no statistics. How many there are is never asked, so that a GPU is not waited for.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    weights, exact = known.float()[:, None, None], values.float()
    count = weights.sum() * values.shape[2]
    mean = (exact * weights).sum((0, 2)) / count.clamp(min=1)
    centred = exact - mean[:, None]
    variance = (centred.square() * weights).sum((0, 2)) / count.clamp(min=1)
    with torch.no_grad():
        step = norm.momentum * (count > 0).float()
        norm.running_mean.lerp_(mean, step)
        norm.running_var.lerp_(variance * count / (count - 1).clamp(min=1), step)
        norm.num_batches_tracked += (count > 0).long()
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return (centred * scale[:, None] + norm.bias[:, None]).to(values.dtype)


class WordEmbedding(nn.Module):
    """Learned features of words and positions: (B, tokens, 1) word indices → (B, tokens, features)."""

    def __init__(self, vocabulary_size: int, tokens: int, features: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary_size + NUM_SPECIAL_WORDS, features)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, features))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the features."""
        return self.table(numbers[..., 0].long()) + self.position


class PixelAttention(nn.Module):
    """Each pixel of a skip connection gets one learned, unbounded factor, from the mean and maximum over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.average_convolution = nn.Conv2d(width, width, 1, bias=False)
        self.maximum_convolution = nn.Conv2d(width, width, 1, bias=False)
        self.bottleneck = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1))

    def forward(self, skip: Tensor) -> Tensor:
        """Return the gated skip (B, C, H, W)."""
        average, maximum = average_and_maximum(functional.conv2d(skip, self.merged()))
        return self.bottleneck(torch.cat([average, maximum, average + maximum], dim=1)) * skip

    def for_inference(self) -> FoldedPixelGate:
        """Return the gate with its convolutions merged."""
        return FoldedPixelGate(self.merged(), None, self.bottleneck, keeps_both=True)

    def merged(self) -> Tensor:
        """Return the weight of one convolution (C → 2C) that equals both branches."""
        return torch.cat([self.average_convolution.weight, self.maximum_convolution.weight])


class Decoder(nn.Module):
    """One step up: gate the skip connection, fuse it with the upsampled coarser map, convolve twice."""

    def __init__(self, width: int, *, out_channels: int) -> None:
        super().__init__()
        self.attention = PixelAttention(width)
        self.convolutions = SkipFusion(width, width, out_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return the decoded map (B, out_channels, H, W)."""
        return self.convolutions(coarse, self.attention(skip))
