"""Two films side by side with their names, to be judged by eye."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_SIDE, _GAP, _FONT_SIZE = 320, 8, 13
_BACKGROUND, _INK = (24, 24, 24), (230, 230, 230)


def pair_picture(
    first: NDArray[Any], second: NDArray[Any], *, names: tuple[str, str], remark: str
) -> NDArray[np.uint8]:
    """Return both pictures, (H, W) or (H, W, 3) as stored, side by side, names above, remark below: (h, w, 3) uint8.

    Each is drawn 320 pixels high with its grey values stretched to the whole range.
    """
    font = ImageFont.load_default(size=_FONT_SIZE)
    drawn = [Image.fromarray(_displayed(pixels)) for pixels in (first, second)]
    wide = [max(picture.width, int(font.getlength(name))) for picture, name in zip(drawn, names, strict=True)]
    line = int(1.6 * _FONT_SIZE)
    width = max(sum(wide) + 3 * _GAP, int(font.getlength(remark)) + 2 * _GAP)
    canvas = Image.new("RGB", (width, _SIDE + 2 * line + 2 * _GAP), _BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for picture, name, left in zip(drawn, names, (_GAP, 2 * _GAP + wide[0]), strict=True):
        pen.text((left, _GAP // 2), name, fill=_INK, font=font)
        canvas.paste(picture, (left, line + _GAP // 2))
    pen.text((_GAP, _SIDE + line + _GAP), remark, fill=_INK, font=font)
    return np.asarray(canvas, np.uint8)


def _displayed(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    values = (values - low) * (255 / max(high - low, 1e-6))
    height, width = pixels.shape[:2]
    size = (min(4 * _SIDE, max(1, round(width * _SIDE / height))), _SIDE)
    method = cv2.INTER_AREA if height > _SIDE else cv2.INTER_LINEAR
    shown = np.rint(cv2.resize(values, size, interpolation=method)).astype(np.uint8)
    return shown if shown.ndim == 3 else np.repeat(shown[:, :, None], 3, axis=2)
