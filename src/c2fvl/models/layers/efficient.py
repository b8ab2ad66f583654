"""The encoders of EfficientNet-Lite 0 to 2: inverted bottlenecks with depthwise convolutions, for small machines.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, in its Lite form:
no squeeze-and-excitation, ReLU6 for swish. Stages, widths and kernels are those of the published weights, so that a
network can start from them (`init.efficientnet_lite`); the last stage and the classifier are left out. Convolutions
pad all borders alike, where the published ones pad one pixel more at the right and at the bottom, so the maps are
shifted by that pixel.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from c2fvl.models.layers.folded import Convolution

STEM_WIDTH = 32
STAGES = (
    # kernel, stride, expansion, width, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
)
"""Of Lite0; the others have wider stages of more blocks."""
VARIANTS = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""How much wider and deeper than Lite0 each variant is."""
NORM_EPSILON = 1e-3
PUBLISHED_STEM = {"stem": "_conv_stem", "stem_norm": "_bn0"}
PUBLISHED_BLOCK = {
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}
"""Our layers and their names in the package `efficientnet_lite_pytorch`."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the images that the published weights were trained on."""


def stages_of(variant: int) -> tuple[tuple[int, int, int, int, int], ...]:
    """Return (kernel, stride, expansion, width, blocks) of each stage; stem and first stage never have more blocks."""
    wider, deeper = VARIANTS[variant]
    return tuple(
        (kernel, stride, expansion, _in_eights(width * wider), math.ceil(blocks * deeper) if index else blocks)
        for index, (kernel, stride, expansion, width, blocks) in enumerate(STAGES)
    )


def _in_eights(width: float) -> int:
    """Return the nearest multiple of 8 that is at least nine tenths of the width."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class EfficientEncoder(nn.Module):
    """image (B, in_channels, H, W) in [0, 1] → maps at strides 2, 4, 8, 16 and 32; H and W divisible by 32.

    In training each block but the first of a stage is left out, image by image, with a probability that grows from 0 to
    `drop_path` with depth (Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, in_channels: int = 3, *, variant: int = 0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.variant = variant
        shapes = stages_of(variant)
        *_, before_last, last = widths = [width for *_, width, _ in shapes]
        self.widths = (*widths[:3], before_last, last)
        self.strides = tuple(stride for _, stride, *_ in shapes)
        num_blocks = sum(blocks for *_, blocks in shapes)
        for name, values in (("mean", MEAN), ("std", STD)):
            of_channels = values if in_channels == len(values) else [sum(values) / len(values)] * in_channels
            self.register_buffer(name, torch.tensor(of_channels)[:, None, None], persistent=False)
        self.stem = nn.Conv2d(in_channels, STEM_WIDTH, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(STEM_WIDTH, eps=NORM_EPSILON)
        self.stages = nn.ModuleList()
        width = STEM_WIDTH
        before = 0
        for kernel, stride, expansion, out, blocks in shapes:
            self.stages.append(
                nn.Sequential(
                    *(
                        InvertedBottleneck(
                            out if index else width, out, kernel=kernel, stride=1 if index else stride,
                            expansion=expansion, drop=drop_path * (before + index) / num_blocks,
                        )
                        for index in range(blocks)
                    )
                )
            )  # fmt: skip
            width, before = out, before + blocks

    def published_name(self, key: str) -> str:
        """Return the name that a weight of the state dict has in the package `efficientnet_lite_pytorch`."""
        part, _, kind = key.rpartition(".")
        if part in PUBLISHED_STEM:
            return f"{PUBLISHED_STEM[part]}.{kind}"
        _, stage, block, layer = part.split(".")
        before = sum(blocks for *_, blocks in stages_of(self.variant)[: int(stage)])
        return f"_blocks.{before + int(block)}.{PUBLISHED_BLOCK[layer]}.{kind}"

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the five maps, finest first."""
        image = (image - self.mean) / self.std
        features = functional.relu6(self.stem_norm(self.stem(image)), inplace=True)
        maps = []
        for stride, stage in zip(self.strides, self.stages, strict=True):
            if stride == 2:
                maps.append(features)
            features = stage(features)
        return [*maps, features]


class InvertedBottleneck(nn.Module):
    """Expansion by 1 × 1, depthwise convolution, projection by 1 × 1; added to the input where shapes agree.

    `drop` is the probability that, in training, an image skips the block.
    """

    def __init__(self, width: int, out: int, *, kernel: int, stride: int, expansion: int, drop: float = 0.0) -> None:
        super().__init__()
        inner = width * expansion
        self.adds = stride == 1 and width == out
        self.drop = drop
        self.expand: nn.Module = nn.Conv2d(width, inner, 1, bias=False) if expansion > 1 else nn.Identity()
        self.expand_norm: nn.Module = nn.BatchNorm2d(inner, eps=NORM_EPSILON) if expansion > 1 else nn.Identity()
        self.depthwise = nn.Conv2d(inner, inner, kernel, stride=stride, padding=kernel // 2, groups=inner, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(inner, eps=NORM_EPSILON)
        self.project = nn.Conv2d(inner, out, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(out, eps=NORM_EPSILON)

    def forward(self, features: Tensor) -> Tensor:
        """Return the map (B, out, H / stride, W / stride)."""
        widened = features
        if not isinstance(self.expand, nn.Identity):
            widened = functional.relu6(self.expand_norm(self.expand(features)), inplace=True)
        widened = functional.relu6(self.depthwise_norm(self.depthwise(widened)), inplace=True)
        narrowed = self.project_norm(self.project(widened))
        if not self.adds:
            return narrowed
        if self.training and self.drop:
            keeps = torch.rand(len(narrowed), 1, 1, 1, device=narrowed.device) >= self.drop
            narrowed = narrowed * (keeps / (1 - self.drop)).to(narrowed.dtype)
        return features + narrowed

    def for_inference(self) -> "FoldedBottleneck":
        """Return the block with its norms folded in."""
        expand = None if isinstance(self.expand, nn.Identity) else _folded(self.expand, self.expand_norm, "relu6")
        return FoldedBottleneck(
            expand,
            _folded(self.depthwise, self.depthwise_norm, "relu6"),
            _folded(self.project, self.project_norm, "none"),
            adds=self.adds,
        )


class FoldedBottleneck(nn.Module):
    """An inverted bottleneck whose convolutions hold their norms and activations."""

    def __init__(self, expand: Convolution | None, depthwise: Convolution, project: Convolution, *, adds: bool) -> None:
        super().__init__()
        self.expand, self.depthwise, self.project, self.adds = expand, depthwise, project, adds

    def forward(self, features: Tensor) -> Tensor:
        """Return the map (B, out, H / stride, W / stride)."""
        widened = features if self.expand is None else self.expand(features)
        return self.project(self.depthwise(widened), features if self.adds else None)


def _folded(convolution: nn.Module, norm: nn.Module, activation: str) -> Convolution:
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    fused = fuse_conv_bn_eval(convolution, norm)
    return Convolution.of(fused, fused.weight, activation=activation)
