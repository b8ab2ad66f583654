"""The wheel in a fresh environment, as a user installs it. Needs the package index; skipped where it is not reached."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MAX_WHEEL_WEIGHTS = 15_000_000
MAX_INSTALLED = 380 * 2**20
"""Bytes on disk that the package and what it requires take, at most. 366 MiB were measured."""


def run(*command, **options):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "C2FVL"))}
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"NO_COLOR": "1"},
        **options,
    )


def size_on_disk(folder):
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the sources, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = run("git", "-C", PROJECT, "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    kept = [name for name in files if name.startswith("src/") or "/" not in name]
    for name in kept:
        if (PROJECT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((PROJECT / name).read_bytes())
    done = run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow(like="test_a_prediction_needs_no_torch")
def test_the_wheel_holds_its_models_and_no_more(wheel):
    names = {entry.filename: entry.file_size for entry in zipfile.ZipFile(wheel).infolist()}
    weights = {name: size for name, size in names.items() if name.startswith("c2fvl/weights/")}
    assert {name.split("/")[2] for name in weights} == {"small", "ct_small", "phantom"}
    for model in ("small", "ct_small", "phantom"):
        assert {"model.safetensors", "network.onnx", "manifest.json"} <= {
            name.split("/")[3] for name in weights if name.startswith(f"c2fvl/weights/{model}/")
        }
    assert sum(weights.values()) < MAX_WHEEL_WEIGHTS
    assert {"c2fvl/serve/page/index.html", "c2fvl/py.typed", "c2fvl/presets/phantom.toml"} <= set(names)


@pytest.mark.slow(like="test_a_prediction_needs_no_torch")
def test_a_fresh_install_is_small_and_its_first_command_works(wheel, tmp_path):
    fresh = tmp_path / "fresh"
    venv.create(fresh, with_pip=True)
    before = size_on_disk(fresh)
    done = run(fresh / "bin" / "pip", "install", "-q", "--only-binary", ":all:", wheel)
    if done.returncode:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert size_on_disk(fresh) - before < MAX_INSTALLED

    command = fresh / "bin" / "c2fvl"
    done = run(command, "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c2fvl-demo" / "film_1_masks.png").is_file()
    done = run(command, "predict", "c2fvl-demo/film_1.png", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"engine": "onnxruntime' in done.stdout
    for missing, arguments in (
        ("train", ["evaluate", "small", "data"]),
        ("train", ["train", "debug"]),
        ("serve", ["serve"]),
        ("dicomweb", ["dicomweb", "predict", "http://127.0.0.1:1/dicom-web", "--study", "1.2"]),
    ):
        done = run(command, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert f"pip install 'c2fvl[{missing}]'" in line
