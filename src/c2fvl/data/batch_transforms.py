"""The augmentations of `transforms`, applied to a whole batch on its device by tensor operations.

Shapes never depend on values, and nothing waits for the device, so that a CUDA graph can capture all of it. Images and
masks are gathered from the stored uint8 values, by one affine map per case that holds its turns, flips, rotation, scale
and shift.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from c2fvl.data.transforms import MAX_BLUR, Augmentation

BLUR_RADIUS = round(MAX_BLUR * 8 + 1) // 2
"""Pixels on each side that the widest blur reads, by the rule of `cv2.GaussianBlur` for floating-point images."""


@dataclass(frozen=True)
class BatchAugmentation:
    """What is done to each of B cases; all tensors begin with B."""

    matrix: Tensor
    """(B, 2, 3) float32: output pixel (x, y, 1) → stored pixel (x, y)."""
    smooth: Tensor
    """(B,) bool: whether the image is interpolated bilinearly; the mask never is."""
    mirror: Tensor
    """(B,) bool: whether left and right are exchanged."""
    gamma: Tensor
    """(B,) float32, as are the next two."""
    contrast: Tensor
    brightness: Tensor
    blur: Tensor
    """(B, 2 BLUR_RADIUS + 1) float32: the weights of the blur; 1 in the middle for none."""

    def each(self, change: Callable[[Tensor], Tensor]) -> "BatchAugmentation":
        """Return the same with every tensor changed."""
        return BatchAugmentation(**{item.name: change(getattr(self, item.name)) for item in fields(self)})


def stack(augmentations: Sequence[Augmentation], size: int) -> BatchAugmentation:
    """Return the augmentations of images of size × size pixels as tensors on the processor."""

    def column(name: str) -> np.ndarray:
        return np.array([getattr(item, name) for item in augmentations])

    mirror = column("mirror")
    return BatchAugmentation(
        matrix=torch.from_numpy(_matrices(augmentations, size)),
        smooth=torch.from_numpy(column("smooth")),
        mirror=torch.from_numpy(mirror),
        gamma=torch.from_numpy(column("gamma")).float(),
        contrast=torch.from_numpy(column("contrast")).float(),
        brightness=torch.from_numpy(column("brightness")).float(),
        blur=torch.from_numpy(_blur_weights(column("blur"))).float(),
    )


def augment(
    augmentation: BatchAugmentation, images: Tensor, masks: Tensor | None, index: Tensor, *, blurs: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Return images (B, 3, S, S) float32 in [0, 1], channels-last, and masks (B, S, S) uint8 of the cases `index`.

    `images` (N, S, S) or (N, S, S, 3) and `masks` (N, S, S), if there are any, are uint8. `blurs` is False
    where no augmentation of the data set blurs, which saves the time for it.
    """
    size = images.shape[1]
    axis = torch.arange(size, device=images.device, dtype=torch.float32)
    matrix = augmentation.matrix[:, :, :, None, None]
    x, y = (matrix[:, row, 0] * axis + matrix[:, row, 1] * axis[:, None] + matrix[:, row, 2] for row in (0, 1))
    near_x, near_y = torch.floor(x + 0.5), torch.floor(y + 0.5)
    mask = None if masks is None else _gather(masks.reshape(-1, 1), index, size, near_x, near_y)[..., 0]
    smooth = augmentation.smooth[:, None, None]
    pixels = images.reshape(images.shape[0] * size**2, -1)
    image = _interpolate(pixels, index, size, torch.where(smooth, x, near_x), torch.where(smooth, y, near_y))
    image = _change_exposure(augmentation, image)
    if blurs:
        image = _blur(image, augmentation.blur)
    image = image.expand(-1, -1, -1, 3).contiguous()  # (B, S, S, 3) in memory is channels-last
    return image.permute(0, 3, 1, 2), mask


def _matrices(augmentations: Sequence[Augmentation], size: int) -> np.ndarray:
    """Return the maps (B, 2, 3) from output pixels to stored pixels, the inverse of what `transforms.apply` does."""

    def column(name: str) -> np.ndarray:
        return np.array([getattr(item, name) for item in augmentations], np.float64)

    count, last, centre = len(augmentations), size - 1, (size - 1) / 2
    radians, scale = np.deg2rad(column("degrees")), column("scale")
    cosine, sine = scale * np.cos(radians), scale * np.sin(radians)
    shift = column("shift").reshape(count, 2) * size
    forward = np.tile(np.eye(3), (count, 1, 1))  # as cv2.getRotationMatrix2D
    forward[:, 0] = np.stack([cosine, sine, (1 - cosine) * centre - sine * centre + shift[:, 0]], axis=1)
    forward[:, 1] = np.stack([-sine, cosine, sine * centre + (1 - cosine) * centre + shift[:, 1]], axis=1)
    matrix = np.linalg.inv(forward)
    flips = (
        (column("mirror") > 0, np.array([[-1, 0, last], [0, 1, 0], [0, 0, 1]])),
        (column("flip_vertical") > 0, np.array([[1, 0, 0], [0, -1, last], [0, 0, 1]])),
    )
    for chosen, flip in flips:
        matrix[chosen] = flip @ matrix[chosen]
    quarter = np.array([[0, -1, last], [1, 0, 0], [0, 0, 1]])  # np.rot90 reads (x, y) from (last − y, x)
    turns = column("quarter_turns").astype(int) % 4
    for number in range(1, 4):
        matrix[turns == number] = np.linalg.matrix_power(quarter, number) @ matrix[turns == number]
    return matrix[:, :2].astype(np.float32)


def _blur_weights(stds: np.ndarray) -> np.ndarray:
    """Return the weights that `cv2.GaussianBlur` has for each standard deviation; 0 does not blur."""
    if stds.max(initial=0) > MAX_BLUR:
        raise ValueError(f"an augmentation blurs by {stds.max():g} pixels, but at most {MAX_BLUR} is possible")
    offsets = np.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    safe = np.where(stds > 0, stds, 1)[:, None]
    radius = np.rint(safe * 8 + 1).astype(int) // 2
    weights = np.where(abs(offsets) <= radius, np.exp(-(offsets**2) / (2 * safe**2)), 0)
    return np.where(stds[:, None] > 0, weights / weights.sum(1, keepdims=True), offsets == 0)


def _gather(values: Tensor, index: Tensor, size: int, x: Tensor, y: Tensor) -> Tensor:
    """Return the values (B, S, S, C) at whole pixels; 0 outside of the image. `values` is (N S S, C)."""
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    column, row = x.clamp(0, size - 1).long(), y.clamp(0, size - 1).long()
    found = values[(index[:, None, None] * size + row) * size + column]
    return found * inside[..., None]


def _interpolate(values: Tensor, index: Tensor, size: int, x: Tensor, y: Tensor) -> Tensor:
    """Return the values (B, S, S, C) float32 in [0, 1] at any point, bilinear between the four pixels around it."""
    left, top = torch.floor(x), torch.floor(y)
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper, lower = (
        _gather(values, index, size, left, row) * (1 - across) + _gather(values, index, size, left + 1, row) * across
        for row in (top, top + 1)
    )
    return (upper * (1 - down) + lower * down) / 255


def _change_exposure(augmentation: BatchAugmentation, image: Tensor) -> Tensor:
    gamma, contrast, brightness = (
        values[:, None, None, None] for values in (augmentation.gamma, augmentation.contrast, augmentation.brightness)
    )
    image = image.pow(gamma)
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return (image * contrast + (mean + brightness - contrast * mean)).clamp(0, 1)


def _blur(image: Tensor, weights: Tensor) -> Tensor:
    """Return the images (B, S, S, C), blurred along both axes with borders reflected."""
    planes = image.permute(0, 3, 1, 2)
    for axis, padding in ((3, (BLUR_RADIUS, BLUR_RADIUS, 0, 0)), (2, (0, 0, BLUR_RADIUS, BLUR_RADIUS))):
        padded, size = functional.pad(planes, padding, mode="reflect"), planes.shape[axis]
        planes = torch.zeros_like(planes)
        for offset in range(2 * BLUR_RADIUS + 1):
            planes = planes + padded.narrow(axis, offset, size) * weights[:, offset, None, None, None]
    return planes.permute(0, 2, 3, 1)
