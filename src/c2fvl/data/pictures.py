"""Pictures of cases: masks over images, cases with report and score, and two images side by side.

The colours are from the palette of Okabe and Ito, which colour-blind people can distinguish, and differ in brightness.
"""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from c2fvl.reports.report import Report
from c2fvl.reports.zones import orientation_in_words

FOUND = (0, 158, 115)
"""Bluish green: lesion that is predicted."""
FALSE_POSITIVE = (230, 159, 0)
"""Orange: predicted, but not in the true mask."""
MISSED = (86, 180, 233)
"""Sky blue: lesion that is not predicted."""
PREDICTION_LINE = (240, 228, 66)
"""Yellow: contour of the prediction."""
TRUTH_LINE = (255, 255, 255)
"""White: contour of the true mask."""

CLASS_COLOURS = ((0, 158, 115), (230, 159, 0), (86, 180, 233), (204, 121, 167), (213, 94, 0), (0, 114, 178))
"""Colours of the classes 1, 2, … of a network with several; they repeat."""

_SHORTEST_SIDE, _LONGEST_SIDE = 320, 768
_OPACITY = 0.4
_PAIR_HEIGHT, _GAP, _FONT_SIZE = 320, 8, 13
_BACKGROUND, _INK = (24, 24, 24), (230, 230, 230)


def overlay(
    image: np.ndarray,
    prediction: np.ndarray,
    target: np.ndarray | None = None,
    *,
    num_classes: int = 1,
    keep_size: bool = False,
) -> np.ndarray:
    """Return the image with coloured masks and contours, (h, w, 3) uint8.

    The sides have from 320 to 768 pixels, or with `keep_size` those of the image.

    image (H, W, 3) float32 in [0, 1]; prediction and target (H, W) in {0, 1}. With a target, pixels are coloured as
    found, false positive or missed; without one, the prediction is green with a yellow contour. With several classes
    besides the background, each predicted one has its colour, and those of the target have white contours. Raises
    `ValueError` if the shapes differ.
    """
    for name, mask in (("prediction", prediction), ("target", target)):
        if mask is not None and mask.shape != image.shape[:2]:
            raise ValueError(f"the {name} has the shape {mask.shape} and the image {image.shape[:2]}")
    size = (image.shape[1], image.shape[0]) if keep_size else _display_size(image)
    canvas = _displayed(image, size)
    if num_classes > 1:
        return _coloured(canvas, prediction, target, num_classes, size)
    predicted = _resized_mask(prediction, size)
    if target is None:
        _tint(canvas, predicted, FOUND)
    else:
        true = _resized_mask(target, size)
        _tint(canvas, predicted & true, FOUND)
        _tint(canvas, predicted & ~true, FALSE_POSITIVE)
        _tint(canvas, true & ~predicted, MISSED)
        _outline(canvas, true, TRUTH_LINE)
    _outline(canvas, predicted, PREDICTION_LINE)
    return canvas


def _coloured(
    canvas: np.ndarray, prediction: np.ndarray, target: np.ndarray | None, num_classes: int, size: tuple[int, int]
) -> np.ndarray:
    for number in range(1, num_classes + 1):
        mask = _resized_mask(prediction == number, size)
        _tint(canvas, mask, class_colour(number))
        _outline(canvas, mask, class_colour(number))
    if target is not None:
        for number in range(1, num_classes + 1):
            _outline(canvas, _resized_mask(np.equal(target, number), size), TRUTH_LINE)
    return canvas


def class_colour(number: int) -> tuple[int, int, int]:
    """Return the colour of the class `number`, from 1 on."""
    return CLASS_COLOURS[(number - 1) % len(CLASS_COLOURS)]


def _tint(canvas: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    canvas[mask] = np.rint((1 - _OPACITY) * canvas[mask] + _OPACITY * np.asarray(colour)).astype(np.uint8)


def panel_caption(report: Report | None) -> str:
    """Return the words of a report and whose left they mean, for the line under a picture."""
    if report is None:
        return "No report"
    return f"{report.text or report} ({report.orientation} orientation: {orientation_in_words(report.orientation)})"


def case_panel(
    image: np.ndarray,
    prediction: np.ndarray,
    *,
    target: np.ndarray | None = None,
    report: Report | None = None,
    dice: float | None = None,
    classes: Sequence[str] = ("lesion",),
    note: str = "",
) -> np.ndarray:
    """Return image and overlay side by side, with the report below and the Dice in the corner, (h, w, 3) uint8.

    R and L at the edges are the patient's right and left in an image in standard orientation, as chest films and CT
    slices are shown.

    `classes` names the classes besides the background, `note` is written below the report.
    """
    plain, drawn = case_pictures(image, prediction, target=target, num_classes=len(classes))
    height, width = drawn.shape[:2]
    font_size = max(13, width // 26)
    font = ImageFont.load_default(size=font_size)
    letters = max(20, int(2 * width / (0.52 * font_size)))
    lines = [*textwrap.wrap(panel_caption(report), letters)[:4], *textwrap.wrap(note, letters)]
    legend = [("found", FOUND), ("false positive", FALSE_POSITIVE), ("missed", MISSED)] if target is not None else []
    legend = legend or [(f"predicted {classes[0]}", FOUND)]
    legend = [*legend, ("contour of the prediction", PREDICTION_LINE)]
    if len(classes) > 1:
        legend = [(name, class_colour(number)) for number, name in enumerate(classes, start=1)]
    if target is not None:
        legend.append(("contour of the true mask" if len(classes) == 1 else "contours of the true mask", TRUTH_LINE))
    line_height = int(font_size * 1.45)
    picture = Image.new("RGB", (2 * width + 4, height + line_height * (len(lines) + 1) + 12), _BACKGROUND)
    picture.paste(Image.fromarray(plain), (0, 0))
    picture.paste(Image.fromarray(drawn), (width + 4, 0))
    pen = ImageDraw.Draw(picture)
    if dice is not None:
        label = f"Dice {100 * dice:.1f} %"
        box = pen.textbbox((0, 0), label, font=font)
        pen.rectangle((width + 4, 0, width + 14 + box[2], box[3] + 8), fill=(0, 0, 0))
        pen.text((width + 9, 3), label, font=font, fill=(255, 255, 255))
    for row, line in enumerate(lines):
        pen.text((6, height + 4 + row * line_height), line, font=font, fill=(235, 235, 235))
    left, top = 6, height + 4 + len(lines) * line_height
    for name, colour in legend:
        pen.rectangle((left, top + 4, left + font_size - 4, top + font_size), fill=colour)
        pen.text((left + font_size, top), name, font=font, fill=(200, 200, 200))
        left += font_size + int(pen.textlength(name, font=font)) + 12
    return np.asarray(picture)


def case_pictures(
    image: np.ndarray, prediction: np.ndarray, *, target: np.ndarray | None = None, num_classes: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the image, and the image with its masks as `overlay` draws them, both (h, w, 3) uint8 with R and L.

    R and L at the edges are the patient's right and left in an image in standard orientation.
    """
    drawn = overlay(image, prediction, target, num_classes=num_classes)
    height, width = drawn.shape[:2]
    font_size = max(13, width // 18)
    font = ImageFont.load_default(size=font_size)
    pictures = []
    for pixels in (_displayed(image, (width, height)), drawn):
        picture = Image.fromarray(pixels)
        pen = ImageDraw.Draw(picture)
        for letter, left in (("R", 4), ("L", width - font_size)):
            place = (left, height // 2 - font_size)
            pen.text(place, letter, font=font, fill=TRUTH_LINE, stroke_width=1, stroke_fill=(0, 0, 0))
        pictures.append(np.asarray(picture, np.uint8))
    return pictures[0], pictures[1]


def side_by_side(
    first: NDArray[Any], second: NDArray[Any], *, names: tuple[str, str], remark: str
) -> NDArray[np.uint8]:
    """Return two images, (H, W) or (H, W, 3) of any range, with their names and a remark below: (h, w, 3) uint8.

    Each is drawn 320 pixels high, its values stretched to the whole range.
    """
    font = ImageFont.load_default(size=_FONT_SIZE)
    images = [Image.fromarray(_stretched(pixels)) for pixels in (first, second)]
    widths = [max(image.width, int(font.getlength(name))) for image, name in zip(images, names, strict=True)]
    line = int(1.6 * _FONT_SIZE)
    width = max(sum(widths) + 3 * _GAP, int(font.getlength(remark)) + 2 * _GAP)
    canvas = Image.new("RGB", (width, _PAIR_HEIGHT + 2 * line + 2 * _GAP), _BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for image, name, left in zip(images, names, (_GAP, 2 * _GAP + widths[0]), strict=True):
        pen.text((left, _GAP // 2), name, fill=_INK, font=font)
        canvas.paste(image, (left, line + _GAP // 2))
    pen.text((_GAP, _PAIR_HEIGHT + line + _GAP), remark, fill=_INK, font=font)
    return np.asarray(canvas, np.uint8)


def encode_png(picture: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 RGB as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=False, compress_level=4)
    return buffer.getvalue()


def encode_webp(picture: np.ndarray, *, max_side: int, max_bytes: int) -> bytes:
    """Return (H, W, 3) uint8 RGB as a WebP file to look at, reduced to `max_side` pixels.

    The quality goes down, and then the size, until the file has at most `max_bytes`.
    """
    image = Image.fromarray(picture)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    for quality in (82, 65, 45, 25):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=4)
        if buffer.tell() <= max_bytes:
            return buffer.getvalue()
    return encode_webp(picture, max_side=max_side * 2 // 3, max_bytes=max_bytes)


def _display_size(image: np.ndarray) -> tuple[int, int]:
    """Return the (width, height) at which an image is shown: small ones are magnified, large ones reduced."""
    height, width = image.shape[:2]
    factor = min(max(1, -(-_SHORTEST_SIDE // min(height, width))), _LONGEST_SIDE / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _displayed(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < image.shape[1]
    pixels = np.rint(image * 255).astype(np.uint8)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(np.asarray(mask != 0, np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def _outline(canvas: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, max(1, min(canvas.shape[:2]) // _LONGEST_SIDE), cv2.LINE_8)


def _stretched(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    values = (values - low) * (255 / max(high - low, 1e-6))
    height, width = pixels.shape[:2]
    size = (min(4 * _PAIR_HEIGHT, max(1, round(width * _PAIR_HEIGHT / height))), _PAIR_HEIGHT)
    method = cv2.INTER_AREA if height > _PAIR_HEIGHT else cv2.INTER_LINEAR
    resized = np.rint(cv2.resize(values, size, interpolation=method)).astype(np.uint8)
    return resized if resized.ndim == 3 else np.repeat(resized[:, :, None], 3, axis=2)
