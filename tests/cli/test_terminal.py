"""What commands print fits the terminal: tables are wrapped or turned, words are broken between words."""

import io
import shutil

import pytest
from rich.cells import cell_len
from rich.console import Console

from c2fvl.cli.layout import described, paragraph, table
from c2fvl.cli.main import main
from c2fvl.cli.terminal import TerminalObserver
from c2fvl.data.part import Part
from c2fvl.evaluation.evaluate import evaluate

HEADER = ["report given", "Dice per image, %", "difference to the correct report, points"]
ROWS = [["correct", "79.75 (75.21 to 84.04)", "–"], ["none", "77.71 (72.71 to 82.39)", "−2.05 (−3.69 to −0.54)"]]


def widest(text):
    return max(map(cell_len, text.splitlines()))


@pytest.fixture(scope="module")
def results(tiny_run, phantom_root, tmp_path_factory):
    """An evaluation of the tiny run, twice."""
    from c2fvl.checkpoints.trained_model import load_model

    out = tmp_path_factory.mktemp("results")
    evaluate(load_model(tiny_run), Part(phantom_root, split="val"), out=out / "evaluation")
    shutil.copytree(out / "evaluation", out / "again")
    return out


def test_a_table_is_wrapped_and_then_turned_where_the_terminal_is_narrow(monkeypatch):
    texts = {}
    for columns in (120, 72, 54):
        monkeypatch.setenv("COLUMNS", str(columns))
        texts[columns] = table(HEADER, ROWS)
        assert widest(texts[columns]) <= columns
        for cell in (*ROWS[0], *ROWS[1]):
            assert cell in texts[columns]
    assert len(texts[120].splitlines()) == 4
    assert len(texts[72].splitlines()) > 4
    assert texts[72].splitlines()[-1].startswith("none")
    first, second = texts[54].split("\n\n")
    assert first.splitlines()[0] == "correct"
    assert second.splitlines()[-1].strip() == ROWS[1][2]


def test_a_file_or_a_pipe_gets_whole_rows(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert len(table(HEADER * 5, [row * 5 for row in ROWS]).splitlines()) == 4


def test_words_are_wrapped_and_paths_stay_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a/very/long/path/that/is/wider/than/the/terminal/of/40/letters.html"
    text = paragraph(f"The results page of this evaluation is {path} and no other")
    assert path in text.splitlines()
    assert described({"a": "one two " * 9, "long": "three"}).splitlines()[1].startswith("      one")


@pytest.mark.parametrize(
    "command",
    [
        ["models"],
        ["models", "small"],
        ["models", "c2fvl"],
        ["models", "c2fvl", "--summary", "base_width=8"],
        ["presets"],
        ["settings"],
        ["check", "{root}"],
        ["evaluate", "{run}", "{root}", "--split", "val", "--out", "{out}"],
        ["audit", "{run}", "{root}", "--split", "val", "--out", "{out}"],
        ["compare", "A={results}/evaluation", "B={results}/again"],
        ["compare", "{run}", "--no-speed"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_commands_fit_80_columns(command, tiny_run, phantom_root, results, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    places = {"run": tiny_run, "root": phantom_root, "out": "out", "results": results}
    assert main([part.format(**places) for part in command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    too_long = [line for line in lines if cell_len(line) > 80 and len(line.split()) > 1]
    assert not too_long


def test_models_tells_x_ray_from_ct(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "chest X-rays" in lines["small"]
    assert "CT" not in lines["small"]
    assert "CT slices" in lines["ct_small"]
    assert "synthetic" in lines["phantom"]


def test_the_bar_ends_with_the_best_dice_and_labelled_times():
    observer = TerminalObserver()
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, color_system=None)
    bar = observer._bar
    observer.console = bar.live.console = console
    line = {"epoch": 1, "train_loss": 0.5, "val_loss": 0.4, "val_iou_per_image": 0.6, "images_per_second": 20.0}
    observer.epoch(line | {"val_dice_per_image": 0.75}, True)
    observer.step(2, 4, 4, 0.4, 20.0)
    observer.epoch(line | {"epoch": 2, "val_dice_per_image": 0.8125}, True)
    console.print(bar.get_renderable())
    shown = screen.getvalue().splitlines()[-1]
    assert "best Dice 0.8125" in shown
    assert "gone," in shown
    assert shown.rstrip().endswith("left")
    assert cell_len(shown) <= 80


def test_an_unknown_preset_is_one_line(capsys):
    assert main(["train", "nosuch"]) != 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.count("nosuch") == 1
