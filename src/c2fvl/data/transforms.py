"""Resizing and augmentation of image and mask together.

Random draws are separate from their application: `draw_*` takes a generator and returns an `Augmentation`; `apply` is
deterministic. Image (H, W, 3) float32 in [0, 1], mask (H, W) uint8 classes or None.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from c2fvl.config import DataConfig

MAX_BLUR = 1.2
"""Largest standard deviation of a blur, in pixels."""


@dataclass(frozen=True)
class Sample:
    """Image and mask as transforms take and return them."""

    image: np.ndarray
    mask: np.ndarray | None


@dataclass(frozen=True)
class Augmentation:
    """The changes of one sample, in this order; the default changes nothing."""

    quarter_turns: int = 0
    """Counter-clockwise turns by 90°; the report is not changed, and is wrong afterwards."""
    flip_vertical: bool = False
    mirror: bool = False
    """Exchange the left and right of the image."""
    mirror_report: bool = True
    """Whether `CaseDataset` mirrors the report with the image."""
    degrees: float = 0.0
    """Counter-clockwise rotation about the centre; pixels from outside are 0."""
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    """Right and down, as fractions of the width and the height."""
    gamma: float = 1.0
    contrast: float = 1.0
    """Factor of the differences from the mean of the image."""
    brightness: float = 0.0
    """Added to the image, which is then clipped to [0, 1]."""
    blur: float = 0.0
    """Standard deviation of a Gaussian blur of the image, in pixels."""
    smooth: bool = True
    """Interpolate the image bilinearly when it is rotated, scaled or shifted; masks are never interpolated."""


def draw_published(generator: np.random.Generator) -> Augmentation:
    """Draw as the published loader: half are turned and always flipped, a quarter rotated, reports unchanged."""
    if generator.random() > 0.5:
        turns, axis = int(generator.integers(0, 4)), int(generator.integers(0, 2))
        return Augmentation(quarter_turns=turns, flip_vertical=axis == 0, mirror=axis == 1, mirror_report=False)
    if generator.random() > 0.5:
        return Augmentation(degrees=float(generator.integers(-20, 20)), smooth=False)
    return Augmentation()


def draw_consistent(generator: np.random.Generator) -> Augmentation:
    """Draw a mirror with its report, a small rotation, scaling and shift, and a change of exposure."""
    return Augmentation(
        mirror=bool(generator.random() < 0.5),
        degrees=float(generator.uniform(-10, 10)),
        scale=float(np.exp(generator.uniform(-0.12, 0.12))),
        shift=(float(generator.uniform(-0.05, 0.05)), float(generator.uniform(-0.05, 0.05))),
        gamma=float(np.exp(generator.uniform(-0.3, 0.3))),
    )


def draw_strong(generator: np.random.Generator) -> Augmentation:
    """Draw as `draw_consistent` with wider ranges, and contrast, brightness and, for one image in four, a blur."""
    return Augmentation(
        mirror=bool(generator.random() < 0.5),
        degrees=float(generator.uniform(-18, 18)),
        scale=float(np.exp(generator.uniform(-0.22, 0.22))),
        shift=(float(generator.uniform(-0.08, 0.08)), float(generator.uniform(-0.08, 0.08))),
        gamma=float(np.exp(generator.uniform(-0.4, 0.4))),
        contrast=float(np.exp(generator.uniform(-0.3, 0.3))),
        brightness=float(generator.uniform(-0.1, 0.1)),
        blur=float(generator.uniform(0.3, MAX_BLUR)) if generator.random() < 0.25 else 0.0,
    )


def draw_mirror(generator: np.random.Generator) -> Augmentation:
    """Draw a mirror with its report and nothing else, as the published loader of MedT."""
    return Augmentation(mirror=bool(generator.random() < 0.5))


def draw_none(generator: np.random.Generator) -> Augmentation:
    """Draw nothing."""
    return Augmentation()


AUGMENTATIONS: dict[str, Callable[[np.random.Generator], Augmentation]] = {
    "consistent": draw_consistent,
    "strong": draw_strong,
    "mirror": draw_mirror,
    "paper": draw_published,
    "none": draw_none,
}


MIRRORS_REPORTS = ("consistent", "strong", "mirror")
"""Augmentations that mirror reports with their images."""


def apply(augmentation: Augmentation, sample: Sample) -> Sample:
    """Return the augmented sample; the arrays of `sample` are not changed."""
    image = _move(augmentation, sample.image, smooth=augmentation.smooth)
    mask = None if sample.mask is None else _move(augmentation, sample.mask, smooth=False)
    if augmentation.gamma != 1.0:
        image = cv2.pow(image, augmentation.gamma)
    if augmentation.contrast != 1.0 or augmentation.brightness:
        mean = float(image.mean())
        offset = mean + augmentation.brightness - augmentation.contrast * mean
        image = np.clip(image * np.float32(augmentation.contrast) + np.float32(offset), 0, 1)
    if augmentation.blur:
        image = cv2.GaussianBlur(image, (0, 0), augmentation.blur)
    return Sample(image, mask)


def resize(sample: Sample, size: int, *, rule: str, labels: bool = False) -> Sample:
    """Return the sample at size × size pixels.

    Rule "exact": images by area average if they shrink, else bilinearly; masks by nearest neighbour. Rule "published":
    both bilinearly in 8 bits, then every mask pixel above 0 counts, so that masks grow. Rule "none": nothing is
    resized, and an image of another size raises `ValueError`. Masks of several classes (`labels`) are always resized by
    nearest neighbour: there is no class between two others.
    """
    mask = sample.mask
    if mask is not None:
        mask = resize_mask(mask, size, rule="exact" if labels else rule)
    return Sample(resize_image(sample.image, size, rule=rule), mask)


def resize_image(image: np.ndarray, size: int, *, rule: str) -> np.ndarray:
    """Return the image (H, W, 3) at size × size by the rule of `resize`."""
    if image.shape[:2] == (size, size):
        return image
    if rule == "none":
        raise ValueError(
            f"the image is {image.shape[0]}×{image.shape[1]} (height × width) and data.resize=none takes {size}×{size} "
            "only; crop or resize the image, or set data.resize=exact"
        )
    if rule == "published":
        eight_bit = np.rint(image * 255).astype(np.uint8)
        return cv2.resize(eight_bit, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.float32) / np.float32(255)
    shrinks = min(image.shape[:2]) > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: int, *, rule: str) -> np.ndarray:
    """Return the mask (H, W) at size × size by the rule of `resize`."""
    if mask.shape == (size, size):
        return mask
    if rule == "published":
        grown = cv2.resize(mask * np.uint8(255), (size, size), interpolation=cv2.INTER_LINEAR)
        return (grown > 0).astype(np.uint8)
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)


def in_channel_order(image: np.ndarray, config: DataConfig) -> np.ndarray:
    """Return (H, W, 3) RGB in the network's channel order; grey (H, W) is returned unchanged."""
    return image[:, :, ::-1] if image.ndim == 3 and config.channel_order == "bgr" else image


def _move(augmentation: Augmentation, array: np.ndarray, *, smooth: bool) -> np.ndarray:
    if augmentation.quarter_turns:
        array = np.rot90(array, augmentation.quarter_turns)
    if augmentation.flip_vertical:
        array = array[::-1]
    if augmentation.mirror:
        array = array[:, ::-1]
    array = np.ascontiguousarray(array)
    if augmentation.degrees or augmentation.scale != 1 or augmentation.shift != (0.0, 0.0):
        height, width = array.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), augmentation.degrees, augmentation.scale)
        matrix[:, 2] += (augmentation.shift[0] * width, augmentation.shift[1] * height)
        array = cv2.warpAffine(array, matrix, (width, height), flags=cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST)
    return array
