"""Commands that change a model folder: models of the package stay as they are, and a copy has everything."""

import shutil

import pytest

from c2fvl.checkpoints.folders import SHIPPED
from c2fvl.checkpoints.model_files import ModelFiles
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    "command",
    [
        ["calibrate", "small", "ROOT"],
        ["fit-ood", "small", "ROOT"],
        ["fit-trust", "small", "ROOT", "--keep"],
        ["card", "small"],
        ["export", "small", str(SHIPPED / "small")],
    ],
    ids=lambda command: command[0],
)
def test_a_model_of_the_package_is_not_changed(command, phantom_root, capsys):
    before = content(SHIPPED / "small")
    assert main([str(phantom_root) if word == "ROOT" else word for word in command]) == 2
    said = capsys.readouterr().err
    assert "comes with the package and is not changed" in said
    assert f"`c2fvl {command[0]} … --out FOLDER`" in said
    assert content(SHIPPED / "small") == before


def test_the_copy_is_a_whole_model_with_the_change(tiny_run, tmp_path, capsys):
    before = content(tiny_run / "best")
    out = tmp_path / "copy"
    assert main(["card", str(tiny_run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'README.md'}\n"
    assert content(tiny_run / "best") == before
    assert {name: data for name, data in content(out).items() if name not in ("README.md", "manifest.json")} == {
        name: data for name, data in before.items() if name not in ("README.md", "manifest.json")
    }
    assert "Research use" in (out / "README.md").read_text(encoding="utf-8")
    assert set(ModelFiles(out).entries) == set(content(out)) - {"manifest.json"}
    assert load_model(out).path == out


def test_a_copy_replaces_nothing(tiny_run, phantom_root, tmp_path, capsys):
    shutil.copytree(tiny_run / "best", tmp_path / "copy")
    before = content(tmp_path / "copy")
    assert main(["card", str(tiny_run), "--out", str(tmp_path / "copy")]) == 2
    assert "exists" in capsys.readouterr().err
    assert content(tmp_path / "copy") == before
