"""Save and restore a run: its resume state and its log."""

import dataclasses
import json
import logging
import time

import torch

from c2fvl.checkpoints.trained_model import restore_weights
from c2fvl.files import storage
from c2fvl.training.optimizers import optimizer_state, restore_optimizer
from c2fvl.training.processes import gather
from c2fvl.training.random_state import generator_states, restore_generators
from c2fvl.training.resume_state import ResumeState, load_state, save_state
from c2fvl.training.setup import Progress, Run

logger = logging.getLogger(__name__)


def save_run(run: Run) -> None:
    """Write the resume state of a run; every process hands in its random generators."""
    began = time.monotonic()
    generators = gather(run.accelerator, [generator_states(run.device)])
    run.progress.used_seconds, run.progress.first_step = run.budget.used(), run.budget.first_step
    if run.is_main:
        progress = dataclasses.asdict(run.progress)
        progress |= {"scaler": run.scaler.state_dict(), "num_processes": run.world, "data": run.data_fingerprint}
        progress["threads"] = torch.get_num_threads()
        progress["teachers"] = [] if run.teachers is None else run.teachers.checksums
        state = ResumeState(
            weights=run.network.state_dict(),
            optimizer=optimizer_state(run.optimizer),
            progress=progress,
            generators={f"{rank}.{name}": value for rank, own in enumerate(generators) for name, value in own.items()},
            average=None if run.ema is None else run.ema.state_dict(),
        )
        save_state(run.folder / "last", state)
    run.accelerator.wait_for_everyone()
    run.saved_at = time.monotonic()
    run.save_seconds = run.saved_at - began


def restore_run(run: Run) -> None:
    """Put a run back to its newest resume state.

    Raises `ValueError` where the data, the number of processes or the settings are not those of the saved run.
    """
    folder = run.folder / "last"
    state = load_state(folder)
    progress = dict(state.progress)
    world, scaler, fingerprint = (progress.pop(name) for name in ("num_processes", "scaler", "data"))
    threads, teachers = progress.pop("threads", None), progress.pop("teachers", [])
    if fingerprint != run.data_fingerprint:
        raise ValueError(
            f"the images or reports in {run.config.data.root} are not those that {run.folder} was trained on; restore "
            "them, or start another run"
        )
    if teachers != ([] if run.teachers is None else run.teachers.checksums):
        raise ValueError(
            f"the weights of {', '.join(run.config.train.teachers)} are not those that {run.folder} was trained with; "
            "restore these teachers, or start another run"
        )
    if world != run.world:
        raise ValueError(
            f"{run.folder} was trained by {world} processes, and {run.world} would make other batches; resume it with "
            f"{world}"
        )
    if threads not in (None, torch.get_num_threads()) and run.device.type == "cpu":
        logger.warning(
            "%s was trained with %d threads and goes on with %d, which add in another order, so the weights will not "
            "be exactly those of an uninterrupted run; for the same ones resume with train.threads=%d",
            run.folder, threads, torch.get_num_threads(), threads,
        )  # fmt: skip
    if (run.ema is None) != (state.average is None):
        raise ValueError(f"{folder} does not fit train.ema={run.config.train.ema}")
    restore_weights(run.network, state.weights, where=str(folder))
    restore_optimizer(run.optimizer, state.optimizer)
    if run.ema is not None and state.average is not None:
        restore_weights(run.ema, state.average, where=str(folder))
    if scaler:
        run.scaler.load_state_dict(scaler)
    run.progress = Progress(**progress)
    run.budget.used_before, run.budget.first_step = run.progress.used_seconds, run.progress.first_step
    run.budget.has_ended = run.budget.is_set and run.progress.ended_minutes == run.config.train.minutes
    if run.is_main:
        write_log(run)
    prefix = f"{run.rank}."
    own = {name.removeprefix(prefix): value for name, value in state.generators.items() if name.startswith(prefix)}
    restore_generators(own, run.device)


def write_log(run: Run) -> None:
    """Write `log.jsonl`, one line for each finished epoch."""
    lines = "".join(json.dumps(line, allow_nan=False) + "\n" for line in run.progress.history)
    storage.write_text(run.folder / "log.jsonl", lines)
