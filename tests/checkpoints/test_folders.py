"""Models by path and by name, and what is packed to be given away."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import c2fvl
from c2fvl.checkpoints import folders as model_folders
from c2fvl.checkpoints.model_files import write_files
from c2fvl.checkpoints.packing import pack
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.config_files import parse_config
from c2fvl.evaluation.pages.model_card import write_card
from c2fvl.files import storage
from c2fvl.files.storage import checksum

REPORT = "Unilateral pulmonary infection, one infected area, upper left lung."


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty places for named models: package, checkout, cache; and an empty current folder."""
    monkeypatch.setattr(model_folders, "SHIPPED", tmp_path / "package")
    monkeypatch.setattr(model_folders, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for name in ("checkout", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A run with a calibration and a card."""
    folder = tmp_path_factory.mktemp("named") / "run"
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("evaluation-*"))
    weights = json.loads((folder / "best" / "metrics.json").read_text())["weights_sha256"]
    calibration = {"temperature": 1.5, "offset": -0.5, "weights_sha256": weights, "fitted_on": {"split": "val"}}
    write_files(folder / "best", {"calibration.json": storage.json_bytes(calibration)})
    write_card(folder)
    return folder


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    return pack(run, tmp_path_factory.mktemp("packed") / "model")


@pytest.fixture(scope="module")
def image(phantom_root):
    return sorted((phantom_root / "Test_Folder" / "img").iterdir())[0]


def test_a_packed_model_is_half_as_large_and_predicts_the_same(run, packed, image):
    source, halves = load_file(run / "best" / "model.safetensors"), load_file(packed.folder / "model.safetensors")
    assert halves.keys() == source.keys()
    for name, value in source.items():
        assert halves[name].dtype == (torch.float16 if value.is_floating_point() else value.dtype)
    assert packed.largest_difference == max(
        (source[name].double() - halves[name].double()).abs().max().item() for name in source
    )
    assert 0 < packed.largest_difference < 0.01
    model = load_model(packed.folder)
    loaded = model.network.state_dict()
    assert all(loaded[name].dtype == value.dtype for name, value in source.items())
    assert all(torch.equal(loaded[name], value.to(source[name].dtype)) for name, value in halves.items())
    expected, found = c2fvl.Predictor(run)(image, REPORT), c2fvl.Predictor(packed.folder)(image, REPORT)
    assert np.abs(expected.probability - found.probability).max() < 0.01
    assert not np.array_equal(expected.probability, found.probability)


def test_a_tensor_beyond_the_range_of_half_precision_is_packed_as_it_is(run, image, tmp_path):
    shutil.copytree(run / "best", tmp_path / "large")
    weights = load_file(run / "best" / "model.safetensors")
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][0] = 162387.0
    save_file(weights, tmp_path / "large" / "model.safetensors")
    for file in ("metrics.json", "manifest.json"):
        (tmp_path / "large" / file).unlink()
    halves = load_file(pack(tmp_path / "large", tmp_path / "out").folder / "model.safetensors")
    assert torch.equal(halves[name], weights[name])
    assert {key for key, value in halves.items() if value.dtype == torch.float32} == {name}
    expected, found = (c2fvl.Predictor(tmp_path / folder)(image, REPORT) for folder in ("large", "out"))
    assert np.abs(expected.probability - found.probability).max() < 0.01


def test_a_packed_model_holds_nothing_of_this_machine(run, packed, phantom_root):
    written = (packed.folder / "model.safetensors").read_bytes()
    before, after = (load_model(folder) for folder in (run, packed.folder))
    assert before.config.data.root and not after.config.data.root
    assert after.config.model == before.config.model
    assert after.metrics == {**before.metrics, "weights_sha256": checksum(written)}
    assert after.calibration == {**before.calibration, "weights_sha256": checksum(written)}
    card = (packed.folder / "README.md").read_text()
    assert before.metrics["weights_sha256"] in (run / "best" / "README.md").read_text()
    assert before.metrics["weights_sha256"] not in card and checksum(written) in card
    for file in packed.folder.iterdir():
        assert str(phantom_root.parent).encode() not in file.read_bytes(), file.name
    manifest = json.loads((packed.folder / "manifest.json").read_text())
    assert manifest["model.safetensors"] == {"bytes": len(written), "sha256": checksum(written)}
    assert manifest.keys() == {file.name for file in packed.folder.iterdir()} - {"manifest.json"}


def test_settings_that_are_places_of_a_machine_are_emptied():
    given = parse_config(
        '[data]\nroot = "a"\ntable = "/b/{split}.csv"\nimage_cache = "c"\ntext_cache = "d"\ntext_fetch = true\n'
        'text_model = "/e/MiniLM"\n[init]\nunet = "f"\nvit_npz = "g"\nefficientnet_lite = "h"\n'
    )
    assert model_folders.portable(given) == parse_config('[data]\ntext_model = "MiniLM"\n')
    kept = parse_config('[data]\ntable = "own.csv"\ntext_model = "owner/MiniLM"\n')
    assert model_folders.portable(kept) == kept


def test_paths_in_a_card_lose_their_folders_and_addresses_do_not(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    words = "77.3 / 63.8, /a/b/run data.root=/a/b/films, `~/c/d.py`, and/or, https://host/x/y, docs/results.md"
    (tmp_path / "run" / "best" / "README.md").write_text(words)
    pack(tmp_path / "run", tmp_path / "out")
    kept = "77.3 / 63.8, run data.root=films, `d.py`, and/or, https://host/x/y, docs/results.md"
    assert (tmp_path / "out" / "README.md").read_text() == kept


def test_what_cannot_be_packed_is_refused(run, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    shutil.copytree(run / "best", tmp_path / "damaged")
    weights = load_file(run / "best" / "model.safetensors")
    name = next(name for name, value in weights.items() if value.is_floating_point())
    save_file({**weights, name: weights[name] + torch.nan}, tmp_path / "damaged" / "model.safetensors")
    for file in ("metrics.json", "manifest.json"):
        (tmp_path / "damaged" / file).unlink()
    for call, message in (
        ([str(tmp_path), str(tmp_path / "out")], "no model folder"),
        ([str(run), str(tmp_path / "there")], "exists already"),
        (
            [str(tmp_path / "damaged"), str(tmp_path / "out")],
            f"{name} has numbers that are not finite; get the model again",
        ),
    ):
        assert main(["pack", *call]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_lead_to_models_and_a_model_folder_of_that_name_is_asked_about(places, packed, run, image, capsys):
    shutil.copytree(packed.folder, places / "package" / "small")
    shutil.copytree(packed.folder, places / "checkout" / "weights" / "large")
    shutil.copytree(packed.folder, places / "home" / "c2fvl" / "models" / "owner" / "name")
    for name, folder in (
        ("default", places / "package" / "small"),
        ("small", places / "package" / "small"),
        ("large", places / "checkout" / "weights" / "large"),
        ("owner/name", places / "home" / "c2fvl" / "models" / "owner" / "name"),
    ):
        assert c2fvl.load_model(name).path == folder
    assert main(["predict", str(image), "--report", REPORT]) == 0
    assert (places / "here" / "predictions" / f"{image.stem}.png").is_file()
    capsys.readouterr()
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    size = f"{packed.num_bytes / 1e6:.1f} MB"
    for name, place in (("small (default)", "package"), ("large", "checkout"), ("owner/name", "cache")):
        (line,) = (line for line in said.splitlines() if line.startswith(name))
        assert line.endswith(f"; c2fvl, {size}, in the {place}")

    shutil.copytree(run / "best", places / "here" / "large")
    with pytest.raises(ValueError, match=r"name of a trained model .* and of a model folder here; write \./large"):
        c2fvl.load_model("large")
    for path in ("./large", Path("large")):
        assert c2fvl.load_model(path).path.resolve() == places / "here" / "large"
    (places / "here" / "small").mkdir()  # any other folder does not stand in the way of a name
    assert c2fvl.load_model("small").path == places / "package" / "small"


def test_scores_of_a_named_model_stay_out_of_its_folder(places, packed, phantom_root):
    shutil.copytree(packed.folder, places / "package" / "small")
    before = sorted((places / "package" / "small").iterdir())
    assert main(["evaluate", "default", str(phantom_root), "--split", "test"]) == 0
    assert (places / "here" / "scores" / "small" / "evaluation-test" / "right" / "summary.json").is_file()
    assert sorted((places / "package" / "small").iterdir()) == before


def test_names_that_are_not_known_say_what_is(places, packed, image, capsys):
    assert main(["predict", str(image)]) == 2
    assert "no weights came with this copy of the package" in capsys.readouterr().err
    shutil.copytree(packed.folder, places / "package" / "small")
    shutil.copytree(packed.folder, places / "home" / "c2fvl" / "models" / "owner" / "name")
    for name, *messages in (
        ("smal", "did you mean small?", "default, small, owner/name"),
        ("xyz", "known are default, small, owner/name"),
        ("owner/nam", "`c2fvl pull owner/nam`", "did you mean owner/name?"),
        ("../package/smal", "no model folder"),
    ):
        assert main(["predict", str(image), "--model", name]) == 2
        error = capsys.readouterr().err
        assert all(message in error for message in messages), error


@pytest.mark.parametrize("damage", ["weights", "no manifest"])
def test_weights_of_a_checkout_must_have_their_checksum(places, packed, damage):
    folder = places / "checkout" / "weights" / "large"
    shutil.copytree(packed.folder, folder)
    if damage == "weights":
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    else:
        (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"checksum in manifest|manifest.*get the checkout"):
        c2fvl.load_model("large")


def test_weights_that_come_along_are_small_whole_and_of_no_machine():
    place = model_folders.SHIPPED
    files = [file for file in place.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 15e6
    for folder, maximum in ((place, 10e6), (model_folders.CHECKOUT / "weights", 60e6)):
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            assert sum(file.stat().st_size for file in entry.iterdir()) <= maximum, entry
            model = load_model(model_folders.find_model(entry.name))
            assert model.config == model_folders.portable(model.config), entry
            assert model.metrics["weights_sha256"] and (entry / "README.md").is_file(), entry
            assert (model.calibration is None) == (not (entry / "calibration.json").is_file()), entry


def test_a_wheel_carries_the_weights(packed, tmp_path):
    import tomllib

    project = model_folders.CHECKOUT / "pyproject.toml"
    patterns = tomllib.loads(project.read_text())["tool"]["setuptools"]["package-data"]["c2fvl"]
    shutil.copytree(packed.folder, tmp_path / "weights" / "small")
    carried = {file.name for pattern in patterns for file in tmp_path.glob(pattern)}
    assert carried == {file.name for file in packed.folder.iterdir()}


def test_a_curve_of_trust_of_other_weights_is_used_nowhere(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    curve = {"weights_sha256": "0" * 64, "points": [], "default": 0.1}
    for content, wrong in ((json.dumps(curve), "other weights"), ("{", "damaged"), ("[1]", "damaged")):
        write_files(folder / "best", {"trust.json": content.encode()})
        with pytest.raises(ValueError, match=wrong):
            write_card(folder)
        with pytest.raises(ValueError, match=wrong):
            pack(folder, tmp_path / "packed")
        assert not (tmp_path / "packed").exists()
