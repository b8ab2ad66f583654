"""Measurements of a lesion as a DICOM measurement report (TID 1500), for programs that read numbers with codes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from c2fvl.inference.outputs.codes import OWN_SCHEME, Triple, concept, lesion_numbers, places_of, sites
from c2fvl.inference.outputs.equipment import SERIES_NUMBERS, algorithm_name, equipment, mark_deidentified
from c2fvl.inference.outputs.result_info import ResultInfo
from c2fvl.inference.outputs.sides import has_sides, orientation_of
from c2fvl.inference.outputs.source import Source, explained, new_uid, read_source, tolerant
from c2fvl.inference.outputs.structured_report import ENGLISH, observation_context

if TYPE_CHECKING:
    from pydicom import Dataset

_OPACITY, _ABSENT = ("112001", "DCM", "Opacity"), ("2667000", "SCT", "Absent")
_FILM, _CT = ("399208008", "SCT", "Plain chest X-ray"), ("169069000", "SCT", "CT of chest")
_AREA, _SQUARE_MM = ("42798000", "SCT", "Area"), ("mm2", "UCUM", "square millimeter")
_VOLUME, _ML = ("118565006", "SCT", "Volume"), ("ml", "UCUM", "milliliter")
_ESTIMATED_DICE, _NO_UNIT = ("EST_DICE", OWN_SCHEME, "Estimated Dice coefficient"), ("1", "UCUM", "no units")


@tolerant
def measurements(
    source: "Dataset | Sequence[Dataset]",
    segmentation: "Dataset",
    about: ResultInfo,
    *,
    pixel_mm2: float | None = None,
    voxel_ml: float | None = None,
    deidentified: bool = False,
) -> "Dataset":
    """Return what is measured of each lesion class as a measurement report in Comprehensive SR.

    `segmentation` comes from `c2fvl.inference.outputs.seg` for the same source, and is de-identified if this is; its
    pixels are counted. Give `pixel_mm2`, the area of a pixel, for a projection image only if its spacing is known, and
    `voxel_ml` for slices only if their distance is. Without any lesion, the report states that there is no opacity.
    Raises `ValueError` if the segmentation is of other images, or if no class is a lesion.
    """
    with explained():
        import highdicom
    read = read_source(source, deidentified=deidentified)
    _check_reference(segmentation, read)
    lesions = lesion_numbers(about.classes)
    if not lesions:
        raise ValueError(f"there is no lesion to measure among the classes {', '.join(about.classes)}")
    unit = voxel_ml if read.are_slices else pixel_mm2
    counts = {number: _num_pixels(segmentation, number) for number in lesions}
    sizes = {number: None if unit is None else round(count * unit, 3) for number, count in counts.items() if count}
    groups = [_group(read, segmentation, number, about, size) for number, size in sizes.items()]
    content = highdicom.sr.MeasurementReport(
        observation_context=observation_context(about),
        procedure_reported=concept(_CT if read.are_slices else _FILM),
        imaging_measurements=groups or [_absent(read, about, lesions[0])],
        language_of_content_item_and_descendants=highdicom.sr.LanguageOfContentItemAndDescendants(concept(ENGLISH)),
    )
    made = highdicom.sr.ComprehensiveSR(
        evidence=[*read.headers, segmentation],
        content=content,
        series_number=SERIES_NUMBERS["measurements"],
        series_description="c2fvl measurements, research use only",
        **equipment(about),
    )
    if deidentified:
        mark_deidentified(made)
    return made


def _check_reference(segmentation: "Dataset", read: Source) -> None:
    referenced = {
        str(item.ReferencedSOPInstanceUID)
        for series in segmentation.get("ReferencedSeriesSequence", ())
        for item in series.ReferencedInstanceSequence
    }
    if not {str(header.SOPInstanceUID) for header in read.headers} <= referenced:
        raise ValueError(
            "the segmentation refers to other images than the source given; make both from the same images, and "
            "de-identify both or neither"
        )


def _num_pixels(segmentation: "Dataset", number: int) -> int:
    """Return the number of pixels of a segment, in all of its frames."""
    frames = segmentation.pixel_array
    frames = frames[None] if frames.ndim == 2 else frames
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    found = 0
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        identified = groups.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        if int(identified[0].ReferencedSegmentNumber) == number:
            found += int(np.count_nonzero(frame))
    return found


def _values(about: ResultInfo, name: Triple, value: float | None, unit: Triple) -> list[Any]:
    from highdicom.sr import Measurement

    known = [(name, value, unit), (_ESTIMATED_DICE, about.estimated_dice, _NO_UNIT)]
    return [
        Measurement(name=concept(name), value=float(value), unit=concept(unit))
        for name, value, unit in known
        if value is not None
    ]


def _described(about: ResultInfo, read: Source, number: int) -> dict[str, Any]:
    """Return what every group says: its tracking, the algorithm, what is looked for, and where."""
    from highdicom.sr import AlgorithmIdentification, TrackingIdentifier

    name, version = algorithm_name(about)
    sided = has_sides(orientation_of(read.first, about.orientation))
    return {
        "tracking_identifier": TrackingIdentifier(uid=new_uid(), identifier=f"c2fvl {about.classes[number - 1]}"),
        "algorithm_id": AlgorithmIdentification(
            name, version, [f"{key}={value}" for key, value in about.settings.items()]
        ),
        "finding_sites": sites(places_of(about.zones, has_sides=sided, has_heights=not read.are_slices)),
    }


def _group(read: Source, segmentation: "Dataset", number: int, about: ResultInfo, size: float | None) -> Any:
    """Return the measurements of a segment: of a plane for a projection image, of a volume for slices."""
    from highdicom import sr

    values = _values(about, *((_VOLUME, size, _ML) if read.are_slices else (_AREA, size, _SQUARE_MM)))
    described = {**_described(about, read, number), "finding_type": concept(_OPACITY), "measurements": values or None}
    ids = (segmentation.SOPClassUID, segmentation.SOPInstanceUID)
    if read.are_slices:
        series = sr.SourceSeriesForSegmentation(read.first.SeriesInstanceUID)
        segment = sr.ReferencedSegment(*ids, segment_number=number, source_series=series)
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **described)
    image = sr.SourceImageForSegmentation(read.first.SOPClassUID, read.first.SOPInstanceUID)
    frame = sr.ReferencedSegmentationFrame(*ids, frame_number=number, segment_number=number, source_image=image)
    del frame[0].ReferencedSOPSequence[0].ReferencedSegmentNumber  # the standard wants the frame or the segment
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=frame, **described)


def _absent(read: Source, about: ResultInfo, number: int) -> Any:
    """Return the statement that there is no opacity in the images."""
    from highdicom import sr

    return sr.MeasurementsAndQualitativeEvaluations(
        **_described(about, read, number),
        qualitative_evaluations=[sr.QualitativeEvaluation(concept(_OPACITY), concept(_ABSENT))],
        source_images=[
            sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID) for header in read.headers
        ],
    )
