"""Training with all data on the device, here a CPU: the same draws, losses and masks as from a loader."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from support.tiny_runs import TIMES, TINY

from c2fvl.config_files import override
from c2fvl.data.scan import scan
from c2fvl.training.callbacks import Observer
from c2fvl.training.device_steps import DeviceSteps, epoch_order
from c2fvl.training.loop import train
from c2fvl.training.resume_state import load_state
from c2fvl.training.setup import set_up
from c2fvl.training.steps import StreamedSteps
from c2fvl.training.validate import validate

ON_DEVICE = "data.on_device=yes"


def lines_of(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def first_losses(config, folder):
    """Return the loss terms of the first step, from a loader and from the device."""
    found = []
    for extra in ("data.on_device=no", ON_DEVICE):
        run = set_up(override(config, [extra]), folder)
        steps = StreamedSteps(run) if run.device_train is None else DeviceSteps(run, run.device_train)
        run.model.train()
        steps.start_epoch()
        steps.step(run.config.train.accumulation)
        found.append(steps.losses.read(1, run.config.train.accumulation))
    return found


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_first_step_is_that_of_a_loader(tiny_config, tmp_path, accumulation):
    sizes = ["data.image_size=64", "model.arguments.image_size=64"]  # those of the files, so that nothing is rounded
    config = override(tiny_config, [*sizes, "data.augmentation=none", f"train.accumulation={accumulation}"])
    streamed, on_device = first_losses(config, tmp_path)
    assert len(streamed) == accumulation
    for theirs, ours in zip(streamed, on_device, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_first_step_with_augmentation_is_that_of_a_loader_but_for_interpolation(tiny_config, tmp_path):
    streamed, on_device = first_losses(override(tiny_config, ["data.augmentation=consistent"]), tmp_path)
    assert on_device[0]["loss"] == pytest.approx(streamed[0]["loss"], rel=0.02)


@pytest.mark.parametrize("resize", ["exact", "published"])
def test_validation_on_the_device_counts_the_same_pixels(tiny_config, tmp_path, resize):
    config = override(tiny_config, ["train.best=mean", f"data.resize={resize}", "train.batch_size=7"])
    found = []
    for extra in ("data.on_device=no", ON_DEVICE):
        run = set_up(override(config, [extra]), tmp_path)
        torch.manual_seed(3)
        for weights in run.network.parameters():  # so that reports change something
            torch.nn.init.normal_(weights, std=0.3)
        found.append(validate(run))
    streamed, on_device = found
    assert streamed.pop("loss") == pytest.approx(on_device.pop("loss"), rel=0.2)  # of a case, of a batch
    assert on_device == streamed
    assert streamed["dice_per_image_none"] != streamed["dice_per_image"]


def test_each_epoch_has_whole_batches_of_all_cases(tiny_config, tmp_path):
    run = set_up(override(tiny_config, [ON_DEVICE, "train.batch_size=6", "train.accumulation=2"]), tmp_path)
    count = len(run.train_data)
    order = epoch_order(run, 3)
    assert len(order) % 12 == 0
    assert sorted(order[:count]) == list(range(count))
    assert order[count:] == order[: len(order) - count]
    assert order != epoch_order(run, 4)


class StopOnce(Observer):
    """Asks to stop after some batches, as Ctrl-C does."""

    def __init__(self, batches):
        self.left = batches

    def step(self, *arguments):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("per_reading", [1, 3])
def test_resuming_equals_not_stopping(tiny_config, tmp_path, monkeypatch, per_reading):
    monkeypatch.setattr("c2fvl.training.loop.batches_per_reading", lambda run: per_reading)
    config = override(tiny_config, [ON_DEVICE, "train.deterministic=true", "train.ema=0.9", "data.augmentation=strong"])
    try:
        whole = train(config, run=tmp_path / "whole").run
        assert not train(config, run=tmp_path / "parts", observer=StopOnce(3)).finished
        assert 0 < load_state(tmp_path / "parts" / "last").progress["batches"] < 7
        assert train(resume=tmp_path / "parts").finished
    finally:
        torch.use_deterministic_algorithms(False)
    assert lines_of(whole) == lines_of(tmp_path / "parts")
    first, second = load_state(whole / "last"), load_state(tmp_path / "parts" / "last")
    assert all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())
    assert all(torch.equal(value, second.average[name]) for name, value in first.average.items())
    assert 'on_device = "yes"' in (whole / "config.toml").read_text()


def test_a_loss_that_is_not_finite_names_the_images_of_its_batch(tiny_config, tmp_path, monkeypatch):
    """Losses are read every third batch, and the second is named with its own images."""
    monkeypatch.setattr("c2fvl.training.loop.batches_per_reading", lambda run: 3)
    run = set_up(override(tiny_config, [ON_DEVICE]), tmp_path)
    broken = epoch_order(run, 0)[5]
    real = type(run.device_train).batch

    def poisoned(self, draws, positions):
        batch = real(self, draws, positions)
        is_broken = (draws.index[positions] == broken)[:, None, None, None]
        return dataclasses.replace(batch, image=torch.where(is_broken, torch.nan, batch.image))

    monkeypatch.setattr(type(run.device_train), "batch", poisoned)
    with pytest.raises(ValueError, match="the loss is nan in epoch 1, batch 2, with the images") as error:
        train(override(tiny_config, [ON_DEVICE]), run=tmp_path / "run")
    assert run.train_data.cases[broken].id in str(error.value)


def test_a_graph_that_cannot_be_is_an_error_only_where_it_was_asked_for(tiny_config, tmp_path):
    config = override(tiny_config, [ON_DEVICE, "train.epochs=1"])
    assert train(config, run=tmp_path / "auto").finished
    assert "waiting_fraction" not in (tmp_path / "auto" / "log.jsonl").read_text()  # nothing is read
    with pytest.raises(ValueError, match=r"train\.graph=yes: CUDA graphs need a GPU"):
        train(override(config, ["train.graph=yes"]), run=tmp_path / "yes")


@pytest.mark.slow(like="test_resuming_equals_not_stopping")
def test_two_processes_train_and_the_cases_of_a_single_batch_are_validated_once(phantom_root, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "c2fvl"]
    settings = [*TINY, f'data.root="{phantom_root}"', "train.device=auto", "train.epochs=1", ON_DEVICE]
    done = subprocess.run(
        [*command, "train", "debug", *settings, "--run-dir", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=200, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert lines_of(tmp_path / "run")[0]["val_num_cases"] == len(scan(phantom_root, "val"))
