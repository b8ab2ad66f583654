"""Training with less memory, or compiled, computes what training computes."""

import dataclasses
import json

import pytest
import torch
from support.networks import images, network, networks, reports
from support.tiny_runs import TIMES

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config import ModelConfig
from c2fvl.config_files import override
from c2fvl.models import build_model
from c2fvl.training.loop import train
from c2fvl.training.recompute import recompute_activations


def one_step(tiny, *, recompute):
    """Return the output, the gradients and the running statistics of a step in training mode, dropout included."""
    built = network(tiny).train()
    names = list(built.state_dict())
    if recompute:
        assert recompute_activations(built) > 1
    torch.manual_seed(1)
    logits = built(images(tiny), reports(tiny)).logits
    logits.square().mean().backward()
    assert list(built.state_dict()) == names
    gradients = {name: weight.grad for name, weight in built.named_parameters() if weight.grad is not None}
    return {"logits": logits.detach()} | gradients | dict(built.named_buffers())


@pytest.mark.parametrize(
    "tiny",
    networks(
        "c2fvl", "filmfirst plain scales", "lvit", "medt", "transunet", "uctransnet", "unet",
        like="test_gradients_and_running_statistics_are_the_same",
    ),
)  # fmt: skip
def test_gradients_and_running_statistics_are_the_same(tiny):
    expected, found = (one_step(tiny, recompute=value) for value in (False, True))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=name)


def kept_bytes(built, image, text):
    """Return how much the backward pass is kept for."""
    kept = {}

    def keep(values):
        storage = values.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return values

    weights = {weight.untyped_storage().data_ptr() for weight in built.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        output = built(image, text)
    assert output.logits.requires_grad
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("name", ["c2fvl", "unet"])
def test_less_than_half_is_kept(name):
    torch.manual_seed(0)
    built = build_model(name, {"base_width": 16} | ({"image_size": 64} if name == "c2fvl" else {})).train()
    image, text = torch.rand(4, 3, 64, 64), torch.ones(4, 1, 8)
    whole = kept_bytes(built, image, text)
    recompute_activations(built)
    assert kept_bytes(built, image, text) < whole / 2


def epochs_of(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def test_a_run_with_averaged_weights_is_the_same(tiny_config, tmp_path):
    runs = []
    for value in ("false", "true"):
        config = override(tiny_config, [f"train.recompute={value}", "train.ema=0.5"])
        runs.append(train(config, run=tmp_path / value).run)
    plain, less = (load_model(run).network.state_dict() for run in runs)
    for name, value in plain.items():
        torch.testing.assert_close(less[name], value, rtol=1e-5, atol=1e-6, msg=name)
    for one, other in zip(*map(epochs_of, runs), strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # the compiler warns of what it does itself
def test_a_compiled_run_is_the_same_and_its_weights_keep_their_names(tiny_config, tmp_path, monkeypatch):
    compiled = []
    plain = torch.nn.Module.compile

    def without_a_compiler(module):
        compiled.append(module)
        plain(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", without_a_compiler)
    small = dataclasses.replace(tiny_config, model=ModelConfig("unet", {"base_width": 8}))
    small = override(small, ["train.epochs=1", "data.text=none", "loss.alignment=0", "loss.side_maps=0"])
    runs = [train(override(small, [f"train.compile={value}"]), run=tmp_path / value).run for value in ("false", "true")]
    assert len(compiled) == 1
    expected, found = (load_model(run).network.state_dict() for run in runs)
    assert list(expected) == list(found)
    for one, other in zip(*map(epochs_of, runs), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_both_at_once_are_refused(tiny_config, tmp_path):
    config = override(tiny_config, ["train.compile=true", "train.recompute=true"])
    with pytest.raises(ValueError, match="exclude each other"):
        train(config, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
