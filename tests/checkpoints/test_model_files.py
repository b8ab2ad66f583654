"""Model folders that are damaged, changed, put together from several, or half written."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from c2fvl.checkpoints.model_files import MODEL_FILES, ModelFiles, write_files
from c2fvl.checkpoints.small_files import read_small_files
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.checkpoints.weights import build_for
from c2fvl.cli.main import main
from c2fvl.config import Config, ModelConfig
from c2fvl.files import storage
from c2fvl.files.storage import checksum
from c2fvl.training.run_folder import resolve_run


@pytest.fixture
def folder(tiny_run, tmp_path):
    """A model folder with a calibration and a trust curve, to be damaged."""
    shutil.copytree(tiny_run / "best", tmp_path / "model")
    weights = checksum((tmp_path / "model" / "model.safetensors").read_bytes())
    write_files(
        tmp_path / "model",
        {
            "calibration.json": storage.json_bytes(
                {"temperature": 1.5, "offset": 0, "weights_sha256": weights, "fitted_on": {}}
            ),
            "trust.json": storage.json_bytes({"weights_sha256": weights}),
        },
    )
    return tmp_path / "model"


def unlisted(folder, *names):
    """Remove files of a model folder, and its manifest."""
    for name in ("manifest.json", *names):
        (folder / name).unlink()


def with_settings(folder, *changes):
    """Change settings of a model folder, as a stranger could who also writes the manifest."""
    text = (folder / "config.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    write_files(folder, {"config.toml": text.encode()})


def test_a_manifest_lists_every_file(folder):
    listed = json.loads((folder / "manifest.json").read_text())
    assert set(listed) == {file.name for file in folder.iterdir()} - {"manifest.json"}
    for name, entry in listed.items():
        data = (folder / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": checksum(data)}
    assert load_model(folder).calibration["temperature"] == 1.5


@pytest.mark.parametrize(
    "name", [name for name in MODEL_FILES if name not in ("README.md", "ood.safetensors", "network.onnx")]
)
@pytest.mark.parametrize("damage", ["changed", "removed", "not listed"])
def test_a_file_that_is_not_as_it_was_written_is_refused(folder, name, damage):
    file = folder / name
    if damage == "changed":
        file.write_bytes(file.read_bytes().replace(b"1.5", b"1.6") if name == "calibration.json" else b"{}")
    elif damage == "removed":
        file.unlink()
    else:
        listed = json.loads((folder / "manifest.json").read_text())
        del listed[name]
        (folder / "manifest.json").write_text(json.dumps(listed))
    expected = (
        "no model folder"
        if damage == "removed" and name in ("model.safetensors", "config.toml")
        else rf"{name} (does not match|is missing|is not listed).*manifest\.json"
    )
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        load_model(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"null", b'{"a.py": {}}', b'{"config.toml": 1}', b'{"config.toml": {}}', b"[" * 100_000,
     b'{"config.toml": {"bytes": 1}}', b'{"config.toml": {"bytes": 1, "sha256": "", "next": {"bytes": 2}}}'],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: .*delete manifest\.json to use"):
        load_model(folder)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        write_files(folder, {"README.md": b""})


def test_a_manifest_of_another_folder_is_refused(folder, unet_run):
    shutil.copy(unet_run / "best" / "manifest.json", folder)
    with pytest.raises(ValueError, match="does not match its checksum in manifest"):
        load_model(folder)


def test_a_folder_without_a_manifest_is_used_with_a_warning(folder, caplog):
    assert load_model(folder).config.preset == "debug" and not caplog.records
    unlisted(folder)
    assert load_model(folder).calibration is not None
    assert f"{folder} has no manifest.json" in caplog.text
    write_files(folder, {"README.md": b"card"})
    assert set(json.loads((folder / "manifest.json").read_text())) == {file.name for file in folder.iterdir()} - {
        "manifest.json"
    }


@pytest.mark.parametrize("content", [b"{}", b'{"epoch": 1}', b'{"weights_sha256": null}'])
def test_metrics_without_a_checksum_do_not_switch_the_check_off(folder, content):
    unlisted(folder)
    (folder / "metrics.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"does not match the checksum in metrics\.json"):
        load_model(folder)


def test_an_edited_card_is_said_and_nothing_else(folder, caplog):
    write_files(folder, {"README.md": b"card"})
    (folder / "README.md").write_text("my card")
    load_model(folder)
    assert not caplog.records
    assert ModelFiles(folder).read("README.md") == b"my card"
    assert "README.md was changed after it was written" in caplog.text


def test_every_moment_of_a_write_leaves_a_folder_that_can_be_used(folder, monkeypatch):
    weights = checksum((folder / "model.safetensors").read_bytes())
    old = {name: (folder / name).read_bytes() for name in ("trust.json", "config.toml")}
    new = {
        "trust.json": storage.json_bytes({"weights_sha256": weights, "default": 0.2}),
        "config.toml": old["config.toml"] + b"\n",
        "README.md": b"card",
    }
    whole, moments = storage.write_bytes, 0
    for stop_at in range(1, 7):
        copy = shutil.copytree(folder, folder.parent / f"killed {stop_at}")
        count = 0

        def killed(path, data, stop_at=stop_at, **options):
            nonlocal count
            count += 1
            if count == stop_at:
                raise KeyboardInterrupt
            whole(path, data, **options)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", killed)
            try:
                write_files(copy, new)
            except KeyboardInterrupt:
                moments += 1
        model = load_model(copy)
        assert model.calibration["temperature"] == 1.5
        found = read_small_files(ModelFiles(copy), weights)
        is_new = [(copy / name).read_bytes() == new[name] for name in old]
        assert (found.trust_curve is None) == (is_new == [True, False] or (all(is_new) and stop_at == 4)), stop_at
        write_files(copy, new)
        assert read_small_files(ModelFiles(copy), weights).trust_curve["default"] == 0.2
        assert not any("next" in entry for entry in json.loads((copy / "manifest.json").read_text()).values())
    assert moments == 5


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_not_finite_are_refused(folder, value, dtype, capsys):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("weight"))
    weights[name] = weights[name].to(dtype)
    weights[name].view(-1)[0] = value
    save_file(weights, folder / "model.safetensors")
    unlisted(folder, "metrics.json")
    with pytest.raises(ValueError, match=rf"{name} has numbers that are not finite"):
        load_model(folder)


def test_whole_numbers_are_no_weights(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("weight"))
    save_file({**weights, name: weights[name].to(torch.int8)}, folder / "model.safetensors")
    unlisted(folder, "metrics.json")
    with pytest.raises(ValueError, match=rf"{name} is torch.int8 instead of torch.float32"):
        load_model(folder)


@pytest.mark.parametrize(
    "arguments",
    ["base_width = 8192", "base_width = 16777216", "base_width = 8\nnum_classes = 16777216",
     "base_width = 8\nin_channels = 16777216"],
)  # fmt: skip
def test_settings_cannot_ask_for_more_memory_than_the_weights_have(folder, arguments):
    import resource

    with_settings(folder, ("base_width = 8", arguments))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ValueError, match=r"does not fit (its settings|into memory)"):
        load_model(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("transunet", {"num_layers": 2**24}),
        ("uctransnet", {"num_layers": 2**24}),
        ("lvit", {"vocabulary_size": 2**24}),
        ("filmfirst", {"in_channels": 2**24}),
        ("medt", {"in_channels": -1}),
        ("unet", {"base_width": -(2**24)}),
        ("axialunet", {"image_size": 2**24}),
    ],
)
def test_every_network_is_held_to_its_weights(name, arguments):
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"does not fit (its settings|into memory)|cannot be built|must|expected"):
        build_for(ModelConfig(name, arguments), {"weight": torch.zeros(2)}, where="a.safetensors")
    assert time.monotonic() - began < 30


def test_a_model_folder_never_leads_to_a_device_or_a_pipe(folder):
    import os

    for name in ("metrics.json", "calibration.json", "manifest.json"):
        copy = shutil.copytree(folder, folder.parent / name)
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(ValueError, match=r"is missing, but manifest|is no regular file"):
            load_model(copy)


def test_a_changed_temperature_is_refused_on_the_command_line(folder, phantom_root, tmp_path, capsys):
    image = sorted((phantom_root / "Test_Folder" / "img").iterdir())[0]
    text = (folder / "calibration.json").read_text()
    (folder / "calibration.json").write_text(text.replace("1.5", "1.6"))
    assert main(["predict", str(image), "--model", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "calibration.json does not match its checksum" in error and "c2fvl calibrate" in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert main(["calibrate", str(folder), str(phantom_root), "--split", "test"]) in (0, 2)
    assert "does not match" not in capsys.readouterr().err
    assert np.isfinite(load_model(folder, replacing=["calibration.json"]).scaling.temperature)


def test_settings_of_a_stranger_lead_nowhere(folder, tmp_path, phantom_root, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    elsewhere = tmp_path / "elsewhere"
    text = (folder / "config.toml").read_text()
    for name, old, new in (
        ("image_cache", '""', f'"{elsewhere}/images"'),
        ("text_cache", '""', f'"{elsewhere}/text"'),
        ("text_fetch", "false", "true"),
        ("preset", '"debug"', '"../../elsewhere"'),
    ):
        assert f"{name} = {old}" in text
        text = text.replace(f"{name} = {old}", f"{name} = {new}")
    lines = [f'root = "{elsewhere}"' if line.startswith("root =") else line for line in text.splitlines()]
    write_files(folder, {"config.toml": "\n".join(lines).encode()})
    model = load_model(folder)
    assert not model.config.data.image_cache and not model.config.data.text_cache and not model.config.data.text_fetch
    images = sorted((phantom_root / "Test_Folder" / "img").iterdir())[:2]
    assert main(["predict", *map(str, images), "--model", str(folder), "--out", str(tmp_path / "out")]) == 0
    call = ["evaluate", str(folder), str(phantom_root), "--split", "test", "--out", str(tmp_path / "scores")]
    assert main([*call, "--report", "none"]) == 0
    assert not elsewhere.exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {"model", "out", "scores", "home"}
    capsys.readouterr()
    train = ["train", str(folder / "config.toml"), f"data.root={phantom_root}", "--out", str(tmp_path / "runs")]
    assert main(train) == 2
    assert "preset is '../../elsewhere', which would lead out of" in capsys.readouterr().err
    assert not elsewhere.exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("preset", ["..", ".", "/tmp/x", "a/b"])
def test_a_preset_is_no_path(preset, tmp_path):
    with pytest.raises(ValueError, match="would lead out of"):
        resolve_run(Config(preset=preset), tmp_path, None, None, ())


def test_files_that_are_links_are_replaced_and_not_written_through(folder, tmp_path):
    target = tmp_path / "target"
    for name in ("calibration.json", "manifest.json"):
        (folder / name).rename(target.with_suffix(f".{name}"))
        (folder / name).symlink_to(target.with_suffix(f".{name}"))
    before = {file: file.read_bytes() for file in tmp_path.glob("target.*")}
    assert len(before) == 2
    write_files(folder, {"calibration.json": b"{}"})
    assert {file: file.read_bytes() for file in before} == before
    assert not (folder / "calibration.json").is_symlink() and not (folder / "manifest.json").is_symlink()
