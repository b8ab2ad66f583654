"""A mask as a DICOM segmentation (SEG) that refers to its source image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.pictures import class_colour
from c2fvl.inference.outputs.codes import class_codes, in_words, is_lesion, places_of, regions
from c2fvl.inference.outputs.equipment import (
    SERIES_NUMBERS,
    algorithm,
    copy_lossy_compression,
    equipment,
    mark_deidentified,
)
from c2fvl.inference.outputs.result_info import Orientation, ResultInfo
from c2fvl.inference.outputs.sides import has_sides, orientation_of, remark_on_sides
from c2fvl.inference.outputs.source import (
    SPACINGS,
    Source,
    explained,
    new_uid,
    read_source,
    spacing_in_viewers,
    spacing_of_film,
    tolerant,
)

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

GEOMETRIES = ("none", "synthetic")


@tolerant
def segmentation(
    source: "Dataset | Sequence[Dataset]",
    mask: NDArray[Any],
    about: ResultInfo,
    *,
    geometry: str = "none",
    deidentified: bool = False,
) -> "Dataset":
    """Return a mask as a DICOM segmentation, BINARY, one segment for each class.

    `mask` is (H, W) for one image or (N, H, W) for the slices of a series in the order of `source`, 0 for background
    and 1, 2, … for the classes in `about.classes`, in the pixel grid of the source. A projection image has no place in
    space, and its segmentation has none either; `geometry="synthetic"` gives it one, at the origin, for programs that
    refuse a segmentation without (3D Slicer). Raises `ValueError` for a mask of another size or with other values, and
    for a source to which no result can refer.
    """
    if geometry not in GEOMETRIES:
        raise ValueError(f"the geometry is {geometry!r}; expected one of {', '.join(GEOMETRIES)}")
    with explained():
        import highdicom
    read = read_source(source, deidentified=deidentified)
    planes = checked_mask(mask, read, len(about.classes))
    orientation = orientation_of(read.first, about.orientation)
    if not read.are_slices:
        _place_film(read.first, synthetic=geometry == "synthetic")
    made = highdicom.seg.Segmentation(
        source_images=read.headers,
        pixel_array=_by_class(planes, len(about.classes)),
        segmentation_type="BINARY",
        segment_descriptions=_segments(about, orientation, read.are_slices),
        series_number=SERIES_NUMBERS["seg"],
        content_label="C2FVL_LESION",
        content_description=_description(read.are_slices, geometry),
        content_creator_name="C2FVL^",
        content_qualification="RESEARCH",
        series_description="c2fvl mask, research use only",
        omit_empty_frames=read.are_slices and bool(planes.any()),
        **equipment(about),
    )
    if not read.are_slices:
        made.PatientOrientation = list(orientation or ())
    if len(read.headers) == 1:
        _replace_invented_distance(made)
    copy_lossy_compression(read.first, made)
    if deidentified:
        mark_deidentified(made)
    return made


def _replace_invented_distance(made: "Dataset") -> None:
    """Let SpacingBetweenSlices be the thickness: of one image, highdicom says 1 mm, and viewers compute with it."""
    for measures in made.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence", ()):
        if "SpacingBetweenSlices" in measures:
            measures.SpacingBetweenSlices = measures.SliceThickness


def checked_mask(mask: NDArray[Any], source: Source, num_classes: int) -> NDArray[np.uint8]:
    """Return the mask as (N, H, W) uint8. Raises `ValueError` if it does not fit the source or the classes."""
    array = np.asarray(mask)
    expected = (len(source.headers), *source.size)
    planes = array[None] if array.ndim == 2 else array
    if planes.shape != expected:
        wanted = source.size if len(source.headers) == 1 else expected
        raise ValueError(
            f"the mask has the shape {array.shape} and the source image {wanted}; give the mask in the pixel grid of "
            "the file"
        )
    if planes.dtype.kind not in "bu" or (planes.size and planes.max() > num_classes):
        raise ValueError(
            f"the mask holds {array.dtype} values up to {array.max()}; expected unsigned integers from 0 to "
            f"{num_classes}"
        )
    return planes.astype(np.uint8, copy=False)


def _by_class(planes: NDArray[np.uint8], num_classes: int) -> NDArray[np.uint8]:
    """Return the mask of each class: (N, H, W), or (N, H, W, classes) for several."""
    if num_classes == 1:
        return planes
    return np.stack([planes == number for number in range(1, num_classes + 1)], axis=-1).astype(np.uint8)


def _segments(about: ResultInfo, orientation: Orientation | None, are_slices: bool) -> "list[SegmentDescription]":
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    places = places_of(about.zones, has_sides=has_sides(orientation), has_heights=not are_slices)
    remark = remark_on_sides(orientation)
    segments = []
    for number, name in enumerate(about.classes, start=1):
        category, kind = class_codes(name)
        is_the_lesion = is_lesion(name)
        segment = SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type="SEMIAUTOMATIC" if about.report_used else "AUTOMATIC",
            algorithm_identification=algorithm(about),
            tracking_uid=new_uid(),
            tracking_id=f"c2fvl {name}"[:64],
            anatomic_regions=regions(places) if is_the_lesion else None,
            display_color=CIELabColor.from_rgb(*class_colour(number)),
        )
        if is_the_lesion and about.zones:
            where = f"Of the patient: {in_words(places)}"
            segment.SegmentDescription = f"{where}. No side is coded, since {remark}." if remark else f"{where}."
        segments.append(segment)
    return segments


def _description(are_slices: bool, geometry: str) -> str:
    """Return what the file is, in at most 64 characters."""
    if not are_slices and geometry == "synthetic":
        return "AI lesion mask, research use only; synthetic geometry"
    return "AI lesion mask, research use only"


def _place_film(header: "Dataset", *, synthetic: bool) -> None:
    """Give a projection image the geometry that its segmentation is to have.

    A positive spacing goes with a formal thickness, without which the segmentation cannot be read back. Zeros are left
    out. The synthetic place is the one at which ITK shows the image.
    """
    spacing = spacing_in_viewers(header) if synthetic else spacing_of_film(header)
    for name in SPACINGS:
        if name in header:
            del header[name]
    if spacing is not None:
        header.PixelSpacing = [f"{value:.10g}" for value in spacing]
        header.SliceThickness = "1"
    if synthetic:
        header.FrameOfReferenceUID = new_uid()
        header.ImagePositionPatient = [0, 0, 0]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
