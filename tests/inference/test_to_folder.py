"""Many files: trees of folders, what is done already, what fails and why, and every output."""

import csv
import json
import os
import shutil

import numpy as np
import pytest

from c2fvl.cli.main import main
from c2fvl.files.images import read_mask, write_image
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import collect
from c2fvl.inference.to_folder import predict_to_folder

REPORT = "Unilateral pulmonary infection, one infected area, upper left lung."


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return Predictor(tiny_run)


@pytest.fixture
def tree(phantom_root, tmp_path):
    """Three images in two levels of folders, one of them without an ending, and a file that is no image."""
    images = sorted((phantom_root / "Test_Folder" / "img").iterdir())[:3]
    root = tmp_path / "archive"
    for image, place in zip(images, ("a.png", "one/b", "one/two/c.png"), strict=True):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, root / place)
    (root / "one" / "notes.txt").write_text("no image")
    return root


def rows_of(out):
    with (out / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_tree_of_folders_is_kept(tree, tiny_run, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    arguments = ["predict", str(tree), "--model", str(tiny_run), "--out", str(out), "--report", REPORT]
    assert main(arguments) == 0
    assert [row["image"] for row in rows_of(out)] == [str(tree / "a.png")]
    assert main([*arguments, "--recursive"]) == 0
    assert "notes.txt" in caplog.text
    for name in ("a", "one/b", "one/two/c"):
        assert read_mask(out / f"{name}.png").shape == (64, 64)
        assert json.loads((out / f"{name}.json").read_text())["files"][0] == f"{name}.png"
    assert [row["status"] for row in rows_of(out)] == ["done"] * 3
    (tree / "a.png").unlink()
    assert main(arguments) == 2
    assert "--recursive" in capsys.readouterr().err


def test_a_broken_file_stops_no_other_and_is_counted_with_its_reason(tree, tiny_run, tmp_path, capsys):
    (tree / "one" / "b").write_bytes((tree / "one" / "b").read_bytes()[:300])
    out = tmp_path / "out"
    command = ["predict", str(tree), "--model", str(tiny_run), "--out", str(out), "--recursive", "--report", REPORT]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "1 of 3 images failed (1 × " in said
    rows = rows_of(out)
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert rows[1]["reason"] and not rows[1]["file"]


def test_what_is_done_is_left_out_unless_anything_changed(tree, predictor, tiny_run, tmp_path):
    out, requests = tmp_path / "out", collect([str(tree)], recursive=True, report=REPORT)

    def skipped(some=requests, by=predictor, **options):
        return [
            record.get("skipped", False) for record in predict_to_folder(by, some, out, skip_existing=True, **options)
        ]

    assert skipped() == [False] * 3
    assert skipped() == [True] * 3
    assert skipped(outputs=["png", "probability"]) == [False] * 3  # the probability is not there yet
    assert skipped() == [True] * 3
    assert skipped(by=Predictor(tiny_run, threshold=0.4)) == [False] * 3
    assert skipped() == [False] * 3
    assert skipped(orientation="patient") == [False] * 3
    assert skipped(collect([str(tree)], recursive=True)) == [False] * 3
    assert skipped(collect([str(tree)], recursive=True)) == [True] * 3
    (out / "a.json").write_text("{")
    newer = out.stat().st_mtime + 100
    os.utime(tree / "one" / "b", (newer, newer))
    assert skipped(collect([str(tree)], recursive=True)) == [False, False, True]


def test_a_prediction_saves_itself_and_says_what_it_is(predictor, tree, tmp_path):
    found = predictor(tree / "a.png", REPORT, orientation="patient")
    files = found.save(tmp_path / "own", "film", ["png", "overlay", "json"])
    assert [file.name for file in files] == ["film.png", "film_overlay.png", "film.json"]
    assert all(file.is_file() for file in files)
    assert json.loads(files[-1].read_text()) == json.loads(json.dumps(found.to_dict()))
    assert found.to_dict()["report"]["orientation_given"] == "patient"
    assert found.to_dict()["source"]["kind"] == "png"
    with pytest.raises(ValueError, match="tiff cannot be written; expected some of png, probability"):
        found.save(tmp_path / "own", "other", ["tiff"])
    assert not (tmp_path / "own" / "other.png").exists()


def test_several_images_at_once_are_those_one_by_one(predictor, tree, tmp_path):
    images = [tree / "a.png", (tree / "one" / "b").read_bytes(), np.full((40, 50), 0.5)]
    for size in (1, 2):
        predictor.batch_size = size
        found = predictor.batch(images, [REPORT, None, REPORT])
        alone = [predictor(image, report) for image, report in zip(images, [REPORT, None, REPORT], strict=True)]
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)
    predictor.batch_size = 1
    assert predictor.batch([]) == []
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        predictor.batch(images, [REPORT])


def test_odd_names_and_links_to_nothing_cost_no_other_image(tree, tiny_run, tmp_path, capsys):
    (tmp_path / "x\x1b[31m.png").write_bytes((tree / "a.png").read_bytes())
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "out"
    named = ["predict", *map(str, (tmp_path / "x\x1b[31m.png", tmp_path / "gone.png")), "--model", str(tiny_run)]
    for command in (named, ["predict", str(tmp_path / "*.png"), "--model", str(tiny_run)]):
        assert main([*command, "--out", str(out)]) == 1
        assert "gone.png: the file does not exist" in capsys.readouterr().err
        table = (out / "predictions.csv").read_text()
        assert "x\\x1b[31m.png,done" in table
        assert "gone.png,failed" in table
        (out / "predictions.csv").unlink()


def test_unknown_outputs_are_refused_before_anything_is_read(tree, tiny_run, tmp_path, capsys):
    command = ["predict", str(tree / "a.png"), "--model", str(tiny_run), "--out", str(tmp_path / "out")]
    assert main([*command, "--output-type", "png,dicom"]) == 2
    assert "dicom cannot be written; expected some of png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_grey_image_and_its_colour_copy_give_the_same(predictor, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)
    write_image(tmp_path / "grey.png", grey)
    write_image(tmp_path / "colour.png", np.repeat(grey[:, :, None], 3, axis=2))
    first, second = (predictor(tmp_path / f"{name}.png") for name in ("grey", "colour"))
    assert np.array_equal(first.probability, second.probability)


def test_results_in_the_folder_that_is_searched_are_no_images(tree, tiny_run):
    command = ["predict", str(tree), "--recursive", "--model", str(tiny_run), "--out", str(tree / "masks")]
    assert main([*command, "--report", REPORT]) == 0
    assert main([*command, "--report", REPORT, "--overlay"]) == 0
    assert len(rows_of(tree / "masks")) == 3
    assert not (tree / "masks" / "masks").exists()


def test_an_archive_is_refused_with_a_word(tree, tiny_run, tmp_path, capsys):
    shutil.make_archive(str(tmp_path / "films"), "zip", tree)
    assert main(["predict", str(tmp_path / "films.zip"), "--model", str(tiny_run), "--out", str(tmp_path / "out")]) == 1
    assert "this is a zip archive; unpack it" in capsys.readouterr().err
