"""Read a chest film from DICOM: computed and digital radiography, and secondary captures of them.

The result is the film as a radiologist sees it: the file's own table or window, its photometric interpretation, upright
and in standard orientation. What the file leaves open, and what is odd about it, is recorded in the `Picture`.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from c2fvl.files import sanity
from c2fvl.files.dicom_decode import Decoded, decode_frame, is_lossy
from c2fvl.files.dicom_geometry import lie_of, spacing_of
from c2fvl.files.dicom_headers import (
    PixelLayout,
    header_of,
    import_pydicom,
    numbers,
    one_line,
    quiet,
    read_layout,
    text,
    texts,
    uid_name,
    value,
    whole,
)
from c2fvl.files.dicom_presentation import GreyTable, grey_table
from c2fvl.files.images import MAX_PIXELS
from c2fvl.files.picture import Picture

_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
FILM_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    _FOR_PROCESSING,
    _SECONDARY,
    *(f"{_SECONDARY}.{number}" for number in (1, 2, 3, 4)),
}
"""Computed radiography, digital X-ray for presentation and for processing, secondary captures with their frames."""
_FILM_MODALITIES = {"CR", "DX", "DR", "RG"}
CHEST_WORDS = {"", "CHEST", "THORAX", "LUNG", "LUNGS", "CHEST AND ABDOMEN", "CHESTABDOMEN"}
_RGB = {"RGB", "YBR_RCT", "YBR_ICT"}
_PALETTE = "PALETTE COLOR"
_ROWS_AT_ONCE = 16


def read_film(
    dataset: Any, *, max_pixels: int = MAX_PIXELS, force_view: bool = False, frame: int | None = None
) -> Picture:
    """Return the film in a `pydicom.Dataset`.

    `frame`, counted from 1, chooses an image of a file that holds several. `force_view` lets a lateral film pass.
    Raises `ValueError` for an object that is no film, has no pixels or more than `max_pixels`, or is damaged.
    """
    warnings = _accepted(dataset)
    layout = read_layout(dataset, max_pixels)
    lie = lie_of(dataset, force_view=force_view)
    decoded = decode_frame(dataset, layout, _frame_index(layout, frame))
    warnings += [*decoded.warnings, *lie.warnings]
    hidden = _shutter(dataset, layout)
    pixels, source, remarks = _shown(dataset, layout, decoded, hidden)
    if lie.transposed:
        pixels = pixels.swapaxes(0, 1)
    if lie.mirrored:
        pixels = pixels[:, ::-1]
    if lie.flipped:
        pixels = pixels[::-1]
    remarks += sanity.remarks_on_chest(sanity.sampled(pixels))
    spacing, spacing_source = spacing_of(dataset)
    return Picture(
        np.ascontiguousarray(pixels),
        "dicom",
        lie.transposed,
        lie.mirrored,
        lie.flipped,
        lie.orientation_source,
        source,
        spacing[::-1] if spacing and lie.transposed else spacing,
        spacing_source,
        is_lossy(dataset, layout),
        (*warnings, *remarks),
        header_of(dataset),
    )


def _accepted(dataset: Any) -> list[str]:
    """Return warnings about a film's kind. Raises `ValueError` for an object that is no film."""
    meta = getattr(dataset, "file_meta", None) or {}
    uid = str(value(dataset, "SOPClassUID") or value(meta, "MediaStorageSOPClassUID") or "").strip()
    modality = text(dataset, "Modality")
    if uid not in FILM_CLASSES if uid else modality not in _FILM_MODALITIES:
        name = uid_name(uid) if uid else "an object without SOPClassUID"
        raise ValueError(
            f"the DICOM file is {name} ({modality or 'no modality'}), expected a chest film: computed radiography "
            "(CR), digital X-ray (DX) or a secondary capture of one"
        )
    if is_own_result(dataset):
        raise ValueError("the DICOM file is a result of c2fvl, an overlay; give the film from which it was made")
    warnings = []
    if uid == _FOR_PROCESSING or "FOR PROCESSING" in text(dataset, "PresentationIntentType"):
        warnings.append("The file is raw data of the detector (for processing); give the one for presentation.")
    body_part = text(dataset, "BodyPartExamined")
    if body_part not in CHEST_WORDS:
        warnings.append(f"BodyPartExamined is {body_part}, expected CHEST.")
    return warnings


def is_own_result(dataset: Any) -> bool:
    """Tell whether an object was made by this program."""
    return (text(dataset, "Manufacturer"), text(dataset, "ManufacturerModelName")) == ("C2FVL PROJECT", "C2FVL")


def _frame_index(layout: PixelLayout, frame: int | None) -> int:
    if frame is None and layout.frames > 1:
        raise ValueError(
            f"the DICOM file holds {layout.frames} images, expected one; choose one with --frame, 1 to {layout.frames}"
        )
    number = 1 if frame is None else frame
    if not 1 <= number <= layout.frames:
        raise ValueError(f"there is no frame {number}; the DICOM file holds {layout.frames}, counted from 1")
    return number - 1


def _shown(
    dataset: Any, layout: PixelLayout, decoded: Decoded, hidden: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], str, tuple[str, ...]]:
    """Return the pixels in [0, 1] as they lie in the file, what decides on black and white, and warnings."""
    if layout.samples == 3 or decoded.photometric == _PALETTE:
        colours, remarks = _coloured(dataset, decoded)
        if hidden is not None:
            colours[hidden] = 0
        return colours, "bits", remarks
    table = grey_table(dataset, layout)
    sample = sanity.sampled(decoded.codes)
    counts = ~table.is_padding[sample]
    if hidden is not None:
        counts &= ~sanity.sampled(hidden)
    shown, source, remarks = _sound_table(table, sample, counts)
    pixels = _looked_up(shown, decoded.codes)
    if hidden is not None:
        pixels[hidden] = 0
    return pixels, source, (*table.warnings, *remarks)


def _sound_table(
    table: GreyTable, sample: NDArray[Any], counts: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], str, tuple[str, ...]]:
    """Return the grey values for each code, by percentiles if those of the file are senseless and others are better."""
    found = None if table.shown is None else sanity.fault_of(table.shown[sample], counts)
    if table.shown is not None and found is None:
        return table.shown, table.source, ()
    values = table.values[sample[counts if found is None else found.counts]]
    stretched = table.stretched(*sanity.stretch_range(values))
    remaining = sanity.fault_of(stretched[sample], counts)
    if table.shown is not None and found is not None and found.is_lost and remaining is not None:
        return table.shown, table.source, (found.remaining,)
    warnings = () if found is None else (found.repaired,)
    return stretched, "percentile", (*warnings, *(() if remaining is None else (remaining.remaining,)))


def _looked_up(table: NDArray[np.float32], codes: NDArray[Any]) -> NDArray[np.float32]:
    pixels = np.empty(codes.shape, np.float32)
    for begin in range(0, len(codes), _ROWS_AT_ONCE):  # few rows at once, so that their indices stay in the cache
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        np.take(table, codes[rows], out=pixels[rows], mode="clip")
    return pixels


def _coloured(dataset: Any, decoded: Decoded) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    colours = decoded.codes
    if decoded.photometric == _PALETTE:
        try:
            with quiet():
                colours = import_pydicom().pixels.apply_color_lut(colours, dataset)
        except Exception as error:
            raise ValueError(f"the palette of the DICOM file cannot be read ({one_line(error)})") from error
    elif decoded.photometric not in _RGB:
        raise ValueError(f"its colours are {decoded.photometric or 'not named'}; export the image as grey")
    pixels = np.divide(colours, np.float32(np.iinfo(colours.dtype).max), dtype=np.float32)
    if (colours == colours[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0]), ()
    return pixels, ("The film is in colour; a network may take coloured annotations for findings.",)


def _shutter(dataset: Any, layout: PixelLayout) -> NDArray[np.bool_] | None:
    """Return the pixels that the display shutter hides, or None without one."""
    visible = np.ones((layout.rows, layout.columns), np.uint8)
    for shape in texts(dataset, "ShutterShape"):
        inside = np.zeros_like(visible)
        edges = [whole(dataset, f"Shutter{side}Edge", -1) for side in _EDGES]
        center, radius = numbers(dataset, "CenterOfCircularShutter"), whole(dataset, "RadiusOfCircularShutter")
        corners = numbers(dataset, "VerticesOfThePolygonalShutter")
        if shape == "RECTANGULAR" and min(edges) >= 0:
            left, right, upper, lower = edges  # lines, counted from 1, of which the image lies between
            inside[max(0, upper - 1) : lower, max(0, left - 1) : right] = 1
        elif shape == "CIRCULAR" and len(center) == 2 and 0 < radius < 2**15 and max(map(abs, center)) < 2**15:
            cv2.circle(inside, (int(center[1]) - 1, int(center[0]) - 1), radius, 1, cv2.FILLED)
        elif shape == "POLYGONAL" and len(corners) >= 6 and len(corners) % 2 == 0 and max(map(abs, corners)) < 2**15:
            points = np.array(corners).reshape(-1, 2)[:, ::-1] - 1
            cv2.fillPoly(inside, [np.rint(points).astype(np.int32)], 1)
        else:
            continue
        visible &= inside
    return None if visible.all() or not visible.any() else visible == 0


_EDGES = ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
