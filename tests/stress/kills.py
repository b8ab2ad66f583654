"""Training runs that are killed at any moment: each goes on from its last whole state and ends the same."""

import dataclasses
import os
import random
import shutil
import time
from pathlib import Path

import torch
from outcome import Outcome, Stage, in_child

from c2fvl.config import Config
from c2fvl.config_files import override
from c2fvl.training.loop import train
from c2fvl.training.resume_state import ResumeState, load_state

SETTINGS = ("train.epochs=6", "train.save_minutes=0.0005", "train.ema=0.9", "train.patience=0")
MAX_STARTS = 400
"""Of one run; more means that it makes no way."""
MAX_SECONDS = 600.0
"""Of a run that nothing kills."""


def kill_runs(stage: Stage, config: Config) -> Outcome:
    """Train one run after the other, each killed at random moments, until the time is over."""
    outcome = Outcome("kills")
    config = override(config, SETTINGS)
    whole = stage.folder / "whole"
    _, error = in_child(lambda: train(config, run=whole).finished, seconds=MAX_SECONDS)
    if error:
        outcome.fail(f"a run that nothing kills: {error}")
        return outcome
    expected = load_state(whole / "last")
    stage = dataclasses.replace(stage, began=time.monotonic())
    for number, draw in stage.rounds():
        run = stage.folder / f"run-{number}"
        try:
            _kill_until_finished(stage, config, run, draw, outcome)
            _compare(expected, load_state(run / "last"))
            if (run / "best" / "model.safetensors").read_bytes() != (whole / "best" / "model.safetensors").read_bytes():
                raise ValueError("the best weights differ from those of the run that nothing killed")
        except (ValueError, OSError) as error:
            outcome.fail(f"{run}: {error}")
        else:
            outcome.tried["runs finished as if nothing had killed them"] += 1
            shutil.rmtree(run)
    return outcome


def _kill_until_finished(stage: Stage, config: Config, run: Path, draw: random.Random, outcome: Outcome) -> None:
    """Start the run again after each kill until it ends; `ValueError` where a kill loses something.

    When the time of the stage is over, the run is left to end.
    """
    steps, longest = 0, 0.5
    for _ in range(MAX_STARTS):
        resumable = (run / "config.toml").is_file()  # from its first file on, even without a state
        seconds = MAX_SECONDS if stage.is_over else draw.uniform(0.0, longest)
        if _finished(config, run, resumable=resumable, seconds=seconds):
            return
        outcome.tried["kills"] += 1
        if not resumable and not (run / "last").is_dir():
            longest *= 1.2  # killed before there was anything to lose
            continue
        if any(entry.name.isdecimal() for entry in (run / "last").iterdir()):
            reached = _steps(load_state(run / "last"))
            if reached < steps:
                raise ValueError(f"{steps} steps were saved, and {reached} are left after a kill")
            longest = longest * 1.2 if reached == steps else longest
            steps = reached
    raise ValueError(f"not finished after {MAX_STARTS} starts")


def _finished(config: Config, run: Path, *, resumable: bool, seconds: float) -> bool:
    """Train in a child that is killed after some seconds; return whether it ended before."""
    child = os.fork()
    if not child:
        status = 3
        try:
            status = 0 if (train(resume=run) if resumable else train(config, run=run)).finished else 4
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise ValueError(f"the run ended with the status {status}")
            return True
        time.sleep(0.002)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def _steps(state: ResumeState) -> int:
    return 1_000_000 * state.progress["epoch"] + state.progress["batches"]


def _compare(expected: ResumeState, found: ResumeState) -> None:
    """Raise `ValueError` where two runs ended differently."""
    assert expected.average is not None and found.average is not None
    pairs = ((expected.weights, found.weights), (expected.average, found.average))
    for name, ours in ((name, (first[name], second[name])) for first, second in pairs for name in first):
        if not torch.equal(*ours):
            raise ValueError(f"{name} differs from that of the run that nothing killed")
    if expected.generators.keys() != found.generators.keys():
        raise ValueError("the random generators differ from those of the run that nothing killed")
