"""Structured reports: read back by highdicom, valid, on the patient's side, without the user's text unless wanted."""

import dataclasses

import numpy as np
import pytest
from support.clinical_files import dicom, validation_errors, with_secrets, written

from c2fvl.inference.outputs.measurement_report import measurements
from c2fvl.inference.outputs.result_info import ResultInfo
from c2fvl.inference.outputs.seg import segmentation
from c2fvl.inference.outputs.structured_report import report
from c2fvl.version import __version__

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
ABOUT = ResultInfo("filmfirst", "ab" * 32, "3", trust=0.5, zones=frozenset({"rlower", "lupper"}), estimated_dice=0.71)
FINDING = "Lesion in the patient's right lower zone and left upper zone."
SERIES = [f"dicomdirtests/98892001/CT5N/{name}" for name in ("2062", "2392", "2693", "3023", "3353")]


def texts(content):
    """Return the name and the value of each text of a report, from the top down."""
    found = []
    for item in content.get("ContentSequence", []):
        if item.ValueType == "TEXT" and item.RelationshipType == "CONTAINS":
            found.append((item.ConceptNameCodeSequence[0].CodeMeaning, item.TextValue))
        found += texts(item)
    return found


def saved(made, path):
    """Write a report and return it as highdicom reads it."""
    made.save_as(path, enforce_file_format=True)
    return highdicom.sr.srread(path)


@pytest.mark.parametrize(
    "name", ["RG1_UNCR.dcm", "RG3_UNCR.dcm", "CT_small.dcm", "chrJapMulti.dcm", "chrKoreanMulti.dcm"]
)
def test_the_finding_is_read_back_from_a_valid_file(name, tmp_path):
    source = dicom(name)
    made = saved(report(source, FINDING, ABOUT), tmp_path / "sr.dcm")
    (kind, finding), (comment_kind, comment) = texts(made)
    assert (kind, finding, comment_kind) == ("Finding", FINDING, "Comment")
    for part in ("research use only", f"c2fvl filmfirst {__version__}, model 3", "threshold 0.5", "ab" * 32):
        assert part in comment
    assert "assumed" not in comment
    assert (made.CompletionFlag, made.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    evidence = made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in evidence] == [source.SOPInstanceUID]
    assert str(made.PatientName) == str(source.PatientName)
    assert validation_errors(tmp_path / "sr.dcm") == []


def test_a_report_refers_to_every_slice(tmp_path):
    sources = [dicom(name) for name in SERIES]
    made = saved(report(sources, FINDING, ABOUT), tmp_path / "sr.dcm")
    evidence = made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert {item.ReferencedSOPInstanceUID for item in evidence} == {source.SOPInstanceUID for source in sources}
    assert validation_errors(tmp_path / "sr.dcm") == []


def test_the_users_report_is_kept_only_when_wanted(tmp_path):
    source, given = dicom("RG1_UNCR.dcm"), "Frau Müller: 右下肺野に浸潤影。"
    report(source, FINDING, ABOUT, given_report=given).save_as(tmp_path / "without.dcm", enforce_file_format=True)
    assert "Müller".encode() not in (tmp_path / "without.dcm").read_bytes()
    made = saved(report(source, FINDING, ABOUT, given_report=given, keep_text=True), tmp_path / "with.dcm")
    assert ("Previous Finding", given) in texts(made)
    assert validation_errors(tmp_path / "with.dcm") == []


def test_an_assumed_orientation_is_said():
    source = dicom("RG1_UNCR.dcm")
    del source.PatientOrientation
    assert "Right and left are assumed" in dict(texts(report(source, FINDING, ABOUT)))["Comment"]
    given = dataclasses.replace(ABOUT, orientation=("L", "F"))
    assert "assumed" not in dict(texts(report(source, FINDING, given)))["Comment"]


def test_an_empty_finding_is_refused():
    with pytest.raises(ValueError, match="the finding is empty"):
        report(dicom("RG1_UNCR.dcm"), " ", ABOUT)


def both(source, mask, about=ABOUT, deidentified=False, **values):
    mask = np.asarray(mask, np.uint8)
    segments = segmentation(source, mask, about, deidentified=deidentified)
    return segments, measurements(source, segments, about, deidentified=deidentified, **values)


def numbers(group):
    return {item.name.meaning: (item.value, item.unit.value) for item in group.get_measurements()}


def places(group):
    return sorted(
        (site.value.value, site.laterality.meaning if site.laterality else None) for site in group.finding_sites
    )


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG3_UNCR.dcm"])
@pytest.mark.parametrize("area", [None, 0.02])
def test_the_measurements_of_a_film_are_read_back_from_a_valid_file(name, area, tmp_path):
    source = dicom(name)
    mask = np.zeros((source.Rows, source.Columns))
    mask[100:300, 40:90] = 1
    segments, made = both(source, mask, pixel_mm2=area)
    (group,) = saved(made, tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    expected = {} if area is None else {"Area": (200 * 50 * area, "mm2")}
    assert numbers(group) == {**expected, "Estimated Dice coefficient": (0.71, "1")}
    assert group.finding_type.value == "112001"
    assert places(group) == [("281392002", "Left"), ("281394001", "Right")]
    frame, image = group.referenced_segmentation_frame
    assert frame.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == segments.SOPInstanceUID
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert validation_errors(tmp_path / "sr.dcm") == []


def test_the_measurements_refer_to_the_frame_of_the_lesion(tmp_path):
    source = dicom("RG3_UNCR.dcm")
    mask = np.zeros((source.Rows, source.Columns))
    mask[100:300, 40:90], mask[400:500, 400:700] = 1, 2
    segments, made = both(source, mask, dataclasses.replace(ABOUT, classes=("lung", "lesion")))
    (group,) = saved(made, tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    number = group.referenced_segmentation_frame[0].ReferencedSOPSequence[0].ReferencedFrameNumber
    assert (written(segments, tmp_path / "seg.dcm").pixel_array[number - 1] == (mask == 2)).all()


def test_each_lesion_class_is_measured_apart_and_organs_are_not(tmp_path):
    source = dicom("RG3_UNCR.dcm")
    mask = np.zeros((source.Rows, source.Columns))
    mask[100:300, 40:90], mask[400:500, 400:700], mask[800:810, 4:7] = 1, 2, 4
    classes = ("lung", "consolidation", "ground-glass opacity", "lesion")
    about = dataclasses.replace(ABOUT, classes=classes, estimated_dice=None)
    segments, made = both(source, mask, about, pixel_mm2=0.5)
    groups = saved(made, tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    frames = [group.referenced_segmentation_frame[0].ReferencedSOPSequence[0].ReferencedFrameNumber for group in groups]
    assert frames == [2, 4]  # the third class is empty
    assert [numbers(group) for group in groups] == [{"Area": (15000, "mm2")}, {"Area": (15, "mm2")}]
    assert (written(segments, tmp_path / "seg.dcm").pixel_array[frames[1] - 1] == (mask == 4)).all()
    assert validation_errors(tmp_path / "sr.dcm") == []
    with pytest.raises(ValueError, match="no lesion to measure among the classes lung, heart"):
        both(source, mask * 0, dataclasses.replace(ABOUT, classes=("lung", "heart")))


def test_the_measurements_of_slices_are_of_a_volume(tmp_path):
    sources = [dicom(name) for name in SERIES]
    mask = np.zeros((5, sources[0].Rows, sources[0].Columns))
    mask[2, 3:9, 4:8] = 1
    segments, made = both(sources, mask, dataclasses.replace(ABOUT, zones=frozenset()), voxel_ml=0.5)
    (group,) = saved(made, tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert numbers(group)["Volume"] == (6 * 4 * 0.5, "ml")
    assert places(group) == [("39607008", None)]
    segment = group.referenced_segment[0].ReferencedSOPSequence[0]
    assert (segment.ReferencedSOPInstanceUID, segment.ReferencedSegmentNumber) == (segments.SOPInstanceUID, 1)
    assert validation_errors(tmp_path / "sr.dcm") == []


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "CT_small.dcm"])
def test_an_empty_mask_says_that_there_is_no_opacity(name, tmp_path):
    source = dicom(name)
    empty = dataclasses.replace(ABOUT, zones=frozenset())
    made = saved(both(source, np.zeros((source.Rows, source.Columns)), empty, pixel_mm2=1)[1], tmp_path / "sr.dcm")
    assert not made.content.get_planar_roi_measurement_groups()
    (group,) = made.content.get_image_measurement_groups()
    (answer,) = group.get_qualitative_evaluations()
    assert (answer.name.meaning, answer.value.meaning) == ("Opacity", "Absent")
    assert validation_errors(tmp_path / "sr.dcm") == []


def test_measurements_code_no_side_where_the_orientation_is_assumed(tmp_path):
    source = dicom("RG1_UNCR.dcm")
    del source.PatientOrientation
    made = both(source, np.ones((source.Rows, source.Columns)))[1]
    (group,) = saved(made, tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    assert places(group) == [("281392002", None), ("281394001", None)]


def test_a_segmentation_of_another_image_is_refused():
    first, second = dicom("RG1_UNCR.dcm"), dicom("RG3_UNCR.dcm")
    segments = segmentation(first, np.zeros((first.Rows, first.Columns), np.uint8), ABOUT)
    with pytest.raises(ValueError, match="refers to other images"):
        measurements(second, segments, ABOUT)
    with pytest.raises(ValueError, match="de-identify both or neither"):
        measurements(first, segments, ABOUT, deidentified=True)


@pytest.mark.parametrize("deidentified", [False, True])
def test_free_text_stays_behind(deidentified, tmp_path):
    source = with_secrets(dicom("chrJapMulti.dcm"))
    mask = np.ones((source.Rows, source.Columns))
    segments, measured = both(source, mask, deidentified=deidentified)
    made = [segments, measured, report(source, FINDING, ABOUT, given_report="SECRET", deidentified=deidentified)]
    for number, dataset in enumerate(made):
        path = tmp_path / f"{number}.dcm"
        read = written(dataset, path)
        assert b"SECRET" not in path.read_bytes()
        assert (not read.PatientName, not read.PatientID) == (deidentified, deidentified)
        assert (str(source.StudyInstanceUID).encode() in path.read_bytes()) != deidentified
        assert (read.get("PatientIdentityRemoved") == "YES") == deidentified
        assert validation_errors(path) == []
    assert len({str(dataset.StudyInstanceUID) for dataset in made}) == 1


def test_the_same_call_gives_another_instance_with_the_same_words():
    source = dicom("CT_small.dcm")
    first, second = (report(source, FINDING, ABOUT) for _ in range(2))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert texts(first) == texts(second)
    assert first.ContentSequence[2].UID == second.ContentSequence[2].UID  # one model is one device
