"""Read the slices of a CT series from DICOM files, sorted along the body and in Hounsfield units (HU).

Scouts, maps, other planes, damaged and repeated files of the series are left out and counted. Missing slices, uneven
distances and a tilted gantry are said; they do not hinder, since a network takes slice by slice.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.files.dicom_decode import decode_frame, is_lossy
from c2fvl.files.dicom_headers import has_value, header_of, numbers, parse, read_layout, text, texts, value, whole
from c2fvl.files.dicom_presentation import rescaled
from c2fvl.files.images import MAX_PIXELS, read_image_bytes
from c2fvl.files.volume import AIR, MAX_BYTES, Volume, nearest_lie, remarks_on_values

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_ENHANCED = (f"{CT_IMAGE}.1", f"{CT_IMAGE}.2")
_MEDIA = "MediaStorageSOPClassUID"
_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}
_MAPS = {"PERFUSION", "MIP", "MINIP", "RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX", "RGB", "VRT"}
_COLOURED = {"COLOR", "MIXED", "TRUE_COLOR"}
_CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "BODY", "TRUNK", "TORSO")
_MAX_TILT = 30.0
"""In degrees; a gantry tilts no further."""
_SAID_TILT, _SAME_PLACE_MM, _SAID_JITTER_MM, _GAP = 1.0, 0.01, 0.1, 1.5
_SAME_COSINE = 0.02
_INT16 = 2**15
_DAMAGED = "damaged"
_MAX_DAMAGED = 20
"""A decoder may take half a minute on a damaged slice, and a mask with many holes is of no use."""


@dataclass(frozen=True)
class _Slice:
    """One slice before it has its place in the stack."""

    header: Any
    values: NDArray[Any]
    """(H, W) in HU as they lie in the file."""
    cosines: NDArray[np.float64]
    """(6,), where the rows and the columns run."""
    place: NDArray[np.float64]
    """(3,) mm, of the first pixel."""
    spacing: tuple[float, ...]
    lossy: bool
    remarks: tuple[str, ...]

    @property
    def form(self) -> tuple[Any, ...]:
        """Return what all slices of a series have in common."""
        return self.values.shape, self.spacing, text(self.header, "FrameOfReferenceUID")

    @property
    def order(self) -> tuple[int, int, str]:
        """Return which of several slices at one place comes first."""
        uid = str(value(self.header, "SOPInstanceUID"))
        return whole(self.header, "AcquisitionNumber"), whole(self.header, "InstanceNumber"), uid


def series_of(dataset: Any) -> str:
    """Return the UID of the series to which an object belongs; empty if it says none."""
    return str(value(dataset, "SeriesInstanceUID") or "").strip()


def refusal_of(dataset: Any) -> str:
    """Return why an object is no CT slice that can be segmented; empty if it is one."""
    uid = str(value(dataset, "SOPClassUID") or value(getattr(dataset, "file_meta", None) or {}, _MEDIA) or "").strip()
    kind = texts(dataset, "ImageType")
    words = {word for item in kind for word in re.split(r"[^A-Z]+", item)}
    if words & _MAPS or text(dataset, "PixelPresentation") in _COLOURED:
        return f"a map or a projection, not HU ({text(dataset, 'ImageType')})"
    if uid in _ENHANCED:
        return "an enhanced CT, several slices in one file; export it as single slices (CT Image Storage)"
    if uid != CT_IMAGE:
        return "no CT image"
    if words & _LOCALIZERS:
        return "a localizer (scout)"
    if len(kind) > 2 and kind[2] != "AXIAL":
        return f"ImageType {kind[2]}, expected AXIAL"
    cosines, place = numbers(dataset, "ImageOrientationPatient"), numbers(dataset, "ImagePositionPatient")
    if len(cosines) != 6 or len(place) != 3 or not _are_perpendicular(np.array(cosines)):
        return "without its place in the patient (ImagePositionPatient, ImageOrientationPatient)"
    lie, angle = nearest_lie(_directions(np.array(cosines)))
    return "not axial (ImageOrientationPatient)" if lie.axes[0] != 0 or angle > _MAX_TILT else ""


def read_series(paths: Iterable[Path | str], *, max_pixels: int = MAX_PIXELS) -> Volume:
    """Read the slices of one series.

    Files that are no slice of it are left out and counted in `Volume.skipped`. Raises `ValueError` where no slice is
    left, for several series, for many damaged files, and for slices of more than `MAX_BYTES` in all.
    """
    skipped: Counter[str] = Counter()
    damaged: list[str] = []
    slices: list[_Slice] = []
    uids: set[str] = set()
    series: set[str] = set()
    for path in sorted(map(Path, paths)):
        try:
            dataset = parse(read_image_bytes(path, max_pixels=max_pixels))
            uid = str(value(dataset, "SOPInstanceUID") or path)
            reason = refusal_of(dataset) or ("a copy of another slice (SOPInstanceUID)" if uid in uids else "")
            if reason:
                skipped[reason] += 1
                continue
            slices.append(_read_slice(dataset, max_pixels))
        except (OSError, ValueError) as error:
            skipped[_DAMAGED] += 1
            damaged.append(f"{path.name}: {str(error).removeprefix(f'{path}: ')}")
            if len(damaged) > _MAX_DAMAGED:
                raise ValueError(f"more than {_MAX_DAMAGED} slices cannot be read, the first {damaged[0]}") from error
            continue
        uids.add(uid)
        series.add(series_of(dataset))
        if len(slices) * slices[0].values.nbytes > MAX_BYTES:
            raise ValueError(f"the slices take more than {MAX_BYTES >> 20} MiB; predict a part of the series")
    if len(series) > 1:
        raise ValueError(f"the files belong to {len(series)} series; give the slices of one series")
    if not slices:
        reasons = [f"{count} × {reason}" for reason, count in skipped.items() if reason != _DAMAGED]
        raise ValueError(f"there is no CT slice to segment: {'; '.join([*reasons, *damaged[:3]]) or 'no file'}")
    return _stacked(_without_others(slices, skipped), skipped, damaged)


def _read_slice(dataset: Any, max_pixels: int) -> _Slice:
    layout = read_layout(dataset, max_pixels)
    if layout.samples != 1 or layout.frames != 1:
        raise ValueError(f"it holds {layout.samples} colours and {layout.frames} images, expected one grey image")
    spacing = numbers(dataset, "PixelSpacing")
    decoded = decode_frame(dataset, layout)
    table, is_padding, faults = rescaled(dataset, layout)
    if faults:
        raise ValueError(faults[0])
    values = np.where(is_padding, AIR, table).astype(np.float32)[decoded.codes]
    if (values == np.rint(values)).all() and np.abs(values).max() < _INT16:
        values = values.astype(np.int16)
    return _Slice(
        header_of(dataset), values,
        np.array(numbers(dataset, "ImageOrientationPatient")), np.array(numbers(dataset, "ImagePositionPatient")),
        spacing if len(spacing) == 2 and min(spacing) > 0 else (), is_lossy(dataset, layout),
        (*decoded.warnings, *_remarks(dataset)),
    )  # fmt: skip


def _remarks(dataset: Any) -> list[str]:
    """Return what is odd about the header of a slice."""
    remarks = []
    if not has_value(dataset, "RescaleIntercept"):
        remarks.append("RescaleIntercept is missing, so the stored values were taken as HU.")
    units, body = text(dataset, "RescaleType"), text(dataset, "BodyPartExamined")
    if units not in ("", "HU", "US"):
        remarks.append(f"RescaleType is {units}, expected HU.")
    if body and not any(word in body for word in _CHEST_WORDS):
        remarks.append(f"BodyPartExamined is {body}, expected CHEST.")
    return remarks


def _without_others(slices: Sequence[_Slice], skipped: Counter[str]) -> list[_Slice]:
    """Return the slices of the commonest form and plane."""
    form, _ = Counter(one.form for one in slices).most_common(1)[0]
    alike = [one for one in slices if one.form == form]
    plane, _ = Counter(tuple(one.cosines.round(2)) for one in alike).most_common(1)[0]
    kept = [one for one in alike if np.abs(one.cosines - plane).max() < _SAME_COSINE]
    if len(kept) < len(slices):
        skipped["another size, spacing, frame of reference or plane than most slices"] += len(slices) - len(kept)
    return kept


def _stacked(slices: list[_Slice], skipped: Counter[str], damaged: Sequence[str]) -> Volume:
    """Return the slices as a volume, sorted from the feet to the head."""
    cosines = slices[0].cosines
    normal = _normal(cosines)
    kept: list[_Slice] = []
    for one in sorted(slices, key=lambda one: (round(float(one.place @ normal), 2), one.order)):
        if kept and float((one.place - kept[-1].place) @ normal) < _SAME_PLACE_MM:
            skipped["at the place of another slice (several phases?)"] += 1
        else:
            kept.append(one)
    lie, angle = nearest_lie(_directions(cosines))
    step, remarks = _step(np.array([float(one.place @ normal) for one in kept]), kept[0].header)
    if angle > _SAID_TILT:
        remarks.append(f"The slices are tilted by {angle:.0f} degrees (gantry); each was segmented as it is.")
    if not kept[0].spacing:
        remarks.append("PixelSpacing is missing or senseless, so there are no millilitres.")
    distances = (step, *kept[0].spacing)  # of the axes of the stack
    has_spacing = step > 0 and len(distances) == 3
    volume = Volume(
        lie.upright(np.stack([one.values for one in kept])), "dicom", lie,
        spacing=(distances[0], distances[lie.axes[1]], distances[lie.axes[2]]) if has_spacing else None,
        lossy=any(one.lossy for one in kept), skipped=dict(skipped), headers=tuple(one.header for one in kept),
    )  # fmt: skip
    of_slices = dict.fromkeys(remark for one in kept for remark in one.remarks)
    left_out = [f"Left out: {count} × {reason}." for reason, count in skipped.items() if reason != _DAMAGED]
    left_out += [f"A slice was left out because it cannot be read: {fault}" for fault in damaged]
    return replace(volume, warnings=(*remarks, *of_slices, *left_out, *remarks_on_values(volume)))


def _step(heights: NDArray[np.float64], header: Any) -> tuple[float, list[str]]:
    """Return the distance of the slices in mm, 0 if unknown, and what is odd about their places."""
    if len(heights) == 1:
        return max((numbers(header, "SliceThickness") or (0.0,))[0], 0.0), ["The series holds one slice."]
    steps = np.diff(heights)
    step = float(np.median(steps))
    is_gap = steps > _GAP * step
    remarks = []
    if is_gap.any():
        missing = int((np.rint(steps[is_gap] / step) - 1).sum())
        remarks.append(f"About {max(missing, 1)} slice(s) are missing in {int(is_gap.sum())} place(s) of the series.")
    if np.abs(steps[~is_gap] - step).max(initial=0) > _SAID_JITTER_MM:
        low, high = steps[~is_gap].min(), steps[~is_gap].max()
        remarks.append(f"The distance of the slices varies from {low:.2f} to {high:.2f} mm; millilitres are rough.")
    return step, remarks


def _normal(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the direction from slice to slice, towards the head."""
    normal = np.cross(cosines[:3], cosines[3:])
    return normal if normal[2] >= 0 else -normal


def _directions(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the axes of a stack (slices, rows, columns of the file) run, as columns (3, 3)."""
    return np.stack([_normal(cosines), cosines[3:], cosines[:3]], axis=1)


def _are_perpendicular(cosines: NDArray[np.float64]) -> bool:
    lengths = np.linalg.norm(cosines.reshape(2, 3), axis=1)
    return bool(np.abs(lengths - 1).max() < 0.01 and abs(cosines[:3] @ cosines[3:]) < 0.01)
