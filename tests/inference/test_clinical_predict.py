"""A DICOM film through `c2fvl predict`: mask, record and clinical results, and what cannot be had."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from pydicom.data import get_testdata_file  # noqa: E402

from c2fvl.cli.main import main  # noqa: E402
from c2fvl.files.images import read_mask, write_image  # noqa: E402
from c2fvl.files.picture import SIDES_ASSUMED  # noqa: E402
from c2fvl.inference.outputs.endings import ClinicalOptions  # noqa: E402
from c2fvl.inference.outputs.of_prediction import info_of, sentence_of  # noqa: E402
from c2fvl.inference.predictor import Predictor  # noqa: E402
from c2fvl.inference.save import panel_of  # noqa: E402

REPORT = "Consolidation in the left lower lobe."


def film(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} of pydicom-data is not here")
    return path


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """The real chest film with every output."""
    out = tmp_path_factory.mktemp("clinical")
    types = "png,seg,sc,sr,measurements,nifti,nrrd"
    command = ["predict", film("RG1_J2KR.dcm"), "--report", REPORT, "-o", str(out), "--output-type", types]
    assert main(command) == 0
    return out


def test_the_record_of_a_chest_film(predicted):
    record = json.loads((predicted / "RG1_J2KR.json").read_text())
    source = record["source"]
    assert (source["kind"], source["window_source"], source["orientation_source"]) == ("dicom", "window", "file")
    assert (source["spacing_mm"], record["area_mm2"]) == (None, None)
    assert len(source["warnings"]) == 1 and "OHIF shows a blank page" in source["warnings"][0]
    assert record["report"]["orientation_given"] == "patient"  # nobody said so
    assert record["report"]["zones"] == ["image_right_lower"]
    assert (record["height"], record["width"]) == (1955, 1841)
    assert all(name.split("_")[0] == "image" for name in record["area_per_third"])
    assert all((predicted / name).is_file() for name in record["files"])


def test_an_overlay_says_below_it_where_right_and_left_are_assumed():
    model, header = Predictor("default"), pydicom.dcmread(film("RG1_UNCR.dcm"))
    known = panel_of(model(header))
    del header.PatientOrientation
    assumed = panel_of(model(header))
    height = len(assumed) - len(known)
    assert 10 < height < 40 and assumed.shape[1] == known.shape[1]  # one line more
    changed = np.argwhere((assumed[: len(known)] != known).any(2))
    assert changed[:, 0].min() > len(known) - 3 * height  # below the images and the report


def test_the_finding_of_a_lateral_film_that_is_forced_names_no_side():
    header = pydicom.dcmread(film("RG1_UNCR.dcm"))
    header.PatientOrientation = ["A", "F"]
    prediction = Predictor("default", force_view=True)(header)
    finding = sentence_of(prediction, info_of(prediction))
    assert finding.startswith("Lesion segmented; ") and "seen from the side" in finding
    assert "patient's" not in finding


def test_every_result_holds_the_same_mask(predicted):
    import nibabel

    mask = read_mask(predicted / "RG1_J2KR.png")
    assert 0.05 < mask.mean() < 0.4
    seg = highdicom.seg.segread(predicted / "RG1_J2KR_seg.dcm")
    uid = pydicom.dcmread(film("RG1_J2KR.dcm"), stop_before_pixels=True).SOPInstanceUID
    found = seg.get_pixels_by_source_instance([uid], combine_segments=True)[0]
    assert np.array_equal(found, mask)
    assert seg.SOPInstanceUID in pydicom.dcmread(predicted / "RG1_J2KR_measurements.dcm").to_json()
    volume = np.asarray(nibabel.load(predicted / "RG1_J2KR.nii.gz").dataobj)
    assert np.array_equal(volume[..., 0].T, mask)
    drawn = pydicom.dcmread(predicted / "RG1_J2KR_sc.dcm").pixel_array
    is_green = (drawn[..., 1].astype(int) - drawn[..., 0]) > 20
    assert np.mean(is_green[mask == 1]) > 0.95 and np.mean(is_green[mask == 0]) < 0.02
    said = pydicom.dcmread(predicted / "RG1_J2KR_sr.dcm").to_json()
    assert "Lesion segmented in the patient's" in said and "Consolidation" not in said


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed")
def test_results_are_sound_dicom(predicted):
    for file in sorted(predicted.glob("*.dcm")):
        said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr, file.name


def test_the_text_of_a_report_travels_only_where_it_is_asked_for(tmp_path):
    found = Predictor("default")(film("RG1_UNCR.dcm"), REPORT)
    found.save(tmp_path, "kept", ["sr"], clinical=ClinicalOptions(keep_text=True))
    assert REPORT in pydicom.dcmread(tmp_path / "kept_sr.dcm").to_json()


def test_a_mirrored_film_is_mirrored_in_and_back(tmp_path):
    """The chest film stored with left and right exchanged, and saying so, gives the exchanged mask."""
    stored = pydicom.dcmread(film("RG1_UNCR.dcm"))
    turned = pydicom.dcmread(film("RG1_UNCR.dcm"))
    turned.PatientOrientation = ["R", "F"]
    turned.PixelData = np.ascontiguousarray(stored.pixel_array[:, ::-1]).tobytes()
    predictor = Predictor("default")
    plain, mirrored = predictor(stored, REPORT), predictor(turned, REPORT)
    assert mirrored.picture.mirrored and not plain.picture.mirrored
    assert np.array_equal(mirrored.mask, plain.mask[:, ::-1])
    assert mirrored.areas == plain.areas
    assert np.array_equal(mirrored.upright_mask, plain.mask)


def test_unknown_sides_are_said(tmp_path, capsys):
    unknown = pydicom.dcmread(film("RG1_UNCR.dcm"))
    del unknown.PatientOrientation
    unknown.save_as(tmp_path / "film")
    assert main(["predict", str(tmp_path), "--report", REPORT, "-o", str(tmp_path / "out")]) == 0
    assert "taken as the patient's right" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "film.json").read_text())["source"]["warnings"] == [SIDES_ASSUMED]


def test_an_output_that_an_image_cannot_have_costs_no_other(tmp_path, capsys):
    write_image(tmp_path / "in" / "a.png", np.full((64, 64), 90, np.uint8))
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "in"), "-o", str(out)]
    assert main([*command, "--output-type", "seg"]) == 1
    assert "seg can be written for DICOM files only, and this is png" in capsys.readouterr().err
    assert [entry.name for entry in out.iterdir()] == ["predictions.csv"]
    with (out / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["failed"]
    both = [*command, "--output-type", "png,nifti,seg"]
    assert main(both) == 0
    assert "seg is not written: seg can be written for DICOM files only" in capsys.readouterr().err
    assert sorted(entry.name for entry in out.iterdir()) == ["a.json", "a.nii.gz", "a.png", "predictions.csv"]
    assert list(json.loads((out / "a.json").read_text())["left_out"]) == ["seg"]
    assert main([*both, "--skip-existing"]) == 0
    with (out / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["skipped"]


def test_one_image_of_several_is_chosen(tmp_path, capsys):
    stored = pydicom.dcmread(film("RG1_UNCR.dcm"))
    both = pydicom.dcmread(film("RG1_UNCR.dcm"))
    both.NumberOfFrames, both.PixelData = 2, stored.PixelData + np.flipud(stored.pixel_array).tobytes()
    both.save_as(tmp_path / "two.dcm")
    command = ["predict", str(tmp_path / "two.dcm"), "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert "choose one with --frame, 1 to 2" in capsys.readouterr().err
    assert main([*command, "--frame", "1"]) == 0
    assert np.array_equal(read_mask(tmp_path / "out" / "two.png"), Predictor("default")(film("RG1_UNCR.dcm")).mask)
