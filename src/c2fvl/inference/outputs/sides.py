"""Where right and left of the patient are in the file of an image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from c2fvl.files.dicom_headers import numbers, text, texts
from c2fvl.inference.outputs.result_info import Orientation, are_directions, axes_of

if TYPE_CHECKING:
    from pydicom import Dataset

ASSUMED = "right and left are assumed, because the file states no orientation"
NOT_SHOWN = "the image is seen from the side and does not tell right from left"


def orientation_of(header: "Dataset", given: Orientation | None = None) -> Orientation | None:
    """Return where the rows and the columns of an image run in the patient, such as ("L", "F"); None if unknown.

    `given` replaces what the header says. The first value is the direction from the first to the last column. Of a
    projection image, only frontal and lateral orientations count, as when it is read; slices have their own vectors.
    """
    if given is not None:
        return given
    vectors = numbers(header, "ImageOrientationPatient")
    if len(vectors) == 6:
        return _letters(vectors[:3]), _letters(vectors[3:])
    stated = texts(header, "PatientOrientation")
    is_human = text(header, "AnatomicalOrientationType") != "QUADRUPED"
    if (
        is_human
        and are_directions(stated)
        and axes_of((stated[0], stated[1])) in ({"side", "height"}, {"depth", "height"})
    ):
        return stated[0], stated[1]
    return None


def has_sides(orientation: Orientation | None) -> bool:
    """Tell whether right and left are known in an image of this orientation, and not assumed."""
    return orientation is not None and "side" in axes_of(orientation)


def remark_on_sides(orientation: Orientation | None) -> str:
    """Return why no side can be relied on; "" if they are known."""
    if orientation is None:
        return ASSUMED
    return "" if has_sides(orientation) else NOT_SHOWN


def _letters(direction: Sequence[float]) -> str:
    """Return the letters of a direction in the patient, the strongest first."""
    names = (("L", "R"), ("P", "A"), ("H", "F"))
    order = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(names[axis][direction[axis] < 0] for axis in order if abs(direction[axis]) > 1e-4)
