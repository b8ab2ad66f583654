"""Training by time: `train.minutes`, by a clock that each batch moves by a second."""

import json
import os
import signal
from types import SimpleNamespace

import pytest

from c2fvl.config_files import override
from c2fvl.training.callbacks import Observer
from c2fvl.training.loop import train
from c2fvl.training.resume_state import load_state
from c2fvl.training.time_budget import TimeBudget

ONE_CYCLE = ("optimizer.schedule=one_cycle", "optimizer.learning_rate=1e-2", "optimizer.min_rate=1e-6")


@pytest.fixture
def clock(monkeypatch):
    """Return the time that training sees, as the one entry of a list; a busy machine changes nothing."""
    seconds = [0.0]
    monkeypatch.setattr("c2fvl.training.time_budget.monotonic", lambda: seconds[0])
    for module in ("loop", "saving"):
        monkeypatch.setattr(f"c2fvl.training.{module}.time", SimpleNamespace(monotonic=lambda: seconds[0]))
    return seconds


def lines_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


class Ticks(Observer):
    """Lets a second pass with each batch, and asks to stop after some, as Ctrl-C does."""

    def __init__(self, clock, stop_after=0):
        self.clock, self.left = clock, stop_after

    def step(self, *arguments):
        self.clock[0] += 1
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("on_device", ["no", "yes"])
def test_a_run_ends_in_time_and_annealed(tiny_config, tmp_path, clock, on_device):
    config = override(tiny_config, [*ONE_CYCLE, "train.minutes=0.7", "train.patience=1", f"data.on_device={on_device}"])
    result = train(config, run=tmp_path / "run", observer=Ticks(clock))
    assert result.finished
    assert "0.7 minutes are used" in result.reason
    lines = lines_of(result.run)
    assert len(lines) > config.train.epochs  # of which it takes no notice, nor of the patience
    assert lines[-1]["learning_rate"] < 1e-3
    assert max(line["learning_rate"] for line in lines) > 5e-3
    assert "val_dice_per_image" in lines[-1]
    used = load_state(result.run / "last").progress["used_seconds"]
    assert 0.7 * 60 * 0.8 < used <= 0.7 * 60


def test_a_resumed_run_has_the_time_that_is_left(tiny_config, tmp_path, clock):
    config = override(tiny_config, [*ONE_CYCLE, "train.minutes=0.7"])
    stopped = train(config, run=tmp_path / "run", observer=Ticks(clock, stop_after=16))
    assert not stopped.finished
    assert load_state(stopped.run / "last").progress["used_seconds"] == 16
    assert train(resume=stopped.run, observer=Ticks(clock)).finished
    assert 34 < load_state(stopped.run / "last").progress["used_seconds"] == clock[0] <= 0.7 * 60
    lines = lines_of(stopped.run)
    assert lines[-1]["learning_rate"] < 1e-3
    again = train(resume=stopped.run, observer=Ticks(clock))  # with no time left it has nothing to do
    assert again.finished
    assert lines_of(again.run) == lines


def test_too_little_time_is_said(tiny_config, tmp_path, clock, caplog):
    with pytest.raises(ValueError, match=r"train\.minutes=0\.0001 leaves no time to train"):
        train(override(tiny_config, ["train.minutes=0.0001"]), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config = override(tiny_config, [*ONE_CYCLE, "train.minutes=0.2", "train.batch_size=2"])
    result = train(config, run=tmp_path / "run", observer=Ticks(clock))
    assert result.finished
    assert "ended in the first epoch, after" in caplog.text
    assert len(lines_of(result.run)) == 1


def test_a_schedule_that_does_not_follow_the_time_is_said(tiny_config, tmp_path, clock, caplog):
    config = override(tiny_config, ["optimizer.schedule=constant", "train.minutes=0.2"])
    train(config, run=tmp_path / "run", observer=Ticks(clock))
    assert "optimizer.schedule=constant does not follow train.minutes" in caplog.text


def test_the_fraction_is_of_the_time_to_train_in(clock):
    clock[0] = 5.0
    budget = TimeBudget(1)
    budget.kept = 8.0
    clock[0] += 2
    assert budget.now() == 0.0  # training begins
    clock[0] += 10
    assert budget.now() == pytest.approx(10 / 50)
    clock[0] += 40
    assert budget.now() == 1.0
    assert not TimeBudget(0).is_set


def test_validation_waits_for_its_epoch_and_the_last_one_is_validated(tiny_config, tmp_path):
    config = override(tiny_config, ["train.epochs=5", "train.validate_every=2", "train.best=none"])
    run = train(config, run=tmp_path / "run").run
    lines = lines_of(run)
    assert [line["epoch"] for line in lines if "val_dice_per_image" in line] == [2, 4, 5]
    best = json.loads((run / "best" / "metrics.json").read_text())
    chosen = max((line for line in lines if "val_loss" in line), key=lambda line: line["val_dice_per_image_none"])
    assert best["epoch"] == chosen["epoch"]
    assert best["val_dice_per_image_none"] == chosen["val_dice_per_image_none"]
    assert load_state(run / "last").progress["best_dice"] == chosen["val_dice_per_image_none"]


def test_the_best_model_may_be_that_of_the_mean(tiny_config, tmp_path):
    run = train(override(tiny_config, ["train.best=mean", "train.epochs=1"]), run=tmp_path / "run").run
    line = lines_of(run)[0]
    mean = (line["val_dice_per_image"] + line["val_dice_per_image_none"]) / 2
    assert load_state(run / "last").progress["best_dice"] == pytest.approx(mean)


def test_without_text_there_is_nothing_to_leave_out(tiny_config, tmp_path):
    settings = ["train.best=mean", "train.epochs=1", "data.text=none"]
    run = train(override(tiny_config, settings), run=tmp_path / "run").run
    assert "val_dice_per_image_none" not in lines_of(run)[0]
