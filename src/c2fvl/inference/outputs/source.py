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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from c2fvl.files.dicom_headers import numbers, quiet, value, whole

if TYPE_CHECKING:
    from pydicom import Dataset

P = ParamSpec("P")
R = TypeVar("R")
NOT_INSTALLED = "DICOM results need pydicom and highdicom, which are not installed: pip install 'c2fvl[dicom]'"
DEIDENTIFICATION = "c2fvl: patient and study blank, new UIDs"

_IDENTIFYING = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Identifiers of patient and study, by which an archive finds where a result belongs."""
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_DESCRIBING = (
    "Modality", "SeriesNumber", "InstanceNumber", "Laterality", "PatientOrientation", "AnatomicalOrientationType",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
_OF_SLICES = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_BLANK = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
          "StudyTime", "ReferringPhysicianName", "Modality")  # fmt: skip
_FORMS = {
    "PatientBirthDate": r"\d{8}",
    "PatientSex": "[MFO]",
    "Laterality": "[LR]",
    "StudyDate": r"\d{8}",
    "StudyTime": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
}
"""Values of another form are left out, because no writer accepts them."""
_CT = "1.2.840.10008.5.1.4.1.1.2"
_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX for processing",
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    _CT: "CT",
}
"""The SOP classes of images to which a result can refer."""


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


def tolerant(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function take odd values of a source as they are: names without a caret, identifiers that are too long.

    A result must repeat them to be found. pydicom and highdicom write them into warnings and logs, where a patient's
    name must not be.
    """

    @functools.wraps(function)
    def silenced(*args: P.args, **kwargs: P.kwargs) -> R:
        with quiet():
            return function(*args, **kwargs)

    return silenced


@tolerant
def read_source(
    images: "Dataset | Sequence[Dataset]", *, deidentified: bool = False, needs_place: bool = True
) -> Source:
    """Return the cleaned headers of one projection image or of the slices of one series.

    With `needs_place`, slices must say where they lie, and several images must be slices. `deidentified` blanks the
    identifiers and dates, and replaces each UID by a new one, the same for the same UID as long as the process runs.
    Raises `ValueError` for several series, images of several sizes, multi-frame images, images of other kinds, and
    missing attributes that cannot be blank.
    """
    with explained():
        from pydicom import Dataset
    given = [images] if isinstance(images, Dataset) else list(images)
    if not given:
        raise ValueError("there is no source image; give the dataset that was segmented")
    for image in given:
        _check(image)
    are_slices = all(_lies_in_space(image, needs_place) for image in given)
    if len(given) > 1:
        _check_series(given)
        if needs_place and not are_slices:
            raise ValueError(f"{len(given)} projection images were given; make one result for each image")
    headers = [_cleaned(image, are_slices, deidentified) for image in given]
    if are_slices:
        _add_thickness(headers, given)
    return Source(headers, are_slices)


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
    found = numbers(header, name)
    return (found[0], found[1]) if len(found) == 2 and min(found) > 0 else None


def _check(image: "Dataset") -> None:
    missing = [name for name in _NEEDED if value(image, name) is None]
    if missing:
        raise ValueError(
            f"the source image has no {', '.join(missing)}, without which no result can refer to it; take the image "
            "as the archive gives it"
        )
    if str(image.SOPClassUID) not in _CLASSES:
        kind = getattr(image.SOPClassUID, "name", image.SOPClassUID)
        raise ValueError(f"the source is {kind}; a result can refer to {', '.join(_CLASSES.values())} images")
    frames = whole(image, "NumberOfFrames", 1)
    if frames > 1:
        raise ValueError(
            f"the source image has {frames} frames; a result can refer to single-frame images only; split it into them"
        )


def _lies_in_space(image: "Dataset", needs_place: bool) -> bool:
    missing = [name for name in _OF_SLICES if value(image, name) is None]
    if not missing and _spacing(image, "PixelSpacing") is None:
        missing = ["positive PixelSpacing"]
    if missing and needs_place and str(image.SOPClassUID) == _CT:
        raise ValueError(
            f"the CT slice has no {', '.join(missing)}, so its place in the patient is unknown; take the slice as the "
            "archive gives it"
        )
    return not missing


def _check_series(given: "Sequence[Dataset]") -> None:
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID"):
        if len({str(image.get(name, "")) for image in given}) > 1:
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
        found = _readable(image, name)
        if found not in (None, "", []):
            setattr(header, name, found)
    if not is_slice:
        for name in SPACINGS:
            if _spacing(image, name):
                setattr(header, name, list(numbers(image, name)))
    if deidentified:
        for name in _UIDS:
            if name in header:
                setattr(header, name, _replaced(str(header[name].value)))
    return header


def _readable(image: "Dataset", name: str) -> Any:
    """Return a value of the source; None if it cannot be decoded or has a form that no writer accepts."""
    found = value(image, name)
    form = _FORMS.get(name)
    return found if form is None or re.fullmatch(form, str(found).strip()) else None


def _add_thickness(headers: "Sequence[Dataset]", given: "Sequence[Dataset]") -> None:
    """Add SliceThickness to each header: as stated, else the distance of the slices, else 1 mm.

    Without it, a segmentation cannot be read back.
    """
    fallback = _distance(headers)
    for header, image in zip(headers, given, strict=True):
        stated = numbers(image, "SliceThickness")
        header.SliceThickness = f"{stated[0] if stated and stated[0] > 0 else fallback:.10g}"


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
