"""Training: set up, fit, validate, save; on one process or several; a resumed run equals one that never stopped.

A run folder holds `config.toml`, `environment.json`, `log.jsonl` (one line for each epoch), `best/` (a model folder)
and `last/` (the two newest resume states). After each epoch first the best model, then the state, then the log is
written: a run killed in between repeats that epoch to the bit and writes the same again.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from c2fvl.checkpoints.provenance import provenance
from c2fvl.checkpoints.trained_model import save_model
from c2fvl.config import Config
from c2fvl.config_files import to_toml
from c2fvl.extensions import import_extension, is_extension
from c2fvl.files import storage
from c2fvl.training.callbacks import Observer
from c2fvl.training.device_steps import DeviceSteps
from c2fvl.training.optimizers import learning_rate, rate_at, set_learning_rate
from c2fvl.training.processes import any_process, mean_over_processes
from c2fvl.training.run_folder import check_not_begun, is_begun, lock_run, resolve_run
from c2fvl.training.saving import restore_run, save_run, write_log
from c2fvl.training.setup import Run, set_up
from c2fvl.training.signals import StopSignals
from c2fvl.training.steps import Steps, StreamedSteps
from c2fvl.training.validate import score_of_best, start_budget, update_budget, validate

logger = logging.getLogger(__name__)

STOPPED = "stopped"


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    run: Path
    best_dice: float | None
    best_epoch: int
    finished: bool
    """False where it was stopped from outside and saved; it can then be resumed."""
    reason: str
    signal: str | None = None
    """Name of the signal that stopped it."""


def train(
    config: Config | None = None,
    *,
    out: Path | str = "runs",
    run: Path | str | None = None,
    resume: Path | str | None = None,
    overrides: tuple[str, ...] = (),
    observer: Observer | None = None,
) -> TrainResult:
    """Train by `config`, or go on with the run folder `resume`; return how it ended.

    The run folder is `run`, or else out/<preset>/<time>; it must not exist. A run that ended before its first state was
    saved has lost nothing: its folder counts as new, and resuming it begins it again.

    Raises `ValueError` before anything is written for settings, data or states that do not fit, and during training
    for a loss that is not finite, naming the images of the batch.
    """
    config, folder = resolve_run(config, out, run, resume, overrides)
    if resume is None:  # settings of a new run are the user's own, so that code they name may be imported
        for name in filter(is_extension, (config.model.name, config.loss.custom)):
            import_extension(name)
    resumed = resume is not None and is_begun(folder)
    if folder.is_dir() and not is_begun(folder):
        logger.warning("%s: the run ended before its first state was saved, so it begins again", folder)
    prepared = set_up(config, folder, resumed=resumed)
    if resumed:
        restore_run(prepared)
    start_budget(prepared)
    return fit(prepared, observer or Observer())


def fit(run: Run, observer: Observer) -> TrainResult:
    """Train until the epochs or the minutes are done, nothing improves, or a signal asks to stop."""
    began, hours = time.monotonic(), run.config.train.max_hours
    if run.is_main:
        storage.make_folder(run.folder)
    with StopSignals() as signals, lock_run(run.folder) if run.is_main else contextlib.nullcontext():

        def stop() -> bool:
            time_is_up = bool(hours) and time.monotonic() - began > 3600 * hours
            return any_process(run.accelerator, signals.received or time_is_up)

        if run.is_main and not run.resumed:
            check_not_begun(run.folder)  # another process may have trained in it since it was looked at
        _begin(run, observer)
        reason = _fit_epochs(run, observer, stop)
    finished = reason != STOPPED
    if not finished:
        reason = f"stopped by {signals.received}" if signals.received else "the time set by train.max_hours is up"
    if run.config.train.trackers:
        run.accelerator.end_training()
    best = run.progress
    return TrainResult(run.folder, best.best_dice, best.best_epoch, finished, reason, signals.received)


def _begin(run: Run, observer: Observer) -> None:
    """Write the first files of a run folder, start the trackers and call the observer."""
    config, num_train, num_val = run.config, len(run.train_data), len(run.val_data)
    if run.is_main:
        storage.write_text(run.folder / "config.toml", to_toml(config))
    if run.is_main and not run.resumed:
        environment = {
            **provenance(run.device),
            "num_processes": run.world,
            "num_train": num_train,
            "num_val": num_val,
            "num_parameters": sum(parameter.numel() for parameter in run.network.parameters()),
            "begun_from": run.started_from,
        }
        storage.write_json(run.folder / "environment.json", environment)
    observer.start(run.folder, config, num_train, num_val, run.progress.epoch, is_main=run.is_main)
    if not run.resumed:
        save_run(run)  # from here on the run can be resumed, whenever it is killed
        run.budget.kept += 4 * run.save_seconds  # the optimizer's state is still to come
    if config.train.trackers:
        run.accelerator.init_trackers("c2fvl", config=_flat(dataclasses.asdict(config)))


def _fit_epochs(run: Run, observer: Observer, stop: Callable[[], bool]) -> str:
    """Train epoch after epoch; return why it ended, `STOPPED` where that was asked for."""
    steps: Steps = StreamedSteps(run) if run.device_train is None else DeviceSteps(run, run.device_train)
    update_budget(run)
    while True:
        if reason := _reason_to_end(run):
            return reason
        if not _train_epoch(run, steps, observer, stop):
            save_run(run)
            return STOPPED
        _finish_epoch(run, observer)
        if not _reason_to_end(run) and stop():
            return STOPPED  # the state at the epoch's end is saved already


def _reason_to_end(run: Run) -> str:
    """Return why no further epoch begins, or nothing."""
    settings, progress = run.config.train, run.progress
    if run.budget.is_set:
        is_between_epochs = progress.batches == 0
        return f"the {settings.minutes:g} minutes are used" if run.budget.is_used and is_between_epochs else ""
    if progress.epoch >= settings.epochs:
        return f"all {settings.epochs} epochs are done"
    idle = progress.epoch - progress.best_epoch
    if settings.patience and progress.history and idle >= settings.patience:
        return f"no better Dice in {idle} epochs"
    return ""


def _train_epoch(run: Run, steps: Steps, observer: Observer, stop: Callable[[], bool]) -> bool:
    """Train to the end of the epoch or of the time; return False where a stop was asked for on the way."""
    settings, progress, total = run.config.train, run.progress, run.batches_per_epoch
    per_reading = batches_per_reading(run)
    last_reading = time.monotonic()
    run.model.train()
    steps.start_epoch()
    while progress.batches < total and not run.budget.is_used:
        _set_learning_rate(run)
        num_batches = min(settings.accumulation, total - progress.batches)
        steps.step(num_batches)
        progress.batches += num_batches
        is_last = progress.batches == total
        if len(steps.losses) < per_reading and not is_last:
            continue  # a GPU computes meanwhile
        terms = steps.losses.read(progress.epoch + 1, progress.batches)
        now = time.monotonic()
        run.budget.window = now - last_reading
        progress.seconds += run.budget.window
        _take_in(run, terms, run.budget.window, observer)
        last_reading = now
        update_budget(run)
        if not is_last and not run.budget.is_used:
            if stop():
                return False
            minutes = settings.save_minutes
            if minutes and any_process(run.accelerator, time.monotonic() - run.saved_at > 60 * minutes):
                save_run(run)
    return True


def batches_per_reading(run: Run) -> int:
    """Return after how many batches losses are read: a GPU is waited for by that, a CPU is not."""
    return 1 if run.device.type == "cpu" else 20


def _take_in(run: Run, batches: list[dict[str, float]], seconds: float, observer: Observer) -> None:
    """Add the losses of the batches that were just read to the sums of the epoch, and call the observer."""
    progress = run.progress
    speed = len(batches) * run.config.train.batch_size * run.world / max(seconds, 1e-9)
    for number, terms in enumerate(batches, start=progress.batches - len(batches) + 1):
        for name, value in terms.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        observer.step(progress.epoch + 1, number, run.batches_per_epoch, terms["loss"], speed)


def _set_learning_rate(run: Run) -> None:
    config, per_epoch, progress = run.config, run.batches_per_epoch, run.progress
    if run.budget.is_set:
        rate = rate_at(config.optimizer, run.budget.fraction, progress.epoch)
    else:
        step = progress.epoch * per_epoch + progress.batches
        rate = learning_rate(config.optimizer, step, per_epoch, config.train.epochs)
    set_learning_rate(run.optimizer, rate)


def _finish_epoch(run: Run, observer: Observer) -> None:
    """Validate, keep the best model, save the state, write the log."""
    progress, settings, number = run.progress, run.config.train, run.progress.epoch + 1
    is_last = run.budget.is_used or (not run.budget.is_set and number == settings.epochs)
    if run.budget.is_used:
        progress.ended_minutes = settings.minutes
        save_run(run)  # the weights are safe before the last validation
    began = time.monotonic()
    scores: dict[str, Any] = {}
    if is_last or number % settings.validate_every == 0:
        scores = {f"val_{name}": value for name, value in validate(run).items()}
    means = mean_over_processes(run.accelerator, progress.sums, progress.batches)
    num_images = len(run.train_data) * progress.batches / run.batches_per_epoch
    line: dict[str, Any] = {
        "epoch": number,
        "learning_rate": float(run.optimizer.param_groups[0]["lr"]),
        **{f"train_{name}": value for name, value in means.items()},
        **scores,
        "train_seconds": round(progress.seconds, 3),
        "val_seconds": round(time.monotonic() - began, 3),
        "images_per_second": round(num_images / max(progress.seconds, 1e-9), 3),
    }
    if run.device_train is None:
        line["waiting_fraction"] = round(progress.waiting / max(progress.seconds, 1e-9), 4)
    if run.budget.is_used and number == 1 and progress.batches < run.batches_per_epoch:
        logger.warning(
            "train.minutes=%g ended in the first epoch, after %d of %d batches; a full epoch needs more minutes",
            settings.minutes, progress.batches, run.batches_per_epoch,
        )  # fmt: skip
    is_best = bool(scores) and _keep_if_best(run, number, scores)
    progress.epoch, progress.batches, progress.sums = number, 0, {}
    progress.seconds = progress.waiting = 0.0
    progress.history.append(line)
    save_run(run)
    if run.is_main:
        write_log(run)
    if settings.trackers:
        run.accelerator.log({key: value for key, value in line.items() if key != "epoch"}, step=number)
    observer.epoch(line, is_best)
    if scores:
        run.budget.keep(time.monotonic() - began + run.save_seconds)
    update_budget(run)


def _keep_if_best(run: Run, number: int, scores: dict[str, Any]) -> bool:
    """Write the model folder `best/` where the epoch is the best so far; tell whether it is."""
    progress, dice = run.progress, score_of_best(run, scores)
    is_worse = progress.best_dice is not None and dice <= progress.best_dice and run.config.train.best != "last"
    if number < run.config.train.best_from_epoch or is_worse:
        return False
    progress.best_dice, progress.best_epoch = dice, number
    if run.is_main:
        save_model(run.folder / "best", run.network_to_score, run.config, {"epoch": number, **scores})
    return True


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one table of plain values, which every tracker takes."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
