"""Rights and space of what a command will write are known before it reads its first image."""

import shutil

import pytest

from c2fvl.cli.main import main
from c2fvl.files import images

COMMANDS = {
    "evaluate": ("evaluate", "MODEL", "DATA", "--out", "OUT"),
    "audit": ("audit", "MODEL", "DATA", "--out", "OUT"),
    "compare": ("compare", "MODEL", "--root", "DATA", "--no-speed", "--out", "OUT"),
    "predict": ("predict", "IMAGE", "--model", "MODEL", "--out", "OUT"),
    "calibrate": ("calibrate", "MODEL", "DATA"),
    "fit-ood": ("fit-ood", "MODEL", "DATA"),
    "export": ("export", "MODEL", "OUT/network.onnx"),
    "shards": ("shards", "DATA", "OUT/shards"),
    "phantom": ("phantom", "OUT/phantom"),
}


@pytest.fixture
def call(tiny_run, phantom_root, tmp_path, monkeypatch):
    """The arguments of a command, on a model of its own."""
    model = tmp_path / "run" / "best"
    shutil.copytree(tiny_run / "best", model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = next((phantom_root / "Test_Folder" / "img").iterdir())
    out = tmp_path / "out"
    out.mkdir()
    values = {"MODEL": model, "DATA": phantom_root, "IMAGE": image, "OUT": out}

    def arguments(name):
        words = [str(values.get(word, word)) for word in COMMANDS[name]]
        return [word.replace("OUT/", f"{out}/") for word in words]

    return arguments


@pytest.mark.parametrize("name", ["evaluate", "audit", "compare", "predict", "calibrate", "fit-ood", "export"])
def test_a_full_disk_is_said_before_the_first_image(call, name, monkeypatch, capsys):
    def read(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr(images, "_decode_pixels", read)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 2**20))
    arguments = call(name)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "only 1 MiB are free in" in said and "make room, or name another folder" in said, said
    where = arguments[1] if name in ("calibrate", "fit-ood") else arguments[-1].removesuffix("/network.onnx")
    assert where in said


@pytest.mark.parametrize("name", ["evaluate", "audit", "compare", "predict", "export", "shards", "phantom"])
def test_a_place_that_cannot_be_written_is_named(call, name, tmp_path, capsys):
    """A file lies where the folder would be made: this holds for every user, root too."""
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("a file")
    assert main(call(name)) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "out") in said
    assert said.count("\n") == 1 and "Traceback" not in said, said
    assert (tmp_path / "out").read_text() == "a file"
