"""DICOM segmentations: equal when read back, valid, small, with the patient's side, and without free text."""

import copy
import dataclasses
import shutil
import subprocess
import warnings

import numpy as np
import pytest
from support.clinical_files import SECRETS, dicom, read_nrrd, validation_errors, with_secrets, written

from c2fvl.inference.outputs.encode import dicom_bytes
from c2fvl.inference.outputs.nifti_nrrd import grid_of_film, grid_of_series, nrrd
from c2fvl.inference.outputs.result_info import ResultInfo, patient_zones
from c2fvl.inference.outputs.seg import segmentation
from c2fvl.version import __version__

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
ABOUT = ResultInfo("filmfirst", "ab" * 32, "3", trust=0.5, zones=frozenset({"rlower", "lupper"}), estimated_dice=0.7)
SERIES = [f"dicomdirtests/98892001/CT5N/{name}" for name in ("2062", "2392", "2693", "3023", "3353")]
FILMS = ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG1_J2KI.dcm", "RG3_UNCR.dcm", "chrJapMulti.dcm", "chrKoreanMulti.dcm",
         "dicomdirtests/77654033/CR1/6154")  # fmt: skip


def mask_of(source, classes=1, seed=0):
    """Return a mask of blobs and noise that is neither symmetric nor whole bytes wide."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((source.Rows, source.Columns), np.uint8)
    for number in range(1, classes + 1):
        top, left = generator.integers(0, source.Rows // 2), generator.integers(0, source.Columns // 2)
        mask[top : top + source.Rows // 3, left : left + source.Columns // 5] = number
        mask[generator.random(mask.shape) < 0.01] = number
    return mask


def series():
    return [dicom(name) for name in SERIES]


def read_back(made, sources, path):
    """Return the mask (N, H, W) as highdicom reads it from the file."""
    made.save_as(path, enforce_file_format=True)
    read = highdicom.seg.segread(path)
    uids = [source.SOPInstanceUID for source in sources]
    return read.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)


def elements(dataset):
    """Return every element of a dataset, also those in sequences."""
    return [element for element in dataset.iterall() if element.VR != "SQ"]


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("geometry", ["none", "synthetic"])
def test_the_mask_of_a_film_is_read_back_equal_from_a_valid_file(name, geometry, tmp_path):
    source, path = dicom(name), tmp_path / "seg.dcm"
    mask = mask_of(source)
    made = segmentation(source, mask, ABOUT, geometry=geometry)
    assert (read_back(made, [source], path)[0] == mask).all()
    assert path.stat().st_size < mask.size / 8 * 1.1 + 10_000
    assert validation_errors(path) == []


@pytest.mark.parametrize("number", [1, 5])
def test_the_masks_of_slices_are_read_back_equal_in_any_order(number, tmp_path):
    sources = series()[:number]
    sources = sources[::2] + sources[1::2]
    mask = np.stack([mask_of(source, seed=seed) for seed, source in enumerate(sources)])
    mask[number // 2 :: 2] = 0
    made = segmentation(sources if number > 1 else sources[0], mask, ABOUT)
    assert (read_back(made, sources, tmp_path / "seg.dcm") == mask).all()
    assert made.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    assert validation_errors(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "CT_small.dcm"])
def test_an_empty_mask_is_a_valid_file(name, tmp_path):
    source = dicom(name)
    made = segmentation(source, np.zeros((source.Rows, source.Columns), np.uint8), ABOUT)
    assert not read_back(made, [source], tmp_path / "seg.dcm").any()
    assert validation_errors(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "CT_small.dcm"])
@pytest.mark.parametrize("absent", [None, 1, 3])
def test_each_class_is_a_segment(name, absent, tmp_path):
    source = dicom(name)
    classes = ("lesion", "left lung", "Lungenlappen, übriger")
    mask = mask_of(source, classes=3)
    mask[mask == absent] = 0
    made = segmentation(source, mask, dataclasses.replace(ABOUT, classes=classes))
    assert (read_back(made, [source], tmp_path / "seg.dcm")[0] == mask).all()
    assert [item.SegmentLabel for item in written(made, tmp_path / "again.dcm").SegmentSequence] == list(classes)
    kinds = [item.SegmentedPropertyTypeCodeSequence[0] for item in made.SegmentSequence]
    assert [(kind.CodeValue, kind.CodingSchemeDesignator) for kind in kinds[:2]] == [
        ("52988006", "SCT"), ("39607008", "SCT")
    ]  # fmt: skip
    assert (kinds[2].CodingSchemeDesignator, kinds[2].CodeMeaning) == ("99C2FVL", classes[2])
    regions = [item.get("AnatomicRegionSequence", []) for item in made.SegmentSequence]
    assert [len(found) for found in regions] == [1 if name.startswith("CT") else 2, 0, 0]  # those of the lesion
    assert validation_errors(tmp_path / "seg.dcm") == []


def with_spacing(pixel=None, detector=None):
    source = dicom("RG3_UNCR.dcm")
    for name, value in (("PixelSpacing", pixel), ("ImagerPixelSpacing", detector)):
        if name in source:
            del source[name]
        if value is not None:
            setattr(source, name, list(value))
    return source


@pytest.mark.parametrize(
    ("pixel", "detector", "expected"),
    [
        ((0.13, 0.15), (0.2, 0.2), [0.13, 0.15]),
        (None, (0.2, 0.3), [0.2, 0.3]),
        ((0, 0), (0.2, 0.3), [0.2, 0.3]),
        ((0.13, 0.15), None, [0.13, 0.15]),
        ((0, 0), None, None),
        (None, None, None),
    ],
)
def test_a_known_spacing_of_a_film_goes_with_a_thickness(pixel, detector, expected, tmp_path):
    source = with_spacing(pixel, detector)
    mask = mask_of(source)
    made = segmentation(source, mask, ABOUT)
    assert (read_back(made, [source], tmp_path / "seg.dcm")[0] == mask).all()
    groups = made.SharedFunctionalGroupsSequence[0]
    if expected is None:
        assert "PixelMeasuresSequence" not in groups
    else:
        measures = groups.PixelMeasuresSequence[0]
        assert [float(value) for value in measures.PixelSpacing] == expected
        assert measures.SliceThickness == 1
    assert "FrameOfReferenceUID" not in made
    assert validation_errors(tmp_path / "seg.dcm") == []


def test_a_synthetic_geometry_is_that_of_viewers_and_is_said():
    made = segmentation(with_spacing((0.13, 0.15), (0.2, 0.3)), mask_of(dicom("RG3_UNCR.dcm")), ABOUT,
                        geometry="synthetic")  # fmt: skip
    groups = made.SharedFunctionalGroupsSequence[0]
    assert [float(value) for value in groups.PixelMeasuresSequence[0].PixelSpacing] == [0.2, 0.3]
    assert list(groups.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert "synthetic" in made.ContentDescription
    assert made.FrameOfReferenceUID


def regions_of(made):
    """Return the height and the side of each anatomic region of the lesion."""
    found = []
    for region in made.SegmentSequence[0].AnatomicRegionSequence:
        sides = [item.CodeMeaning for item in region.get("AnatomicRegionModifierSequence", [])]
        found.append((region.CodeValue, *sides))
    return found


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG3_UNCR.dcm"])
def test_zones_are_on_the_patients_side_and_the_mask_in_the_grid_of_the_file(name, tmp_path):
    source = dicom(name)
    mirrored = name.startswith("RG3")
    assert list(source.PatientOrientation) == (["R", "F"] if mirrored else ["L", "F"])
    mask = np.zeros((source.Rows, source.Columns), np.uint8)
    patients_right = slice(source.Columns * 3 // 4, -40) if mirrored else slice(40, source.Columns // 4)
    mask[-300:-100, patients_right] = 1
    upright = mask[:, ::-1] if mirrored else mask
    zones = patient_zones(upright)
    assert zones == {"rlower"}
    made = segmentation(source, mask, dataclasses.replace(ABOUT, zones=zones))
    assert regions_of(made) == [("281394001", "Right")]
    assert made.SegmentSequence[0].SegmentDescription == "Of the patient: lower zone of lung, right."
    assert list(made.PatientOrientation) == list(source.PatientOrientation)
    assert (read_back(made, [source], tmp_path / "seg.dcm")[0] == mask).all()


def test_every_zone_has_its_code():
    source = dicom("dicomdirtests/77654033/CR1/6154")
    zones = frozenset({"lupper", "lmiddle", "llower", "rupper", "rmiddle", "rlower"})
    made = segmentation(source, mask_of(source), dataclasses.replace(ABOUT, zones=zones))
    assert sorted(regions_of(made)) == sorted(
        (code, side) for code in ("281392002", "281393007", "281394001") for side in ("Left", "Right")
    )


@pytest.mark.parametrize(
    ("zones", "side"), [(["rlower", "rupper"], ["Right"]), (["rlower", "lupper"], ["Bilateral"]), ([], [])]
)
def test_slices_have_a_side_and_no_zone_of_the_lung(zones, side):
    source = dicom("CT_small.dcm")
    made = segmentation(source, mask_of(source), dataclasses.replace(ABOUT, zones=frozenset(zones)))
    assert regions_of(made) == [("39607008", *side)]


def test_an_assumed_orientation_is_said_and_no_side_is_coded(tmp_path):
    source = dicom("RG1_UNCR.dcm")
    del source.PatientOrientation
    made = segmentation(source, mask_of(source), ABOUT)
    assert regions_of(made) == [("281392002",), ("281394001",)]
    assert "states no orientation" in made.SegmentSequence[0].SegmentDescription
    assert written(made, tmp_path / "seg.dcm").PatientOrientation in (None, "", [])
    assert validation_errors(tmp_path / "seg.dcm") == []
    given = segmentation(source, mask_of(source), dataclasses.replace(ABOUT, orientation=("L", "F")))
    assert regions_of(given) == [("281392002", "Left"), ("281394001", "Right")]


def test_the_model_is_identified():
    source = dicom("CT_small.dcm")
    segment = segmentation(source, mask_of(source), ABOUT).SegmentSequence[0]
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "c2fvl filmfirst"
    assert algorithm.AlgorithmVersion == f"{__version__}, model 3"
    for part in ("threshold=0.5", "trust=0.5", "ab" * 32, "report_used=no"):
        assert part in algorithm.AlgorithmParameters.replace("'", "").replace(": ", "=")
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    steered = segmentation(source, mask_of(source), dataclasses.replace(ABOUT, report_used=True)).SegmentSequence[0]
    assert steered.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert segment.TrackingUID != steered.TrackingUID
    assert segment.TrackingID


def test_the_same_call_gives_another_instance_with_the_same_pixels():
    source = dicom("CT_small.dcm")
    first, second = (segmentation(source, mask_of(source), ABOUT) for _ in range(2))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.PixelData == second.PixelData


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "CT_small.dcm", "chrJapMulti.dcm"])
def test_free_text_and_private_attributes_stay_behind(name, tmp_path):
    source = with_secrets(dicom(name))
    before = copy.deepcopy(source)
    made = segmentation(source, mask_of(source), ABOUT)
    made.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    assert b"SECRET" not in (tmp_path / "seg.dcm").read_bytes()
    assert not [element for element in elements(made) if element.tag.is_private]
    assert not (set(SECRETS) - {"SeriesDescription"}) & {element.keyword for element in elements(made)}
    assert made.PatientID == source.PatientID
    assert source == before  # the source is not changed


@pytest.mark.parametrize("name", ["chrJapMulti.dcm", "chrKoreanMulti.dcm", "chrFrenMulti.dcm", "chrX2.dcm"])
def test_names_in_other_scripts_survive(name, tmp_path):
    source = dicom(name)
    made = written(segmentation(source, mask_of(source), ABOUT), tmp_path / "seg.dcm")
    assert str(made.PatientName) == str(source.PatientName)
    assert not str(made.PatientName).isascii()
    assert made.PatientID == source.PatientID


def test_a_deidentified_segmentation_holds_no_identifier_and_new_uids(tmp_path):
    sources = series()
    mask = np.stack([mask_of(source, seed=seed) for seed, source in enumerate(sources)])
    made = segmentation(sources, mask, ABOUT, deidentified=True)
    made.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    old = {str(source[name].value) for source in sources
           for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}  # fmt: skip
    assert not old & {str(element.value) for element in elements(made)}
    for name in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "AccessionNumber",
        "StudyID",
    ):
        assert not made[name].value, name
    assert made.PatientIdentityRemoved == "YES"
    assert validation_errors(tmp_path / "seg.dcm") == []
    again = segmentation(sources, mask, ABOUT, deidentified=True)
    assert again.StudyInstanceUID == made.StudyInstanceUID  # results of one study stay together
    assert highdicom.seg.segread(tmp_path / "seg.dcm").segmented_property_types


def test_missing_attributes_that_may_be_blank_are_added(tmp_path):
    source = dicom("RG1_UNCR.dcm")
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                 "StudyDate", "StudyTime", "Modality", "ReferringPhysicianName"):  # fmt: skip
        del source[name]
    mask = mask_of(source)
    made = segmentation(source, mask, ABOUT)
    assert (read_back(made, [source], tmp_path / "seg.dcm")[0] == mask).all()
    assert validation_errors(tmp_path / "seg.dcm") == []


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_odd_values_of_the_source_are_left_out(tmp_path):
    source = dicom("RG1_UNCR.dcm")
    source.PatientSex, source.PatientBirthDate, source.StudyTime = "W", "1940/3/5", "18:50:59"
    made = segmentation(source, mask_of(source), ABOUT)
    made.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    assert not made.PatientSex
    assert not made.PatientBirthDate
    assert validation_errors(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize(
    ("name", "value"), [("SOPInstanceUID", "1.2.x"), ("StudyInstanceUID", "1.2.003"), ("PatientID", "9" * 80),
                        ("AccessionNumber", "7" * 30), ("PatientName", "A" * 70)],
)  # fmt: skip
def test_identifiers_that_break_the_rules_are_repeated_but_not_logged(name, value, tmp_path, caplog):
    source = dicom("dicomdirtests/77654033/CR1/6154")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setattr(source, name, value)
    mask = mask_of(source)
    caplog.clear()
    with caplog.at_level("DEBUG"):
        data = dicom_bytes(segmentation(source, mask, ABOUT))
    assert not caplog.records
    assert value.encode() in data
    (tmp_path / "seg.dcm").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = highdicom.seg.segread(tmp_path / "seg.dcm")
        found = read.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)
    assert (found[0] == mask).all()


@pytest.mark.parametrize("thickness", [None, "", 0])
def test_slices_without_a_thickness_are_read_back(thickness, tmp_path):
    sources = series()
    for source in sources:
        if thickness is None:
            del source.SliceThickness
        else:
            source.SliceThickness = thickness
    mask = np.stack([mask_of(source, seed=seed) for seed, source in enumerate(sources)])
    made = segmentation(sources, mask, ABOUT)
    assert (read_back(made, sources, tmp_path / "seg.dcm") == mask).all()
    heights = sorted(float(source.ImagePositionPatient[2]) for source in sources)
    thickness = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
    assert thickness == pytest.approx(np.median(np.diff(heights)))


def test_the_distance_of_one_slice_is_its_thickness():
    source = dicom("CT_small.dcm")
    measures = segmentation(source, mask_of(source), ABOUT).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == measures.get("SpacingBetweenSlices") == source.SliceThickness == 5


def by_dcmqi(made, folder):
    """Return the array (i, j, k) of the first segment and its matrix, as dcmqi and so 3D Slicer read the file."""
    reader = shutil.which("segimage2itkimage")
    if reader is None:
        pytest.skip("segimage2itkimage is not installed; it comes with dcmqi")
    (folder / "seg.dcm").write_bytes(dicom_bytes(made))
    command = [reader, "--inputDICOM", folder / "seg.dcm", "--outputDirectory", folder, "-t", "nrrd"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return read_nrrd((folder / "1.nrrd").read_bytes())[:2]


def places_of(array, matrix):
    return sorted(tuple((matrix @ [*voxel, 1])[:3].round(3)) for voxel in np.argwhere(array))


def test_dcmqi_reads_the_lesion_of_slices_where_our_nrrd_has_it(tmp_path):
    sources = series()
    mask = np.zeros((5, sources[0].Rows, sources[0].Columns), np.uint8)
    mask[1:3, 3:9, 4:7] = mask[3, 2, 11] = 1
    found = by_dcmqi(segmentation(sources, mask, ABOUT), tmp_path)
    assert places_of(*found) == places_of(*read_nrrd(nrrd(mask, grid_of_series(sources)))[:2])


def test_dcmqi_reads_a_film_of_synthetic_geometry_where_our_nrrd_has_it(tmp_path):
    source = with_spacing((0.13, 0.15), (0.2, 0.3))
    mask = np.zeros((source.Rows, source.Columns), np.uint8)
    mask[100:110, 50:53] = 1
    found = by_dcmqi(segmentation(source, mask, ABOUT, geometry="synthetic"), tmp_path)
    assert places_of(*found) == places_of(*read_nrrd(nrrd(mask, grid_of_film(mask.shape, source)))[:2])


def test_loss_of_the_source_is_said():
    source = dicom("dicomdirtests/77654033/CR1/6154")
    assert segmentation(source, mask_of(source), ABOUT).LossyImageCompression == "00"
    source.LossyImageCompression, source.LossyImageCompressionRatio = "01", 12
    made = segmentation(source, mask_of(source), ABOUT)
    assert (made.LossyImageCompression, made.LossyImageCompressionRatio) == ("01", 12)


def without(source, name):
    del source[name]
    return source


def replaced(source, **values):
    for name, value in values.items():
        setattr(source, name, value)
    return source


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: [], "there is no source image"),
        (lambda s: [without(s[0], "StudyInstanceUID")], "no StudyInstanceUID"),
        (lambda s: [without(s[0], "ImagePositionPatient")], "no ImagePositionPatient"),
        (lambda s: [without(s[0], "FrameOfReferenceUID")], "no FrameOfReferenceUID"),
        (lambda s: [replaced(s[0], PixelSpacing=[0, 0])], "no positive PixelSpacing"),
        (lambda s: [dicom("MR_small.dcm")], "the source is MR Image Storage"),
        (lambda s: [dicom("liver_1frame.dcm")], "the source is Segmentation Storage"),
        (lambda s: [dicom("eCT_Supplemental.dcm")], "the source is Enhanced CT"),
        (lambda s: [replaced(s[0], NumberOfFrames=3)], "3 frames"),
        (lambda s: [s[0], replaced(s[1], SeriesInstanceUID="1.2.3")], "differ in SeriesInstanceUID"),
        (lambda s: [s[0], replaced(s[1], StudyInstanceUID="1.2.3")], "differ in StudyInstanceUID"),
        (lambda s: [s[0], replaced(s[1], FrameOfReferenceUID="1.2.3")], "differ in FrameOfReferenceUID"),
        (lambda s: [s[0], replaced(s[1], Rows=8)], "have the sizes"),
        (lambda s: [s[0], s[0]], "given twice"),
        (lambda s: [dicom("RG1_UNCR.dcm"), dicom("RG1_J2KR.dcm")], "one result for each image"),
    ],
)  # fmt: skip
def test_a_source_to_which_no_result_can_refer_is_refused(change, reason):
    sources = change(series())
    with pytest.raises(ValueError, match=reason):
        segmentation(sources, np.zeros((len(sources), 16, 16), np.uint8), ABOUT)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((127, 128), np.uint8), "the mask has the shape"),
        (np.zeros((2, 128, 128), np.uint8), "the mask has the shape"),
        (np.zeros((128, 128, 3), np.uint8), "the mask has the shape"),
        (np.full((128, 128), 2, np.uint8), "from 0 to 1"),
        (np.full((128, 128), 255, np.uint8), "from 0 to 1"),
        (np.zeros((128, 128), np.float32), "unsigned integers"),
        (np.zeros((128, 128), np.int64), "unsigned integers"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, reason):
    with pytest.raises(ValueError, match=reason):
        segmentation(dicom("CT_small.dcm"), mask, ABOUT)


def test_an_unknown_geometry_and_an_unknown_zone_are_refused():
    source = dicom("CT_small.dcm")
    with pytest.raises(ValueError, match="expected one of none, synthetic"):
        segmentation(source, mask_of(source), ABOUT, geometry="real")
    with pytest.raises(ValueError, match="there is no zone apex"):
        ResultInfo("filmfirst", "ab" * 32, zones=frozenset({"apex"}))
