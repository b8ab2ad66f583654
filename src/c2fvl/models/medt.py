"""MedT and its family: networks of axial attention, with one branch or with a global and a local one.

Valanarasu et al., "Medical Transformer: Gated Axial-Attention for Medical Image Segmentation", MICCAI 2021,
arXiv 2102.10662.

| name | branches | global attention | local attention |
|---|---|---|---|
| axialunet | one | positional | - |
| gatedaxialunet | one | gated positional | - |
| logo | two | positional | positional |
| medt | two | gated positional | plain |

Deviations from the published code, none of which changes its output at the published size of 128: parameters that
nothing reads and stored tables of indices are left out; the local patches are a fourth of any image, not 32 pixels, and
maps with odd sides are upsampled to the size of their skip connection, so that 224 works; another size than the built
one is an error, where the published MedT silently doubles the features of what its patches do not cover.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.layers.axial_attention import AxialBranch
from c2fvl.models.output import Output, check_positive

PATCHES_PER_SIDE = 4
PATCH_STATISTICS = ("position", "batch")
SINGLE_STEP = 32
PATCH_STEP = 4
SMALLEST_PAIR = 80
"""Below, the deepest map of a patch would be a single pixel, which cannot be halved."""


class AxialUNet(nn.Module):
    """The network with one branch of positional axial attention.

    image (B, in_channels, S, S) in [0, 1] with S = image_size, which must be a multiple of 32; it reads no text.
    Returns logits (B, num_classes, S, S). Raises `ValueError` for an image of another size.
    """

    TEXT = "none"
    attention = "positional"

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 2, image_size: int = 128, base_width: int = 8, groups: int = 8
    ) -> None:
        super().__init__()
        _check_built(image_size, SINGLE_STEP, SINGLE_STEP, base_width, groups)
        self.image_size = image_size
        self.branch = AxialBranch(
            in_channels=in_channels,
            base_width=base_width,
            stem_width=base_width,
            side=image_size,
            kind=self.attention,
            groups=groups,
        )
        self.head = nn.Conv2d(2 * base_width, num_classes, 1)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Output:
        """Return logits (B, num_classes, S, S)."""
        _check_size(image, self.image_size)
        return Output(self.head(self.branch(image)))


class GatedAxialUNet(AxialUNet):
    """The network with one branch of gated positional axial attention; see `AxialUNet`.

    By the published recipe its gates, parameters named gate_…, do not learn before the twelfth epoch.
    """

    attention = "gated"

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 2, image_size: int = 128, base_width: int = 8, groups: int = 8
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            image_size=image_size,
            base_width=base_width,
            groups=groups,
        )


class MedT(nn.Module):
    """The network with a shallow branch on the whole image and a deep one on its sixteen patches.

    image (B, in_channels, S, S) in [0, 1] with S = image_size, a multiple of 16 from 80 on; it reads no text.
    Returns logits (B, num_classes, S, S). Raises `ValueError` for an image of another size.

    `patch_statistics` says how the patches go through the local branch in training: "position", as published, one
    position after the other, so that batch norms see one position at a time and update their running statistics
    sixteen times; or "batch", all at once. In eval mode both give the same, and all patches go at once.
    """

    TEXT = "none"
    global_attention, local_attention = "gated", "plain"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 2,
        image_size: int = 128,
        base_width: int = 8,
        groups: int = 8,
        patch_statistics: str = "position",
    ) -> None:
        super().__init__()
        _check_built(image_size, PATCHES_PER_SIDE * PATCH_STEP, SMALLEST_PAIR, base_width, groups)
        if patch_statistics not in PATCH_STATISTICS:
            raise ValueError(f"patch_statistics is {patch_statistics!r}; known are {', '.join(PATCH_STATISTICS)}")
        self.image_size, self.patch_statistics = image_size, patch_statistics
        self.global_branch = AxialBranch(
            in_channels=in_channels,
            base_width=base_width,
            stem_width=base_width,
            side=image_size,
            kind=self.global_attention,
            groups=groups,
            num_stages=2,
        )
        self.local_branch = AxialBranch(
            in_channels=in_channels,
            base_width=base_width,
            stem_width=8 * base_width,
            side=image_size // PATCHES_PER_SIDE,
            kind=self.local_attention,
            groups=groups,
        )
        self.fusion = nn.Conv2d(2 * base_width, 2 * base_width, 3, padding=1)
        self.head = nn.Conv2d(2 * base_width, num_classes, 1)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Output:
        """Return logits (B, num_classes, S, S)."""
        _check_size(image, self.image_size)
        fused = self.fusion(self.global_branch(image) + self._local(image))
        return Output(self.head(functional.relu(fused)))

    def _local(self, image: Tensor) -> Tensor:
        """Return the local features of all patches, each at its position."""
        side = self.image_size // PATCHES_PER_SIDE
        # (positions, B, in, side, side), row by row
        patches = image.unflatten(3, (PATCHES_PER_SIDE, side)).unflatten(2, (PATCHES_PER_SIDE, side))
        patches = patches.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
        if self.training and self.patch_statistics == "position":
            found = torch.stack([self.local_branch(patch) for patch in patches])
        else:
            found = self.local_branch(patches.flatten(0, 1)).unflatten(0, (len(patches), -1))
        grid = found.unflatten(0, (PATCHES_PER_SIDE, PATCHES_PER_SIDE)).permute(2, 3, 0, 4, 1, 5)
        return grid.flatten(4, 5).flatten(2, 3)


class LoGo(MedT):
    """The network with two branches and positions, but no gates, in both; see `MedT`."""

    global_attention, local_attention = "positional", "positional"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 2,
        image_size: int = 128,
        base_width: int = 8,
        groups: int = 8,
        patch_statistics: str = "position",
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            image_size=image_size,
            base_width=base_width,
            groups=groups,
            patch_statistics=patch_statistics,
        )


def _check_built(image_size: int, step: int, minimum: int, base_width: int, groups: int) -> None:
    check_positive(base_width=base_width, groups=groups)
    if image_size < minimum or image_size % step:
        nearest = max(minimum, round(image_size / step) * step)
        raise ValueError(
            f"image_size is {image_size}; it must be a multiple of {step} from {minimum} on, such as {nearest}"
        )
    if base_width % groups:
        raise ValueError(f"base_width is {base_width}; it must be a multiple of groups ({groups})")


def _check_size(image: Tensor, side: int) -> None:
    height, width = image.shape[-2:]
    if (height, width) != (side, side):
        raise ValueError(
            f"the image is {height}×{width} (height × width); its positions are learned for "
            f"{side}×{side}; set data.image_size={side}, or model.arguments.image_size to the size of the image"
        )
