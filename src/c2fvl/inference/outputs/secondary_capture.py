"""An overlay as a DICOM secondary capture, a colour image that every viewer shows.

Viewers show a segmentation of a projection image badly or not at all, and all of them show this. It cannot be taken for
the source: R and L of the patient and what the picture is are written on it.
"""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from c2fvl.inference.outputs.codes import IS_SOURCE, concept
from c2fvl.inference.outputs.equipment import SERIES_NUMBERS, copy_lossy_compression, equipment, mark_deidentified
from c2fvl.inference.outputs.result_info import RESEARCH_ONLY, Orientation, ResultInfo
from c2fvl.inference.outputs.sides import ASSUMED, orientation_of
from c2fvl.inference.outputs.source import Source, explained, read_source, tolerant

if TYPE_CHECKING:
    from pydicom import Dataset

_SHORTEST_SIDE = 256
"""Smaller images are magnified, because nobody could read the words on them."""
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_OPPOSITE = {"L": "R", "R": "L"}


@tolerant
def secondary_capture(
    source: "Dataset", picture: NDArray[np.uint8], about: ResultInfo, *, deidentified: bool = False
) -> "Dataset":
    """Return a picture with an overlay as a DICOM secondary capture, RGB, JPEG-LS lossless.

    `picture` is (H, W, 3) uint8 in the pixel grid of the source, such as `c2fvl.data.pictures.overlay` makes it with
    `keep_size`. The letters R and L are drawn where the patient's right and left are in the file, mirrored or not.
    Images with a side below 256 pixels are magnified by a whole number. Raises `ValueError` for a picture of another
    size, and for a source in colour, whose colours could be taken for the result.
    """
    with explained():
        import highdicom
        from pydicom.uid import JPEGLSLossless
    read = read_source(source, deidentified=deidentified, needs_place=False)
    _check_picture(picture, read)
    orientation = orientation_of(read.first, about.orientation)
    drawn = mark(picture, orientation)
    made = highdicom.sc.SCImage.from_ref_dataset(
        read.first,
        drawn,
        "RGB",
        8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # replaced below, since highdicom knows few combinations of letters
        series_number=SERIES_NUMBERS["sc"],
        series_description="c2fvl overlay, research use only",
        specific_character_set="ISO_IR 192",
        transfer_syntax_uid=JPEGLSLossless,
        **equipment(about),
    )
    made.PatientOrientation = list(orientation or ())
    made.Laterality = str(read.first.get("Laterality") or "")
    made.ConversionType = "WSD"
    made.BurnedInAnnotation = "YES"
    made.DerivationDescription = f"Mask of c2fvl {about.model} {about.package_version} over the image. {RESEARCH_ONLY}."
    made.SourceImageSequence = [_reference(read.first)]
    copy_lossy_compression(read.first, made)
    if deidentified:
        mark_deidentified(made)
    return made


def mark(picture: NDArray[np.uint8], orientation: Orientation | None) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) with R and L of the patient and the warning of use, magnified if it is small.

    `orientation` is that of the file, such as ("R", "F"). Without one, the usual display is assumed and said.
    """
    factor = -(-_SHORTEST_SIDE // min(picture.shape[:2]))
    if factor > 1:
        picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    font_size = max(16, min(canvas.size) // 20)
    font, stroke = ImageFont.load_default(size=font_size), max(1, font_size // 12)
    for letter, place, anchor in _letters(orientation or ("L", "F"), canvas.size):
        pen.text(place, letter, font=font, anchor=anchor, fill=_WHITE, stroke_width=stroke, stroke_fill=_BLACK)
    _write_lines(pen, [RESEARCH_ONLY] if orientation else [RESEARCH_ONLY, ASSUMED.capitalize()], canvas.size)
    return np.array(canvas)


def _letters(orientation: Orientation, size: tuple[int, int]) -> list[tuple[str, tuple[int, int], str]]:
    """Return each letter with its place on a picture of (width, height), and which of its points lies there.

    An axis that runs neither to the left nor to the right of the patient has no letters.
    """
    width, height = size
    margin = max(4, min(size) // 60)
    towards_right_edge, towards_bottom = (direction[0] for direction in orientation)
    letters = []
    if towards_right_edge in _OPPOSITE:
        letters += [(_OPPOSITE[towards_right_edge], (margin, height // 2), "lm"),
                    (towards_right_edge, (width - margin, height // 2), "rm")]  # fmt: skip
    if towards_bottom in _OPPOSITE:
        letters += [(_OPPOSITE[towards_bottom], (width // 2, margin), "mt"),
                    (towards_bottom, (width // 2, height - 6 * margin), "mb")]  # fmt: skip
    return letters


def _write_lines(pen: ImageDraw.ImageDraw, lines: list[str], size: tuple[int, int]) -> None:
    """Write lines at the lower edge, in a small font on black, broken where they are too long."""
    width, height = size
    font_size = max(12, min(size) // 60)
    font = ImageFont.load_default(size=font_size)
    letters = max(10, int(width / (0.6 * font_size)))
    broken = [part for line in lines for part in textwrap.wrap(line, letters)]
    line_height = int(1.3 * font_size)
    top = height - line_height * len(broken) - font_size // 2
    for row, line in enumerate(broken):
        place = (font_size // 2, top + row * line_height)
        pen.rectangle((0, place[1], pen.textlength(line, font=font) + font_size, place[1] + line_height), fill=_BLACK)
        pen.text(place, line, font=font, fill=_WHITE)


def _check_picture(picture: NDArray[Any], read: Source) -> None:
    if not str(read.first.get("PhotometricInterpretation")).startswith("MONOCHROME"):
        raise ValueError(
            "the source image is in colour, and its colours could be taken for the result; use the mask or the "
            "segmentation"
        )
    expected = (*read.size, 3)
    if picture.shape != expected or picture.dtype != np.uint8:
        raise ValueError(
            f"the picture is {picture.dtype} of the shape {picture.shape}; expected uint8 of the shape {expected}, in "
            "the pixel grid of the source image"
        )


def _reference(header: "Dataset") -> "Dataset":
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [concept(IS_SOURCE)]
    return item
