"""The first minute: films that are drawn, segmented with and without a report."""

import json

import cv2
import pytest

from c2fvl.cli.main import main
from c2fvl.data.phantom.examples import MODEL, NUM_EXAMPLES, example
from c2fvl.inference.predictor import Predictor
from c2fvl.metrics.overlap import dice, overlap


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_command_writes_films_reports_and_masks(here, capsys):
    assert main(["demo"]) == 0
    said = capsys.readouterr().out
    for number in range(1, NUM_EXAMPLES + 1):
        film = here / "c2fvl-demo" / f"film_{number}.png"
        report = film.with_suffix(".txt").read_text().strip()
        assert report in said
        assert cv2.imread(str(film), cv2.IMREAD_UNCHANGED).shape == (512, 512)
        assert cv2.imread(str(film.with_name(f"film_{number}_masks.png"))).shape[1] > 1000
    (command,) = (line.strip() for line in said.splitlines() if "predict c2fvl-demo" in line)
    assert command.startswith(f"c2fvl predict c2fvl-demo/film_1.png --model {MODEL} --report")


def test_its_figures_are_those_of_the_masks_and_a_report_helps(here, capsys):
    assert main(["demo", "out", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == NUM_EXAMPLES
    predictor = Predictor(MODEL)
    for number, record in enumerate(records):
        shown = example(number)
        for key, report in (
            ("no_report", None), ("its_report", shown.report), ("sides_exchanged", shown.exchanged)
        ):  # fmt: skip
            mask = predictor(here / record["film"], report).mask
            assert record[f"dice_{key}"] == pytest.approx(dice(overlap(mask, shown.case.mask)))
        assert record["dice_its_report"] > record["dice_no_report"] + 0.03
        assert record["dice_its_report"] > 0.65


def test_a_second_demo_replaces_the_first_and_leaves_other_files(here, capsys):
    assert main(["demo", "out"]) == 0
    before = {file.name: file.read_bytes() for file in (here / "out").iterdir()}
    (here / "out" / "mine.txt").write_text("mine")
    (here / "out" / "film_1.png").write_bytes(b"old")
    assert main(["demo", "out"]) == 0
    assert {file.name: file.read_bytes() for file in (here / "out").iterdir()} == {**before, "mine.txt": b"mine"}
    capsys.readouterr()


def test_a_file_in_its_place_is_an_error(here, capsys):
    (here / "out").write_text("a file")
    assert main(["demo", "out"]) == 2
    assert "out is a file; name a folder for the demo" in capsys.readouterr().err


def test_each_example_is_fit_for_its_model():
    predictor = Predictor(MODEL)
    for number in range(NUM_EXAMPLES):
        assert not predictor(example(number).case.image).ood.reasons
