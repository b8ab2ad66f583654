"""CT volumes through a tiny engine and the model for CT: sides, orientation, report, window, files, refusals."""

import csv
import itertools
import json
import zipfile

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform  # noqa: E402
from support.dicom import example  # noqa: E402
from support.dicom import film as dicom_film  # noqa: E402
from support.volumes import SPACING, WINDOW, Bright, chest, slice_of, write_series  # noqa: E402

from c2fvl.cli.main import main  # noqa: E402
from c2fvl.config import Config, DataConfig  # noqa: E402
from c2fvl.files.images import read_mask  # noqa: E402
from c2fvl.files.read_volume import read_volume  # noqa: E402
from c2fvl.inference.ct_window import MOSMED_WINDOW, parse_window, window_of  # noqa: E402
from c2fvl.inference.outputs.endings import ClinicalOptions  # noqa: E402
from c2fvl.inference.predictor import Predictor  # noqa: E402
from c2fvl.inference.requests import Request, collect  # noqa: E402
from c2fvl.inference.to_folder import predict_to_folder  # noqa: E402
from c2fvl.inference.volume_record import EXPERIMENTAL  # noqa: E402
from c2fvl.inference.volumes import midline_of, predict_volume, report_on_slices  # noqa: E402
from c2fvl.reports.report import Report, parse_report  # noqa: E402

CODES = [codes for names in itertools.permutations(("LR", "PA", "SI")) for codes in itertools.product(*names)]


@pytest.fixture
def predictor():
    return Predictor(Bright(), batch_size=4)


def volume_of(values, codes="LPS", name=None):
    """The volume as NIfTI with axes in the order and direction of `codes`."""
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    affine[:3, 3] = (20, 15, 100)
    change = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(codes))
    array = values.transpose(2, 1, 0)
    image = nibabel.Nifti1Image(apply_orientation(array, change), affine @ inv_ornt_aff(change, array.shape))
    if name:
        image.to_filename(name)
    return image


VALUES = chest(6, 64, 64)
EXPECTED = (VALUES == -200).astype(np.uint8)


def in_lps(image):
    """The mask of a file as (slices, rows, columns), turned by nibabel."""
    change = ornt_transform(nibabel.io_orientation(image.affine), axcodes2ornt("LPS"))
    return apply_orientation(np.asarray(image.dataobj), change).transpose(2, 1, 0)


def test_the_volume_in_all_48_orientations_gets_the_same_mask_in_the_world(tmp_path, predictor):
    paths = [tmp_path / f"{''.join(codes)}.nii" for codes in CODES]
    for codes, path in zip(CODES, paths, strict=True):
        image = volume_of(VALUES, codes)
        image.set_sform(image.affine, code=2)
        image.to_filename(path)
    requests = [Request(path) for path in paths]
    records = list(predict_to_folder(predictor, requests, tmp_path / "out", outputs=["nifti"]))
    assert len(records) == 48 and all("error" not in record for record in records)
    for path, record in zip(paths, records, strict=True):
        given, mask = nibabel.load(path), nibabel.load(tmp_path / "out" / record["files"][0])
        assert mask.shape == given.shape and np.array_equal(mask.affine, given.affine)
        assert mask.get_data_dtype() == np.uint8 and mask.header["sform_code"] == 2
        assert mask.header["qform_code"] == given.header["qform_code"] and mask.header["descrip"] == b""
        assert np.array_equal(in_lps(mask), EXPECTED), path.name
        assert record["volume_ml_per_side"] == {"patient_right": 0, "patient_left": record["volume_ml"]}
        largest = np.take(np.asarray(mask.dataobj), record["largest_slice"]["index_in_file"], slice_axis(given))
        assert largest.sum() == record["largest_slice"]["pixels"] == EXPECTED[3].sum()


def slice_axis(image):
    return "".join(nibabel.aff2axcodes(image.affine)).translate(str.maketrans("I", "S")).index("S")


def test_the_record_of_a_volume(tmp_path, predictor):
    volume_of(VALUES, "RAS", tmp_path / "ct.nii.gz")
    found = predict_volume(predictor, tmp_path / "ct.nii.gz", "Bilateral consolidation in the lower lobes.")
    record = found.to_dict()
    voxels = int(EXPECTED.sum())
    assert (record["slices"], record["height"], record["width"], record["voxels"]) == (6, 64, 64, voxels)
    assert record["volume_ml"] == pytest.approx(voxels * np.prod(SPACING) / 1000, abs=1e-3)
    assert record["slices_with_lesion"] == 3
    assert record["slices_with_lesion_per_side"] == {"patient_right": 0, "patient_left": 3}
    assert record["largest_slice"]["number"] == 4
    assert record["window"] == {"center": -285, "width": 1530, "source": "model", "validated_on_hu": False}
    assert record["report"]["orientation_given"] == "patient"
    assert record["report"]["used_for_volume"] == "Bilateral pulmonary infection."
    assert record["source"]["warnings"][0] == EXPERIMENTAL.format(center=-285, width=1530)
    assert record["experimental"] and record["source"]["spacing_mm"] == pytest.approx(list(SPACING))
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize(
    ("sentence", "used", "zones"),
    [
        ("Unilateral opacity in the left lower lobe.", "Unilateral opacity in the left lung.", {"image_left": 0}),
        (
            "Consolidation in the right upper lobe. Left lung clear.",
            "Unilateral opacity in the right",
            {"image_right": 0},
        ),
        ("Left lung clear.", "No opacity in the left lung.", {"image_right": 0}),
        ("No opacity.", "No pulmonary infection.", {"image_left": 0, "image_right": 0}),
        ("Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung.", "Bilateral", {}),
        ("Consolidation in the left lower lobe.", None, {}),
    ],
)
def test_of_a_report_only_the_side_reaches_the_network(predictor, sentence, used, zones):
    found = predict_volume(predictor, volume(), sentence, orientation="patient")
    rows = np.stack(predictor.engine.texts)[:, 0]
    assert len(rows) == 6 and all(np.array_equal(row, rows[0], equal_nan=True) for row in rows)
    left, right = rows[0, 2:5], rows[0, 5:8]
    for name, row in (("image_left", left), ("image_right", right)):
        assert np.array_equal(row, [0, 0, 0]) if name in zones else np.isnan(row).all()
    assert np.isnan(rows[0, 1])
    said = found.to_dict()["report"]["used_for_volume"]
    assert said.startswith(used) if used else said == "nothing."


def volume(values=VALUES):
    from c2fvl.files.nifti import read_nifti_volume

    return read_nifti_volume(volume_of(values).to_bytes())


def test_networks_that_take_no_single_finding_get_the_side_alone():
    left = parse_report("Unilateral pulmonary infection, one infected area, upper left lung.")
    assert report_on_slices(left, reads_images=False) == Report("unilateral")
    assert report_on_slices(None, reads_images=True) is None
    assert report_on_slices(parse_report("No pulmonary infection."), reads_images=False) == Report("none")


def test_sides_are_parted_at_the_middle_of_the_body_not_of_the_image():
    assert abs(midline_of(volume()) - 32) <= 1
    moved = np.full((6, 64, 96), -1000, np.int16)
    moved[..., 30:94] = VALUES
    assert abs(midline_of(volume(moved)) - 62) <= 1
    assert midline_of(volume(np.full((3, 8, 8), -1000, np.int16))) == 4


def test_a_series_gets_a_segmentation_that_refers_to_its_slices(tmp_path, predictor):
    folder = write_series(tmp_path / "study" / "CT.5", VALUES)
    requests = collect([str(folder)])
    assert [request.name for request in requests] == ["CT.5"] and len(requests[0].slices) == 6
    (record,) = predict_to_folder(predictor, requests, tmp_path / "out")
    assert record["files"] == ["CT.5_seg.dcm", "CT.5.json"] and record["image"] == str(folder)
    seg = highdicom.seg.segread(tmp_path / "out" / "CT.5_seg.dcm")
    uids = [f"1.2.3.9.{number}" for number in range(1, 7)]
    found = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    assert np.array_equal(found, EXPECTED)
    region = seg.SegmentSequence[0].AnatomicRegionSequence[0]
    assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeMeaning) == ("39607008", "Left")
    assert record["largest_slice"]["sop_instance_uid"] == "1.2.3.9.4"
    assert record["volume_ml_per_side"]["patient_right"] == 0 < record["volume_ml_per_side"]["patient_left"]


def test_no_uid_of_the_series_is_written_where_the_patient_is_left_blank(tmp_path, predictor):
    folder = write_series(tmp_path / "ct", VALUES)
    blank = ClinicalOptions(deidentified=True)
    (record,) = predict_to_folder(predictor, collect([str(folder)]), tmp_path / "out", clinical=blank)
    assert record["largest_slice"]["number"] == 4
    for name in record["files"]:
        assert b"1.2.3." not in (tmp_path / "out" / name).read_bytes(), name


def test_a_series_that_is_turned_gets_its_masks_turned_back(tmp_path, predictor):
    turned = VALUES[:, ::-1, ::-1]
    folder = write_series(tmp_path / "prone", turned, lambda number: {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]})
    types = ["png", "seg", "nifti", "nrrd"]
    (record,) = predict_to_folder(predictor, collect([str(folder)]), tmp_path / "out", outputs=types)
    assert all((tmp_path / "out" / name).is_file() for name in record["files"])
    in_file = EXPECTED[:, ::-1, ::-1]
    seg = highdicom.seg.segread(tmp_path / "out" / "prone_seg.dcm")
    uids = [f"1.2.3.9.{number}" for number in range(1, 7)]
    found = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    assert np.array_equal(found, in_file)
    for number in range(6):
        assert np.array_equal(read_mask(tmp_path / "out" / "prone_slices" / f"{number + 1:04d}.png"), in_file[number])
    assert np.array_equal(in_lps(nibabel.load(tmp_path / "out" / "prone.nii.gz")), EXPECTED)
    assert record["volume_ml_per_side"]["patient_right"] == 0 < record["volume_ml_per_side"]["patient_left"]


def test_an_uneven_series_has_a_segmentation_and_no_nifti(tmp_path, predictor):
    folder = write_series(tmp_path / "ct", VALUES)
    next(folder.glob("*_2.dcm")).unlink()
    (record,) = predict_to_folder(predictor, collect([str(folder)]), tmp_path / "out")
    assert record["slices"] == 5 and any("1 slice(s) are missing" in said for said in record["source"]["warnings"])
    (record,) = predict_to_folder(predictor, collect([str(folder)]), tmp_path / "out", outputs=["nifti"])
    assert "or one is missing; NIfTI and NRRD hold even slices only" in record["error"]
    assert not list((tmp_path / "out").iterdir())


def test_a_study_of_several_series_is_sorted_out(tmp_path, caplog):
    """Series by their UID, not by their folder; scouts are left out; what else lies there is not disturbed."""
    study = tmp_path / "study"
    write_series(study / "a", VALUES)
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": "1.2.5"}
    write_series(study / "scout", VALUES[:2], lambda number: scout)
    for number in range(4):
        uid = f"1.2.3.4{number // 2}"
        for folder in (study / "b", study / "split" / str(number % 2)):
            folder.mkdir(parents=True, exist_ok=True)
            own = uid if folder.name == "b" else "1.2.77"
            dataset = slice_of(VALUES, number, SeriesInstanceUID=own)
            dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    dicom_film(np.full((9, 9), 7, np.uint16)).save_as(study / "film.dcm", enforce_file_format=True)
    requests = collect([str(study)], recursive=True)
    names = {request.name: len(request.slices) for request in requests}
    assert names == {"film": 0, "a": 6, "b_1_2_3_40": 2, "b_1_2_3_41": 2, "split": 4}
    assert f"{study / 'scout'}: a series is left out: 2 × a localizer (scout)" in caplog.text
    assert {request.image for request in requests if request.name == "split"} == {study / "split"}
    (alone,) = collect([str(study / "split")], recursive=True)
    assert alone.name == "split"
    with pytest.raises(ValueError, match=r"there is no image and no CT slice to segment: 2 × a localizer"):
        collect([str(study / "scout")])
    (named,) = collect(
        [str(next((study / "scout").iterdir()))]
    )  # what the user names is tried, and fails with the reason
    assert len(named.slices) == 1


def test_a_damaged_slice_of_a_folder_is_said(tmp_path, predictor):
    folder = write_series(tmp_path / "ct", VALUES)
    broken = next(folder.glob("*_5.dcm"))
    broken.write_bytes(broken.read_bytes()[:-500])
    records = list(predict_to_folder(predictor, collect([str(folder)]), tmp_path / "out"))
    said = [record.get("error") or " ".join(record["source"]["warnings"]) for record in records]
    assert any("cut short" in text or "cannot be read" in text for text in said)
    assert [record["slices"] for record in records if "slices" in record] == [5]


def test_what_is_there_is_left_alone_and_what_changed_is_not(tmp_path, predictor):
    folder = write_series(tmp_path / "ct", VALUES)

    def predicted(**changes):
        options = {"skip_existing": True, "outputs": ["png", "seg"]} | changes
        (record,) = predict_to_folder(predictor, collect([str(folder)]), tmp_path / "out", **options)
        return "skipped" in record

    assert [predicted(), predicted()] == [False, True]
    assert [predicted(window=(-285.0, 1530.0)), predicted(window=(-285.0, 1530.0))] == [False, True]
    assert [predicted(), predicted(outputs=["seg"])] == [False, False]
    assert not (tmp_path / "out" / "ct_slices" / "0001.png").exists()
    assert [predicted(outputs=None), predicted(outputs=None)] == [True, True]
    next(folder.iterdir()).touch()
    assert [predicted(outputs=None), predicted(outputs=None)] == [False, True]


def test_outputs_of_single_images_are_said_not_to_suit_a_volume(tmp_path, predictor):
    volume_of(VALUES, name=tmp_path / "ct.nii")
    requests = [Request(tmp_path / "ct.nii")]
    (record,) = predict_to_folder(predictor, requests, tmp_path / "out", outputs=["sc", "probability", "nrrd"])
    assert record["files"] == ["ct.nrrd", "ct.json"]
    assert record["source"]["warnings"][-1] == "sc, probability cannot be written for a volume."
    (record,) = predict_to_folder(predictor, requests, tmp_path / "out", outputs=["seg"])
    assert record["error"].startswith("seg can be written for DICOM series only")


def test_a_result_never_replaces_a_slice(tmp_path, predictor):
    folder = write_series(tmp_path / "ct", VALUES)
    next(folder.glob("*_0.dcm")).rename(folder / "ct_seg.dcm")
    with pytest.raises(ValueError, match=r"ct_seg.dcm is an image to be predicted and would be replaced"):
        list(predict_to_folder(predictor, collect([str(folder)]), folder))


def test_models_for_films_and_for_ct_are_not_confused(tmp_path):
    volume_of(VALUES, name=tmp_path / "ct.nii")
    films = Predictor(Bright(ct_window=""), batch_size=4)
    with pytest.raises(
        ValueError, match=r"CT volume, and the model \(tiny\) is not known to be for CT.*--model ct_small"
    ):
        predict_volume(films, tmp_path / "ct.nii")
    assert np.array_equal(predict_volume(films, tmp_path / "ct.nii", window=WINDOW).mask, EXPECTED)
    film = dicom_film((np.arange(1024).reshape(32, 32) * 60).astype(np.uint16))
    with pytest.raises(ValueError, match=r"chest film \(CR\), and the model \(tiny\) is for CT.*--model default"):
        Predictor(Bright())(film)
    assert Predictor(Bright(), force_view=True)(film).mask.shape == (32, 32)
    assert films(film).mask.shape == (32, 32)


def test_the_window_of_a_model():
    assert parse_window("-600, 1500") == (-600, 1500)
    for wrong in ("", "5", "1,2,3", "a,b", "0,0", "0,-5", "nan,1", "0,inf"):
        with pytest.raises(ValueError, match=r"the window is .* expected center,width in HU"):
            parse_window(wrong)
    assert window_of(Config(preset="filmfirst_mosmed_small")) == MOSMED_WINDOW
    assert window_of(Config(preset="filmfirst_qata_small")) is None
    assert window_of(Config(preset="mine", data=DataConfig(ct_window="0,100"))) == (0, 100)


def test_values_that_are_no_numbers_fail_and_write_nothing(tmp_path, predictor):
    values = VALUES.astype(np.float32)
    values[4, 3, 3] = np.nan
    volume_of(values, name=tmp_path / "ct.nii")
    volume_of(VALUES, name=tmp_path / "sound.nii")
    requests = [Request(tmp_path / name) for name in ("ct.nii", "sound.nii")]
    bad, sound = predict_to_folder(predictor, requests, tmp_path / "out")
    assert "slice 5 holds values that are not finite" in bad["error"] and "error" not in sound
    assert not list((tmp_path / "out").glob("ct*"))


def test_a_single_slice_is_a_volume_too(tmp_path, predictor):
    (record,) = predict_to_folder(predictor, collect([str(example("CT_small.dcm"))]), tmp_path)
    assert record["slices"] == 1 and record["files"] == ["CT_small_seg.dcm", "CT_small.json"]
    nibabel.Nifti1Image(VALUES[3].T[..., None], volume_of(VALUES).affine).to_filename(tmp_path / "one.nii")
    (record,) = predict_to_folder(predictor, [Request(tmp_path / "one.nii")], tmp_path / "out")
    assert record["slices"] == 1 and record["voxels"] == EXPECTED[3].sum()


def test_memory_grows_by_little_more_than_the_volume(tmp_path):
    """The whole size, 300 × 512 × 512 through the model for CT, is measured by `make stress`."""
    import tracemalloc

    values = chest(64, 160, 160)
    volume_of(values, "RAS", tmp_path / "ct.nii.gz")
    predictor = Predictor(Bright(), batch_size=4)
    list(predict_to_folder(predictor, [Request(tmp_path / "ct.nii.gz")], tmp_path / "out"))  # imports
    tracemalloc.start()
    (record,) = predict_to_folder(predictor, [Request(tmp_path / "ct.nii.gz")], tmp_path / "out")
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "error" not in record
    assert used < 3.2 * values.nbytes  # int16 itself, the mask and its copies in the file's order


def test_a_volume_is_read_from_whatever_holds_it(tmp_path):
    folder = write_series(tmp_path / "ct", VALUES)
    (folder / "notes.txt").write_text("nothing")
    for source in (folder, str(folder), [entry for entry in folder.iterdir() if entry.suffix == ".dcm"]):
        assert np.array_equal(read_volume(source).values, VALUES)
    with pytest.raises(ValueError, match=r"notes.txt: this is no CT volume; expected NIfTI"):
        read_volume(folder / "notes.txt")
    with pytest.raises(FileNotFoundError, match="there is no such file or folder; check the name"):
        read_volume(tmp_path / "none")
    with pytest.raises(ValueError, match=r"a map or a projection, not HU"):
        read_volume(example("eCT_Supplemental.dcm"))


def test_predict_segments_a_series_with_the_model_for_ct(tmp_path, capsys):
    folder = write_series(tmp_path / "ct", chest(3, 64, 64))
    volume_of(VALUES[:2], name=tmp_path / "nifti.nii.gz")
    inputs = [str(folder), str(tmp_path / "nifti.nii.gz"), str(example("eCT_Supplemental.dcm"))]
    out = tmp_path / "out"
    assert main(["predict", *inputs, "--model", "ct_small", "-o", str(out), "--window", "-600,1500"]) == 1
    said = capsys.readouterr()
    assert "a map or a projection, not HU" in said.err and "the window -600,1500 HU was not validated" in said.err
    assert "ml (patient's right:" in said.out
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done", "done", "failed"]
    assert float(rows[0]["volume_ml"]) >= 0 and rows[0]["file"] == "ct_seg.dcm" and rows[1]["file"] == "nifti.nii.gz"
    assert json.loads((out / "ct.json").read_text())["window"]["source"] == "given"
    assert main(["predict", str(folder), "-o", str(out)]) == 1
    assert "take a model for CT, such as --model ct_small" in capsys.readouterr().err
    assert main(["read", str(folder), "--model", "ct_small"]) == 1
    assert "this is a CT volume; `c2fvl predict` segments it" in capsys.readouterr().err


def test_slices_of_a_table_form_one_series(tmp_path, predictor):
    folder = write_series(tmp_path / "ct", VALUES)
    lines = ["image,report", *(f"ct/{name.name},No opacity." for name in sorted(folder.iterdir()))]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    (request,) = collect([], table=tmp_path / "table.csv")
    assert len(request.slices) == 6 and request.report == "No opacity."


@pytest.mark.real
def test_real_slices_as_a_volume_in_hu_get_the_masks_that_they_get_as_pictures(real_data, tmp_path):
    """The whole way: frame, window and back, against the same slices as grey images through `Predictor`."""
    jpegls = pytest.importorskip("jpeg_ls")
    with zipfile.ZipFile(real_data / "mosmeddata-plus" / "val.zip") as zipped:
        names = sorted(name for name in zipped.namelist() if "coronacases" in name and name.endswith(".jls"))[:40:10]
        greys = [jpegls.decode(np.frombuffer(zipped.read(name), np.uint8)) for name in names]
    assert len(greys) == 4
    values = np.stack([np.rint((grey / 255 - 0.5) * WINDOW[1] + WINDOW[0]) for grey in greys]).astype(np.int16)
    volume_of(values, "RAS", tmp_path / "ct.nii.gz")
    predictor = Predictor("ct_small", batch_size=4)
    found = predict_volume(predictor, tmp_path / "ct.nii.gz").mask
    expected = np.stack([one.mask for one in predictor.batch(greys)])
    assert expected.mean() > 0.005 and np.mean(found != expected) < 0.0005
