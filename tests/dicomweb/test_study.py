"""A study in an archive goes the way of files: the same records, outputs and exit statuses, and nothing is left."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from support.films import small_film
from support.volumes import chest, slice_of

from c2fvl.cli.main import main
from c2fvl.dicomweb.study import Skipped, StudyOptions, predict_study
from c2fvl.files.images import read_mask
from c2fvl.inference.outputs.seg import segmentation
from c2fvl.inference.predictor import Predictor

STUDY = "1.2.826.1"
FILM = "1.2.826.1.1.1"
PATH = f"studies/{STUDY}/series/{STUDY}.1/instances/{FILM}"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def other(number, **values):
    """Return an object of the study that is no film."""
    uids = {
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": f"{STUDY}.{number}",
        "SOPInstanceUID": f"{STUDY}.{number}.1",
    }
    return small_film(1, **uids | values)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def test_a_film_is_predicted_as_its_file_is(fake, archive, predictor, tmp_path):
    fake.add(small_film(1))
    options = StudyOptions(report="Consolidation in the left lower lobe.", outputs=("png",))
    (record,) = predict_study(archive, predictor, STUDY, tmp_path / "out", options)
    assert record["image"] == PATH
    assert names(tmp_path / "out") == [f"{FILM}.json", f"{FILM}.png"]
    assert json.loads((tmp_path / "out" / f"{FILM}.json").read_text())["image"] == PATH
    expected = predictor(small_film(1), options.report)
    assert (read_mask(tmp_path / "out" / f"{FILM}.png") == expected.mask).all()
    assert {name: record[name] for name in expected.to_dict()} == json.loads(json.dumps(expected.to_dict()))
    assert all(request.startswith("GET ") for request in fake.requests)  # nothing is changed without --store


def test_results_are_stored_once_and_are_no_input(fake, archive, predictor, tmp_path):
    fake.add(small_film(1), other(5, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR"))
    options = StudyOptions(store=True, outputs=("measurements", "sr"))
    found = list(predict_study(archive, predictor, STUDY, tmp_path, options))
    record = found[0]
    assert set(record["stored"]) == {"seg", "sc", "sr", "measurements"}
    assert set(record["stored"].values()) < set(fake.objects)
    assert found[1] == Skipped(
        f"{STUDY}.5", "Comprehensive SR Storage, neither a chest film nor a CT slice", (f"{STUDY}.5.1",)
    )
    (seg,) = fake.made("SEG")
    for kind, end in (("seg", "_seg.dcm"), ("sc", "_sc.dcm"), ("measurements", "_measurements.dcm")):
        local = pydicom.dcmread(tmp_path / f"{FILM}{end}")
        stored = fake.objects[record["stored"][kind]][0]
        assert local == stored and local.file_meta.MediaStorageSOPInstanceUID == local.SOPInstanceUID
        assert (stored.PatientID, stored.StudyInstanceUID) == ("P1", STUDY)
    references = [str(element.value) for element in stored.iterall() if element.tag == 0x00081155]
    assert seg.SOPInstanceUID in references  # the measurements refer to the segmentation that is stored
    assert len({str(dataset.SeriesInstanceUID) for dataset, _ in fake.objects.values()}) == 6

    before = dict(fake.objects)
    again = list(predict_study(archive, predictor, STUDY, tmp_path, options))
    assert again[0]["stored"] == record["stored"] and fake.objects == before
    reasons = {one.reason for one in again[1:]}
    assert "a result of c2fvl" in reasons and "Segmentation Storage, neither a chest film nor a CT slice" in reasons
    assert len(again) == 1 + 5
    other_report = StudyOptions(report="Consolidation in the left lower lobe.", store=True)
    (record, *_) = predict_study(archive, predictor, STUDY, tmp_path, other_report)
    assert not set(record["stored"].values()) & set(before)


def test_a_series_of_ct_slices_is_one_volume(fake, archive, tmp_path):
    predictor = Predictor("ct_small", batch_size=4)
    values = chest(6)
    slices = [slice_of(values, number) for number in range(6)]
    scout = slice_of(values, 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SOPInstanceUID="1.2.3.9.77",
                     SeriesInstanceUID="1.2.3.4")  # fmt: skip
    fake.add(*slices[::-1], scout)
    found = list(predict_study(archive, predictor, "1.2.3.1", tmp_path, StudyOptions(store=True)))
    record, skipped = found
    assert record["image"] == "studies/1.2.3.1/series/1.2.3.3" and record["slices"] == 6
    assert skipped == Skipped("1.2.3.4", "a localizer (scout)", ("1.2.3.9.77",))
    assert record["files"] == ["1.2.3.3_seg.dcm", "1.2.3.3.json"] and set(record["stored"]) == {"seg"}
    assert names(tmp_path) == ["1.2.3.3.json", "1.2.3.3_seg.dcm"]
    assert fake.objects[record["stored"]["seg"]][0].SOPClassUID == SEG
    options = StudyOptions(outputs=("nifti",))
    (record,) = predict_study(archive, predictor, "1.2.3.1", tmp_path / "one", options, series="1.2.3.3")
    assert names(tmp_path / "one") == ["1.2.3.3.json", "1.2.3.3.nii.gz"]


def test_images_that_the_model_is_not_for_are_not_even_fetched(fake, archive, predictor, tmp_path):
    film = small_film(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT", StudyInstanceUID="1.2.3.1")
    fake.add(film, *(slice_of(chest(3), number) for number in range(3)))
    for model, taken, reason in (
        (predictor, FILM, "a CT slice, and the model is for chest films"),
        (Predictor("ct_small"), "1.2.3.3", "a film or a capture, and the model is for CT slices"),
    ):
        fake.requests.clear()
        found = list(predict_study(archive, model, "1.2.3.1", tmp_path))
        (record,) = (one for one in found if isinstance(one, dict))
        (skipped,) = (one for one in found if isinstance(one, Skipped))
        assert record["image"].endswith(taken) and "error" not in record and skipped.reason.startswith(reason)
        assert not any(f"/instances/{uid}" in request for request in fake.requests for uid in skipped.objects)
    with pytest.raises(ValueError, match="holds 3 × a CT slice, and the model is for chest films"):
        list(predict_study(archive, predictor, "1.2.3.1", tmp_path, series="1.2.3.3"))


def test_what_fails_is_said_and_the_others_are_done(fake, archive, predictor, tmp_path):
    fake.add(small_film(1), other(2, ViewPosition="LL"), other(3), other(4), other(5))
    fake.objects[f"{STUDY}.3.1"] = (fake.objects[f"{STUDY}.3.1"][0], b"junk")
    fake.objects[f"{STUDY}.4.1"] = (fake.objects[f"{STUDY}.4.1"][0], fake.objects[FILM][1])
    del fake.objects[f"{STUDY}.5.1"][0].PixelData
    fake.add(fake.objects[f"{STUDY}.5.1"][0])
    records = {one["image"].rpartition("/")[2]: one for one in predict_study(archive, predictor, STUDY, tmp_path)}
    assert "error" not in records[FILM]
    errors = {uid.removeprefix(f"{STUDY}."): one["error"] for uid, one in records.items() if "error" in one}
    assert errors.keys() == {"2.1", "3.1", "4.1", "5.1"}
    assert "lateral" in errors["2.1"] and "no pixels" in errors["5.1"]
    assert "another object than was asked for" in errors["4.1"]
    assert "another object" in errors["3.1"] or "damaged" in errors["3.1"]
    assert names(tmp_path) == [f"{FILM}.json", f"{FILM}.png"]


def test_a_slice_that_cannot_be_had_costs_its_series(fake, archive, tmp_path):
    fake.add(*(slice_of(chest(4), number) for number in range(4)))
    fake.objects["1.2.3.9.2"] = (fake.objects["1.2.3.9.2"][0], b"junk")
    (record,) = predict_study(archive, Predictor("ct_small"), "1.2.3.1", tmp_path)
    assert record["error"].startswith("the slice 1.2.3.9.2 cannot be had") and names(tmp_path) == []


def test_a_refused_store_is_an_error_of_its_image(fake, archive, predictor, tmp_path):
    fake.add(small_film(1))

    def rule(method, path, handler):
        if method == "POST":
            handler.answer(400)
        return method == "POST"

    fake.rules = [rule]
    (record,) = predict_study(archive, predictor, STUDY, tmp_path, StudyOptions(store=True))
    assert record["error"] == (
        f"the result is in {tmp_path}, but the archive does not store 2 of 2 results (status 400)"
    )
    assert f"{FILM}_seg.dcm" in names(tmp_path)


@pytest.mark.parametrize(
    ("study", "series", "said"),
    [
        ("1.2.3", None, "the archive has no study 1.2.3"),
        (STUDY, "1.2.3", "has no series 1.2.3"),
        (STUDY, f"{STUDY}.7", "holds 1 × Segmentation Storage, neither"),
    ],
)
def test_what_is_not_there_or_nothing_to_segment_is_said(fake, archive, predictor, tmp_path, study, series, said):
    fake.add(small_film(1), other(7, SOPClassUID=SEG, Modality="SEG"))
    with pytest.raises(ValueError, match=said):
        list(predict_study(archive, predictor, study, tmp_path, series=series))


def test_the_command_has_the_statuses_and_the_table_of_predict(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fake.add(small_film(1), other(2, ViewPosition="LL"))
    assert main(["dicomweb", "predict", fake.url, "--study", STUDY, "--json", "--store"]) == 1
    said = capsys.readouterr()
    film, lateral = (json.loads(line) for line in said.out.splitlines())
    assert film["image"] == PATH and film["stored"] and "lateral" in lateral["error"]
    assert "1 of 2 images failed" in said.err and "P1" not in said.out + said.err and "Film" not in said.out
    assert len(Path("predictions/predictions.csv").read_text().splitlines()) == 3
    fake.objects = {FILM: fake.objects[FILM]}
    assert main(["dicomweb", "predict", fake.url, "--study", STUDY, "--out", "other", "--overlay"]) == 0
    said = capsys.readouterr()
    assert f"other/{FILM}.png: Lesion: " in said.out and f"{FILM}_overlay.png" in said.out
    assert main(["dicomweb", "predict", fake.url, "--study", "1.2.3"]) == 2


def test_words_of_the_archive_do_not_reach_the_terminal_raw(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    film = small_film(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        film.BodyPartExamined = "\x1b[31mRED\x07"
        fake.add(film)
    assert main(["dicomweb", "predict", fake.url, "--study", STUDY]) == 0
    said = capsys.readouterr()
    assert "BodyPartExamined is" in said.err
    assert "\x1b" not in said.out + said.err and "\x07" not in said.out + said.err


def test_an_overlay_of_this_program_is_no_film(predictor):
    """Also as a file: its lines would be taken for findings."""
    film = small_film(1)
    prediction = predictor(film)
    made = prediction_sc(prediction)
    with pytest.raises(ValueError, match="is a result of c2fvl, an overlay"):
        predictor(made)


def prediction_sc(prediction):
    from c2fvl.inference.outputs.of_prediction import clinical_files

    return clinical_files(prediction, ("sc",))["sc"]


def test_uids_that_follow_from_image_and_model(predictor):
    from c2fvl.dicomweb.results import identity_of, result_uid

    first = result_uid(identity_of(predictor, ["1.2"]), "seg")
    assert first == result_uid(identity_of(Predictor("default"), ["1.2"]), "seg")
    of_other_weights = Predictor("default")
    of_other_weights.model = dataclasses.replace(of_other_weights.model, weights_sha256="0" * 64)
    others = [
        result_uid(identity_of(predictor, ["1.3"]), "seg"),
        result_uid(identity_of(predictor, ["1.2"]), "sc"),
        result_uid(identity_of(Predictor("default", threshold=0.4), ["1.2"]), "seg"),
        result_uid(identity_of(Predictor("default", trust=0.4), ["1.2"]), "seg"),
        result_uid(identity_of(predictor, ["1.2"], report="Clear lungs."), "seg"),
        result_uid(identity_of(predictor, ["1.2"], window=(1.0, 2.0)), "seg"),
        result_uid(identity_of(of_other_weights, ["1.2"]), "seg"),
    ]
    assert len({first, *others}) == 8
    made = segmentation(small_film(1), np.zeros((96, 96), np.uint8), _about(predictor))
    assert generate_uid() != first != made.SOPInstanceUID


def _about(predictor):
    from c2fvl.inference.outputs.of_prediction import info_of

    return info_of(predictor(small_film(1)))
