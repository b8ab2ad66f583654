"""What commands print and log: words of files never control a terminal, a log or a page."""

import ast
import json
import logging
import os
import shutil
from pathlib import Path

import pytest

import c2fvl
from c2fvl.cli.main import main
from c2fvl.cli.output import OneLineFormatter
from c2fvl.messages import LinesError, printable

HOSTILE = "a\x1b[31m\r\n\u202eb\x9b2J\u2028\x07"
"""Colours, a new line, right-to-left writing, and a control sequence of one character."""


def is_plain(text):
    return text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü – …", "plain ü – …"),
        ("a\nb\tc\xa0d\u2028e", "a b c d e"),
        ("\x1b[2J\x9b\x07\x00", r"\x1b[2J\x9b\x07\x00"),
        ("\u202e\u2066\u200b", r"\u202e\u2066\u200b"),
        ("\udcff", r"\udcff"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_is_not_printable_is_written_as_in_python(text, shown):
    assert printable(text) == shown and shown.isprintable()


def test_only_one_module_prints():
    folder = Path(c2fvl.__file__).parent
    for file in folder.rglob("*.py"):
        calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
        prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not prints or file == folder / "cli" / "output.py", file


def test_a_log_has_one_line_for_each_message():
    record = logging.LogRecord("name", logging.WARNING, "", 0, "no %s", (HOSTILE,), None)
    assert OneLineFormatter("%(levelname)s: %(message)s").format(record) == f"WARNING: no {printable(HOSTILE)}"


def test_an_error_of_several_lines_keeps_them(monkeypatch, capsys):
    def fail(*_, **__):
        raise LinesError("first", f"- {HOSTILE}", "last")

    monkeypatch.setattr("c2fvl.data.check.check.check", fail)
    assert main(["check", "x"]) == 2
    assert capsys.readouterr().err == f"c2fvl: first\n- {printable(HOSTILE)}\nlast\n"


@pytest.fixture(scope="module")
def root(phantom_root, tmp_path_factory):
    """A data set with one image whose name, and one whose report, would control a terminal; one is no UTF-8."""
    root = tmp_path_factory.mktemp("hostile") / "set"
    shutil.copytree(phantom_root, root)
    images, masks = (root / "Test_Folder" / name for name in ("img", "labelcol"))
    kept = sorted(images.iterdir())[:6]
    for image in sorted(images.iterdir())[6:]:
        image.unlink()
        (masks / f"mask_{image.name}").unlink(missing_ok=True)
    names = {kept[0].stem: f"sub-{HOSTILE}", kept[1].stem: os.fsdecode(b"sub-\xff")}
    for image in kept[:2]:
        image.rename(image.with_stem(names[image.stem]))
    for mask in sorted(masks.iterdir()):
        stem = mask.stem.removeprefix("mask_")
        if stem in names:
            mask.rename(mask.with_name(mask.name.replace(stem, names[stem])))
        elif stem not in {image.stem for image in kept}:
            mask.unlink()
    return root


def test_names_of_files_never_control_the_terminal(tiny_run, root, tmp_path, capsys):
    images = sorted((root / "Test_Folder" / "img").iterdir())
    (tmp_path / f"{HOSTILE}.png").write_text("no image")
    calls = (
        ["predict", *images[:6], tmp_path / f"{HOSTILE}.png", "--model", tiny_run, "--out", tmp_path / "out"],
        ["predict", tmp_path / f"{HOSTILE}.png", "--model", tiny_run, "--out", tmp_path / "out", "--json"],
        ["predict", images[2], "--report", f"Infection {HOSTILE}", "--model", tiny_run, "--out", tmp_path / "out"],
        ["predict", tmp_path / f"{HOSTILE}.jpg", "--model", tiny_run],
        ["predict", images[2], "--model", tmp_path / HOSTILE],
        ["check", root],
        ["check", tmp_path / HOSTILE],
        ["evaluate", tiny_run, root, "--split", "test", "--report", "none", "--out", tmp_path / "scores"],
        ["train", HOSTILE],
        ["presets", HOSTILE],
    )
    for call in calls:
        main([str(word) for word in call])
        said = capsys.readouterr()
        assert is_plain(said.out) and is_plain(said.err), call
        assert "Traceback" not in said.err
        assert said.out or said.err
    for file in tmp_path.rglob("*"):
        if file.suffix in (".html", ".md", ".json"):
            assert is_plain(file.read_text(encoding="utf-8")), file
    records = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    assert len(records) == 6 and any(HOSTILE in record["image"] for record in records)


def test_settings_and_cards_of_a_stranger_never_control_the_terminal(tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "c2fvl" / "models" / "owner" / "name"
    shutil.copytree(tiny_run / "best", folder)
    (folder / "manifest.json").unlink()
    (folder / "README.md").write_text("---\n---\n\n# x\n\nA \x1b]0;title\x07 network \u202e.\n")
    text = (folder / "config.toml").read_text().replace('preset = "debug"', 'preset = "\\u001b[31m\\u202e"')
    (folder / "config.toml").write_text(text)
    for call in (
        ["models"],
        ["models", "owner/name"],
        ["card", str(folder), "--replace"],
        ["presets", str(folder / "config.toml")],
    ):
        assert main(call) == 0
        said = capsys.readouterr()
        assert is_plain(said.out) and is_plain(said.err), call
    assert is_plain((folder / "README.md").read_text())
