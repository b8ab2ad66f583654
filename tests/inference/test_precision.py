"""In which number format a trained network predicts: chosen where it was measured, asked for, refused, and recorded."""

import json

import numpy as np
import pytest
import torch

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.inference import precision
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.torch_engine import NetworkEngine


class Large(torch.nn.Module):
    def __init__(self, numel):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(numel))


@pytest.mark.parametrize(
    ("name", "numel", "has_bf16", "device", "expected"),
    [
        ("c2fvl", 5_000_000, True, "cpu", "bf16"),
        ("unet", 5_000_000, True, "cpu", "fp32"),
        ("c2fvl", 5_000_000, False, "cpu", "fp32"),
        ("c2fvl", 4_999_999, True, "cpu", "fp32"),
        ("filmfirst", 5_000_000, True, "cpu", "fp32"),
        ("c2fvl", 5_000_000, True, "cuda", "fp32"),
    ],
)
def test_bf16_is_chosen_where_it_is_known_to_be_faster_and_right(monkeypatch, name, numel, has_bf16, device, expected):
    monkeypatch.setattr(precision, "settled_precision", lambda *_: "bf16" if has_bf16 else "fp32")
    assert precision.suited_precision(name, Large(numel), device, "auto") == expected
    assert precision.suited_precision(name, Large(numel), "cpu", "fp32") == "fp32"
    with pytest.raises(ValueError, match="expected one of fp32, bf16"):
        precision.suited_precision(name, Large(numel), device, "int4")


def test_bf16_is_near_fp32_and_recorded(tiny_run, phantom_root, tmp_path, capsys):
    image = sorted((phantom_root / "Test_Folder" / "img").iterdir())[0]
    model = load_model(tiny_run)
    found = {kind: Predictor(NetworkEngine(model, precision=kind))(image) for kind in ("fp32", "bf16")}
    assert {kind: one.to_dict()["model"]["precision"] for kind, one in found.items()} == {
        "fp32": "fp32",
        "bf16": "bf16",
    }
    difference = np.abs(found["fp32"].probability - found["bf16"].probability).max()
    assert 0 < difference < 0.05
    command = ["predict", str(image), "--model", str(tiny_run), "--out", str(tmp_path), "--json"]
    assert main([*command, "--precision", "bf16"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["precision"] == "bf16"
    assert main([*command, "--precision", "fp16"]) == 2
    assert "processors do not compute in fp16" in capsys.readouterr().err


def test_an_evaluation_says_its_precision(tiny_run, phantom_root, tmp_path, capsys):
    command = ["evaluate", str(tiny_run), str(phantom_root), "--json", "--out", str(tmp_path / "scores")]
    assert main([*command, "--precision", "bf16"]) == 0
    assert json.loads(capsys.readouterr().out)["software"]["precision"] == "bf16"
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["software"]["precision"] == "fp32"
