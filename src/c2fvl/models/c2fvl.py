"""C2FVL: a U-Net whose skip connections pass transformers, a gate by report attributes and a pixel-wise alignment.

Shan et al., "Coarse-to-Fine Covid-19 Segmentation via Vision-Language Alignment", ICASSP 2023, arXiv 2303.00279.

Deviations from the published code, none of which changes its output:
- the 40 % of its parameters that receive no gradient are left out (`docs/explanation.md` lists them);
- tokens and gates are projected before they are upsampled: nearest upsampling commutes with a 1×1 convolution, a
  batch norm and a ReLU, so the result is the same for less work. In training, only the running variance of these
  four norms differs, by the factor (n − 1)/n of its unbiased estimate;
- any image side divisible by 16 works; the position embedding is resized where the grid differs from its own;
- an image may have no report: its gate is one everywhere.
The correction of the attribute gate is an option (`gate="bounded"`); the default is what was published.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.layers.blocks import ConvNormReLU, SkipFusion, UNetEncoder, add_upsampled, upsample_nearest
from c2fvl.models.layers.cpu_gradients import average_and_maximum
from c2fvl.models.layers.folded import FoldedPixelGate
from c2fvl.models.layers.transformer import TransformerBranch
from c2fvl.models.output import Output, check_positive, check_size, check_text

NUM_ATTRIBUTES = 8
COUNT_INDEX = 1
SIZE_STEP = 16
NUM_SCALES = 4


class C2FVL(nn.Module):
    """The network of C2FVL.

    image (B, in_channels, H, W) in [0, 1], H and W divisible by 16; text (B, 1, 8): bilateral, number, then left
    upper, middle, lower and right upper, middle, lower zone as seen in the image. A row of NaN is an image without a
    report, and so is `text=None` for the whole batch. Returns logits (B, num_classes, H, W), and four side maps in
    `aux`.

    Raises `ValueError` for a base width that its eight heads do not divide and for inputs of a wrong shape.
    """

    TEXT = "attributes"
    UNET_HEAD = "heads.0."
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
        gate: str = "published",
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, base_width=base_width, num_heads=num_heads)
        if base_width % num_heads or base_width % NUM_ATTRIBUTES:
            step = NUM_ATTRIBUTES * num_heads // NUM_ATTRIBUTES
            raise ValueError(
                f"base_width is {base_width}; it must be a multiple of num_heads ({num_heads}) and of 8, "
                f"such as {max(step, 8)}"
            )
        if gate not in GATES:
            raise ValueError(f"gate is {gate!r}; known are {', '.join(GATES)}")
        check_size(image_size, image_size, SIZE_STEP)
        self.num_classes = num_classes
        self.returns_side_maps = True
        """Only a loss reads them; the inference form leaves them out."""
        self.encoder = UNetEncoder(in_channels=in_channels, base_width=base_width)
        widths = self.encoder.widths[:NUM_SCALES]
        self.branches = nn.ModuleList(
            TransformerBranch(
                width=width,
                patch=SIZE_STEP >> scale,
                grid=image_size // SIZE_STEP,
                num_heads=num_heads,
                dropout=dropout,
                join_previous=scale > 0,
            )
            for scale, width in enumerate(widths)
        )
        self.reconstructions = nn.ModuleList(ConvNormReLU(width, width, kernel_size=1) for width in widths)
        self.gates = nn.ModuleList(GATES[gate](width) for width in widths)
        self.decoders = nn.ModuleList(
            Decoder(width, out_channels=widths[max(scale - 1, 0)]) for scale, width in enumerate(widths)
        )
        # The first head makes the output and the finest side map; each of the others makes one coarser side map.
        self.heads = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Output:
        """Return logits (B, num_classes, H, W) and the side maps, finest first, each (B, num_classes, H, W)."""
        height, width = image.shape[-2:]
        check_size(height, width, SIZE_STEP)
        attributes, known = self._attributes(image, text)
        features = self.encoder(image)

        tokens: Tensor | None = None
        skips = []  # used maps are dropped at once, so that without gradients their memory is free again
        for scale in range(NUM_SCALES):
            tokens = self.branches[scale](features[0], tokens)
            restored = self.reconstructions[scale](tokens)
            gate = self.gates[scale](attributes, known)
            skips.append(add_upsampled(features.pop(0), restored, SIZE_STEP >> scale, gate))

        decoded = features.pop()
        aligned: list[Tensor] = []
        for scale in reversed(range(NUM_SCALES)):
            decoded, gated = self.decoders[scale](decoded, skips.pop())
            if self.returns_side_maps:
                aligned.insert(0, gated)
            del gated
        logits = self.heads[0](decoded)
        if not self.returns_side_maps:
            return Output(logits)
        return Output(
            logits,
            tuple(upsample_nearest(self.heads[scale](aligned[scale]), 1 << scale) for scale in range(NUM_SCALES)),
        )

    def _attributes(self, image: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the attributes (B, 8) with ones where there is no report, and which images have one (B, 1)."""
        if text is None:
            ones = image.new_ones(image.shape[0], NUM_ATTRIBUTES)
            return ones, torch.zeros_like(ones[:, :1])
        check_text(text, image.shape[0], 1, NUM_ATTRIBUTES)
        attributes = text[:, 0].to(image.dtype)
        missing = attributes.isnan().any(dim=1, keepdim=True)
        return torch.where(missing, torch.ones_like(attributes), attributes), (~missing).to(image.dtype)


class PublishedGate(nn.Module):
    """Channel c of a skip is multiplied by the raw attribute number c mod 8: (B, 8) → (B, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.repeats = width // NUM_ATTRIBUTES

    def forward(self, attributes: Tensor, known: Tensor) -> Tensor:
        """Return the factors; where no report is known the attributes are ones, which change nothing."""
        return attributes.repeat(1, self.repeats)


class BoundedGate(nn.Module):
    """A learned gate in (0, 2), 1 + tanh(linear(attributes)): (B, 8) → (B, C). It starts as the identity.

    The count enters as log(1 + count), so that ten lesions do not dominate the zones. Where no report is
    known the gate is exactly one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(NUM_ATTRIBUTES, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, attributes: Tensor, known: Tensor) -> Tensor:
        """Return the factors for attributes (B, 8) and known (B, 1)."""
        count = attributes[:, COUNT_INDEX : COUNT_INDEX + 1].log1p()
        attributes = torch.cat([attributes[:, :COUNT_INDEX], count, attributes[:, COUNT_INDEX + 1 :]], dim=1)
        return 1 + known * self.linear(attributes).tanh()


GATES = {"published": PublishedGate, "bounded": BoundedGate}


class PixelAlignment(nn.Module):
    """Pixel-level vision-language alignment: each pixel of a skip connection gets one learned, unbounded factor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.average_convolution = nn.Conv2d(width, width, 1, bias=False)
        self.average_linear = nn.Conv2d(width, width, 1)
        self.maximum_convolution = nn.Conv2d(width, width, 1, bias=False)
        self.maximum_linear = nn.Conv2d(width, width, 1)
        self.bottleneck = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, skip: Tensor) -> Tensor:
        """Return the gated skip (B, C, H, W)."""
        average, maximum = average_and_maximum(functional.conv2d(skip, *self.merged()))
        return self.bottleneck(average + maximum) * skip

    def for_inference(self) -> FoldedPixelGate:
        """Return the gate with its convolutions merged."""
        return FoldedPixelGate(*self.merged(), self.bottleneck, keeps_both=False)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of one convolution (C → 2C) that equals the two of each branch, applied in turn."""
        pairs = (
            (self.average_convolution, self.average_linear),
            (self.maximum_convolution, self.maximum_linear),
        )
        weight = torch.cat([last.weight.flatten(1) @ first.weight.flatten(1) for first, last in pairs])
        bias = torch.cat([last.bias for _, last in pairs if last.bias is not None])
        return weight[:, :, None, None], bias


class Decoder(nn.Module):
    """One step up: gate the skip connection, fuse it with the upsampled coarser map, convolve twice."""

    def __init__(self, width: int, *, out_channels: int) -> None:
        super().__init__()
        self.alignment = PixelAlignment(width)
        self.convolutions = SkipFusion(width, width, out_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoded map (B, out_channels, H, W) and the gated skip (B, width, H, W)."""
        aligned = self.alignment(skip)
        return self.convolutions(coarse, aligned), aligned
