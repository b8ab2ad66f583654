"""What a result takes over from the header of its source image, and nothing else.

A result belongs to the patient and the study of its source, so it repeats their identifiers. Other fields of a header
can hold free text about the patient: they never travel, since the header that the results are made from is a new one
with the attributes named here. Attributes that the standard wants but lets be empty are added empty.
"""

import contextlib
import functools
import hashlib
import os
import re
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

NOT_INSTALLED = "DICOM results need pydicom and highdicom, which are not installed: pip install 'c2fvl[dicom]'"
SIDES_ASSUMED = "right and left are assumed: the file states no orientation"
DEIDENTIFICATION = "c2fvl: patient and study blank, new UIDs"

_IDENTIFYING = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Identifiers of patient and study, by which an archive finds where a result belongs."""
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_DESCRIBING = (
    "Modality", "SeriesNumber", "InstanceNumber", "Laterality", "ImageLaterality", "PatientOrientation",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
_OF_SLICES = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_BLANK = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
          "StudyTime", "ReferringPhysicianName", "Modality")  # fmt: skip
_FORMS = {
    "PatientBirthDate": r"\d{8}",
    "PatientSex": "[MFO]",
    "StudyDate": r"\d{8}",
    "StudyTime": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
}
"""Values of another form are left out, because no writer accepts them."""
_SLICE_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128")
"""CT, MR and PET images, which lie in space."""


@dataclass(frozen=True)
class Source:
    """The headers of the images of a result, cleaned, in the order given."""

    headers: "list[Dataset]"
    are_slices: bool
    """Whether the images lie in space, as slices of CT do; False for a projection such as a chest film."""

    @property
    def first(self) -> "Dataset":
        """Return the header of the first image."""
        return self.headers[0]

    @property
    def size(self) -> tuple[int, int]:
        """Return (H, W) of each image."""
        return int(self.first.Rows), int(self.first.Columns)


def read_source(images: "Dataset | Sequence[Dataset]", *, deidentified: bool = False) -> Source:
    """Return the cleaned headers of one projection image or of the slices of one series.

    `deidentified` blanks the identifiers and dates, and replaces each UID by a new one, the same for the same UID as
    long as the process runs. Raises `ValueError` for several series, images of several sizes, multi-frame images and
    missing attributes that cannot be blank.
    """
    with explained():
        from pydicom import Dataset
    given = [images] if isinstance(images, Dataset) else list(images)
    if not given:
        raise ValueError("there is no source image; give the dataset that was segmented")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values of the source, which were said when it was read
        for image in given:
            _check(image)
        slices = [_lies_in_space(image) for image in given]
        if len(given) > 1:
            _check_series(given, slices)
        headers = [_cleaned(image, slices[0], deidentified) for image in given]
    if slices[0]:
        _add_thickness(headers, given)
    return Source(headers, slices[0])


@contextlib.contextmanager
def explained(needs: str = NOT_INSTALLED) -> Iterator[None]:
    """Turn the error about a package that is not installed into one sentence that names the remedy."""
    try:
        yield
    except ImportError as error:
        raise ValueError(needs) from error


def new_uid() -> str:
    """Return a UID that no other object has."""
    from pydicom.uid import generate_uid

    return str(generate_uid(prefix=None))


def orientation_of(header: "Dataset", given: tuple[str, str] | None = None) -> tuple[str, str] | None:
    """Return where the rows and the columns of an image run in the patient, such as ("L", "F"); None if unknown.

    `given` replaces what the header says. The first value is the direction from the first to the last column.
    """
    if given is not None:
        return given
    stated = header.get("PatientOrientation")
    if stated and not isinstance(stated, str) and len(stated) == 2 and all(stated):
        return str(stated[0]), str(stated[1])
    vectors = [float(value) for value in header.get("ImageOrientationPatient") or []]
    if len(vectors) == 6:
        return _letters(vectors[:3]), _letters(vectors[3:])
    return None


def spacing_of_film(header: "Dataset") -> tuple[float, float] | None:
    """Return the distance in mm of rows and of columns that a projection image states; None if it states none.

    PixelSpacing comes first, because it is that of the detector or a calibrated one. Zeros are no spacing.
    """
    return _spacing(header, "PixelSpacing") or _spacing(header, "ImagerPixelSpacing")


def spacing_in_viewers(header: "Dataset") -> tuple[float, float]:
    """Return the distance in mm of rows and of columns at which ITK, and so 3D Slicer, shows a projection image.

    For CR and DX that is the spacing of the detector, for a secondary capture PixelSpacing or that of the scanner, and
    1 mm where the file has none.
    """
    is_capture = str(header.get("SOPClassUID", "")).startswith("1.2.840.10008.5.1.4.1.1.7")
    names = ("PixelSpacing", "NominalScannedPixelSpacing") if is_capture else ("ImagerPixelSpacing",)
    return next((found for name in names if (found := _spacing(header, name))), (1.0, 1.0))


def _spacing(header: "Dataset", name: str) -> tuple[float, float] | None:
    try:
        rows, columns = (float(value) for value in header.get(name) or ())
    except (TypeError, ValueError):
        return None
    return (rows, columns) if 0 < rows < np.inf and 0 < columns < np.inf else None


def _letters(direction: Sequence[float]) -> str:
    """Return the letters of a direction in the patient, the strongest first."""
    names = (("L", "R"), ("P", "A"), ("H", "F"))
    order = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(names[axis][direction[axis] < 0] for axis in order if abs(direction[axis]) > 1e-4)


def _check(image: "Dataset") -> None:
    missing = [name for name in _NEEDED if image.get(name) in (None, "")]
    if missing:
        raise ValueError(
            f"the source image has no {', '.join(missing)}, without which no result can refer to it; take the image "
            "as the archive gives it"
        )
    frames = int(image.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(
            f"the source image has {frames} frames; a result can refer to single-frame images only; split it into them"
        )


def _lies_in_space(image: "Dataset") -> bool:
    missing = [name for name in _OF_SLICES if not image.get(name)]
    if not missing:
        spacing = _spacing(image, "PixelSpacing")
        if spacing is None:
            raise ValueError(f"the slice has the PixelSpacing {image.PixelSpacing}; expected two positive numbers")
        return True
    if str(image.SOPClassUID) in _SLICE_CLASSES:
        raise ValueError(
            f"the slice {image.SOPInstanceUID} has no {', '.join(missing)}, so its place in the patient is unknown; "
            "take the slice as the archive gives it"
        )
    return False


def _check_series(given: "Sequence[Dataset]", slices: Sequence[bool]) -> None:
    if not all(slices):
        raise ValueError(f"{len(given)} projection images were given; make one result for each image")
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID"):
        if len({str(image[name].value) for image in given}) > 1:
            raise ValueError(f"the source images differ in {name}; give the slices of one series")
    sizes = {(int(image.Rows), int(image.Columns)) for image in given}
    if len(sizes) > 1:
        raise ValueError(f"the source images have the sizes {sorted(sizes)}; the slices of a series have one size")
    if len({str(image.SOPInstanceUID) for image in given}) < len(given):
        raise ValueError("a source image was given twice; give each slice once")


def _cleaned(image: "Dataset", is_slice: bool, deidentified: bool) -> "Dataset":
    from pydicom import Dataset

    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    for name in _BLANK:
        setattr(header, name, "")
    kept: tuple[str, ...] = (*_NEEDED, *_DESCRIBING, *(_OF_SLICES if is_slice else ()))
    for name in kept if deidentified else (*kept, *_IDENTIFYING):
        value = _readable(image, name)
        if value not in (None, "", []):
            setattr(header, name, value)
    if not is_slice:
        for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelSpacingCalibrationType", "NominalScannedPixelSpacing"):
            value = _readable(image, name)
            if value is not None:
                setattr(header, name, value)
    if deidentified:
        for name in _UIDS:
            if name in header:
                setattr(header, name, _replaced(str(header[name].value)))
    return header


def _readable(image: "Dataset", name: str) -> Any:
    """Return a value of the source; None if it cannot be decoded or has a form that no writer accepts."""
    try:
        value = image.get(name)
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError):
        return None
    form = _FORMS.get(name)
    return value if form is None or value is None or re.fullmatch(form, str(value).strip()) else None


def _add_thickness(headers: "Sequence[Dataset]", given: "Sequence[Dataset]") -> None:
    """Add SliceThickness to each header: as stated, else the distance of the slices, else 1 mm.

    Without it, a segmentation cannot be read back.
    """
    stated = [_positive(image.get("SliceThickness")) for image in given]
    fallback = _distance(headers)
    for header, thickness in zip(headers, stated, strict=True):
        header.SliceThickness = f"{thickness or fallback:.10g}"


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < np.inf else None


def _distance(headers: "Sequence[Dataset]") -> float:
    if len(headers) < 2:
        return 1.0
    first = headers[0].ImageOrientationPatient
    normal = np.cross(np.asarray(first[:3], float), np.asarray(first[3:], float))
    heights = np.sort([float(np.dot(normal, np.asarray(header.ImagePositionPatient, float))) for header in headers])
    return float(np.median(np.diff(heights))) or 1.0


@functools.cache
def _secret() -> str:
    return os.urandom(32).hex()


def _replaced(uid: str) -> str:
    """Return the new UID of an old one: the same within this process, and not to be traced back."""
    digest = hashlib.sha256(f"{_secret()} {uid}".encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"
