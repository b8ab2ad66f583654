"""A loss of the user's own, by `loss.custom`."""

import json
import sys

import pytest
import torch

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config import LossConfig
from c2fvl.config_files import override
from c2fvl.training.loop import train
from c2fvl.training.losses import build_loss

MODULE = """
import torch

def squares(output, mask, text, findings):
    difference = (output.logits[:, 0].float().sigmoid() - mask).square().mean()
    return {"loss": difference, "squares": difference}

def no_dictionary(output, mask, text, findings):
    return output.logits.mean()

def two_arguments(output, mask):
    return {}

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return the name of a module in the current folder that nobody has imported."""
    (tmp_path / "my_losses.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "my_losses"
    sys.modules.pop("my_losses", None)


def test_a_network_trains_by_it_and_its_model_loads_without_it(tiny_config, module, tmp_path):
    config = override(tiny_config, [f"loss.custom={module}:squares", "train.epochs=1"])
    run = train(config, run=tmp_path / "run").run
    line = json.loads((run / "log.jsonl").read_text())
    assert line["train_loss"] == line["train_squares"] > 0
    assert "train_dice_loss" not in line
    del sys.modules[module]
    (tmp_path / "my_losses.py").unlink()
    assert load_model(run).config.loss.custom == f"{module}:squares"
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_losses:nothing", "has no 'nothing'"),
        ("my_losses:number", "not written in my_losses"),
        ("my_losses:two_arguments", r"called as loss\(output, mask, text, findings\)"),
        ("my_losses:no_dictionary", "returned Tensor .* expected a dictionary of tensors"),
        ("nowhere_to_be_found:loss", "there is no module nowhere_to_be_found"),
        ("my_losses", r"expected package\.module:function"),
    ],
)
def test_what_is_wrong_with_it_is_reported_before_anything_is_written(tiny_config, module, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        train(override(tiny_config, [f"loss.custom={name}"]), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_name_alone_imports_nothing(module):
    with pytest.raises(ValueError, match="no code is run because a file names it"):
        build_loss(LossConfig(custom=f"{module}:squares"))
    assert module not in sys.modules


def test_a_resumed_run_imports_nothing_by_itself(tiny_config, module, tmp_path):
    config = override(tiny_config, [f"loss.custom={module}:squares", "train.epochs=1"])
    run = train(config, run=tmp_path / "run").run
    del sys.modules[module]
    with pytest.raises(ValueError, match="no code is run because a file names it"):
        train(resume=run, overrides=("train.epochs=2",))
    __import__(module)
    assert train(resume=run, overrides=("train.epochs=2",)).finished
    assert torch.isfinite(torch.tensor(json.loads((run / "log.jsonl").read_text().splitlines()[1])["train_loss"]))
