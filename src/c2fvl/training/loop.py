"""Training: one loop, on one process or several, that resumes as if it had not stopped.

A run folder holds `config.toml`, `environment.json`, `log.jsonl` (one line per epoch), `best/` (a model folder) and
`last/` (the two newest resume states). After each epoch first the best model, then the state, then the log is
written: a run killed in between repeats that epoch to the bit and writes the same again.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from c2fvl.checkpoints.provenance import provenance
from c2fvl.checkpoints.trained_model import restore_weights, save_model
from c2fvl.config import Config
from c2fvl.config_files import to_toml
from c2fvl.data.batches import Batch, EpochBatches, collate, iterate_batches, num_batches
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.prefetch import prefetch
from c2fvl.data.scan import Case, fingerprint, scan
from c2fvl.files import storage
from c2fvl.inference.cases import CasePrediction, predict_cases, score_on_grids
from c2fvl.inference.compute import Compute
from c2fvl.inference.precision import autocast, is_emulated, settled_precision
from c2fvl.inference.torch_engine import infer
from c2fvl.metrics.overlap import Overlap, summarise_classes
from c2fvl.models import build_model
from c2fvl.models.registry import num_classes
from c2fvl.models.text_input import settle_text
from c2fvl.training.allocator import keep_freed_memory
from c2fvl.training.callbacks import Observer
from c2fvl.training.initial_weights import start_from
from c2fvl.training.losses import build_loss
from c2fvl.training.optimizers import build_optimizer, frozen_parameters, learning_rate
from c2fvl.training.random_state import generator_states, restore_generators, seed_everything
from c2fvl.training.recompute import recompute_activations
from c2fvl.training.resume_state import ResumeState, load_state, save_state
from c2fvl.training.run_folder import lock_run, resolve_run
from c2fvl.training.signals import StopSignals

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Progress:
    """Where a run stands; all of it is saved and restored."""

    epoch: int = 0
    """Epochs finished."""
    batches: int = 0
    """Batches done in the epoch under way."""
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """Sums of the loss terms over those batches."""
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """One entry per epoch finished: the lines of the log."""
    best_dice: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    """Time of the epoch under way, over all calls."""
    waiting: float = 0.0
    """Seconds of it in which the network waited for films."""


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

    The run folder is `run`, or else out/<preset>/<time>; it must not exist.

    Raises `ValueError` before anything is written for settings, data or states that do not fit, and during training
    for a loss that is not finite, naming the films of the batch.
    """
    config, folder = resolve_run(config, out, run, resume, overrides)
    return _Trainer(config, folder, resumed=resume is not None, observer=observer or Observer()).fit()


class _Trainer:
    """One call of `train`."""

    def __init__(self, config: Config, run: Path, *, resumed: bool, observer: Observer) -> None:
        settings = config.train
        if settings.compile and settings.recompute:
            raise ValueError("train.compile and train.recompute exclude each other; set one of them to false")
        if not config.data.root:
            raise ValueError("data.root is not set; give the folder of the films, as data.root=FOLDER")
        train_cases = scan(config.data.root, config.data.train_split, table=config.data.table or None)
        val_cases = scan(config.data.root, config.data.val_split, table=config.data.table or None)
        _check_disjoint(train_cases, val_cases)
        config = settle_text(config, [case.report for case in train_cases])
        self.config, self.run, self.resumed, self.observer = config, run, resumed, observer
        classes = num_classes(config.model)
        self.train_data = CaseDataset(train_cases, config.data, num_classes=classes, augment=True, seed=settings.seed)
        self.val_data = CaseDataset(val_cases, config.data, num_classes=classes)
        self.fingerprint = fingerprint(train_cases, val_cases)
        if config.data.text != "none" and not self.train_data.num_readable:
            logger.warning("no film to train on has a report that the network could read: it cannot learn to")

        with warnings.catch_warnings():  # what is not installed is an error below
            warnings.filterwarnings("ignore", message=".*no supported trackers")
            self.accelerator = Accelerator(
                cpu=settings.device == "cpu" or not torch.accelerator.is_available(),
                log_with=list(settings.trackers) or None,
                project_dir=str(run),
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
            )
        absent = set(settings.trackers) - {str(getattr(name, "value", name)) for name in self.accelerator.log_with}
        if absent:
            raise ValueError(f"train.trackers names {', '.join(sorted(absent))}, which is not installed here")
        self.device, self.is_main = self.accelerator.device, self.accelerator.is_main_process
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != self.world:
            raise ValueError(
                f"{started} processes were started but Accelerate sees {self.world}, so each would train alone; start "
                "them by torchrun, or on GPUs by accelerate launch --multi_gpu"
            )
        if self.device.type == "cpu":
            keep_freed_memory()
        settings = dataclasses.replace(settings, precision=settled_precision(self.device, settings.precision))
        self.config = dataclasses.replace(self.config, train=settings)
        if is_emulated(self.device, settings.precision):
            logger.warning("this processor has no bf16 and emulates it slowly; train.precision=fp32 is faster here")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts, or cuBLAS refuses
        torch.use_deterministic_algorithms(settings.deterministic)
        torch.backends.cudnn.deterministic = settings.deterministic
        seed_everything(settings.seed)
        network = build_model(config.model.name, config.model.arguments).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.begun_from = None if resumed else start_from(network, config.model.name, config.init)
        self.frozen = frozen_parameters(network, config.optimizer)
        seed_everything(settings.seed * 1000 + self.rank)  # dropout differs between processes
        self.loss = build_loss(config.loss)
        self.progress = Progress()
        self.average: AveragedModel | None = None
        self.network: nn.Module = network
        optimizer = build_optimizer(network, config.optimizer)
        self.model, self.optimizer = self.accelerator.prepare(network, optimizer)
        if settings.ema:
            self.average = AveragedModel(self.network, multi_avg_fn=_rising_average(settings.ema), use_buffers=True).to(
                self.device
            )
        if settings.recompute:
            recompute_activations(self.network)
        if settings.compile:
            self.network.compile()  # in place, so that weights keep their names
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.batches_per_epoch = num_batches(len(train_cases), settings.batch_size, self.world)
        self.started = self.saved_at = time.monotonic()
        self._try_one_film()
        if resumed:
            self._restore()

    def _try_one_film(self) -> None:
        """Run one film through network and loss: what does not fit is met before anything is written."""
        batch = collate([self.train_data[0, 0]])
        assert batch.mask is not None
        self.network.eval()  # so that it leaves no trace in running statistics and generators
        try:
            output = infer(self.network, batch, device=self.device, precision=self.config.train.precision)
        except RuntimeError as error:
            raise ValueError(f"the network cannot take a film as the settings prepare it: {error}") from error
        batch = batch.to(self.device)
        self.loss(output, batch.mask, batch.text, batch.findings)

    def fit(self) -> TrainResult:
        """Train until the epochs are done, nothing improves, time is up or a signal asks to stop."""
        if self.is_main:
            storage.make_folder(self.run)
        with StopSignals() as signals, lock_run(self.run) if self.is_main else contextlib.nullcontext():
            self._begin()
            reason = self._loop(lambda: self._agree(signals.received or self._time_is_up()))
        finished = reason != "stopped"
        if not finished:
            reason = f"stopped by {signals.received}" if signals.received else "the time set by train.max_hours is up"
        if self.config.train.trackers:
            self.accelerator.end_training()
        best = self.progress
        return TrainResult(self.run, best.best_dice, best.best_epoch, finished, reason, signals.received)

    def _begin(self) -> None:
        """Write what a run folder begins with, start the trackers and tell the observer."""
        if self.is_main:
            storage.write_text(self.run / "config.toml", to_toml(self.config))
        if self.is_main and not self.resumed:
            storage.write_json(
                self.run / "environment.json",
                {
                    **provenance(self.device),
                    "num_processes": self.world,
                    "num_train": len(self.train_data),
                    "num_val": len(self.val_data),
                    "num_parameters": sum(parameter.numel() for parameter in self.network.parameters()),
                    "begun_from": self.begun_from,
                },
            )
        if self.config.train.trackers:
            self.accelerator.init_trackers("c2fvl", config=_flat(dataclasses.asdict(self.config)))
        self.observer.start(
            self.run, self.config, len(self.train_data), len(self.val_data), self.progress.epoch, is_main=self.is_main
        )
        if not self.resumed:
            self._save()  # from here on the run can be resumed, whenever it is killed

    def _loop(self, stop: Callable[[], bool]) -> str:
        settings = self.config.train
        while self.progress.epoch < settings.epochs:
            idle = self.progress.epoch - self.progress.best_epoch
            if settings.patience and self.progress.history and idle >= settings.patience:
                return f"no better Dice in {idle} epochs"
            if not self._train_epoch(stop):
                self._save()
                return "stopped"
            self._finish_epoch()
            if self.progress.epoch < settings.epochs and stop():
                return "stopped"  # the state at the epoch's end is saved already
        return f"all {settings.epochs} epochs are done"

    def _train_epoch(self, stop: Callable[[], bool]) -> bool:
        """Train to the epoch's end; return False where a stop was asked for on the way."""
        settings, progress = self.config.train, self.progress
        epoch, total = progress.epoch, self.batches_per_epoch
        batches = EpochBatches(
            len(self.train_data), settings.batch_size, epoch=epoch, seed=settings.seed,
            rank=self.rank, world=self.world, first=progress.batches,
        )  # fmt: skip
        self.model.train()
        began, seconds_before, done_here = time.monotonic(), progress.seconds, 0
        for batch in self._read(batches):
            position = progress.batches
            is_last = position + 1 == total
            in_window = position % settings.accumulation
            window = min(settings.accumulation, total - (position - in_window))
            if in_window == 0:
                self._set_rate(epoch, position)
                self.optimizer.zero_grad()
            steps = is_last or in_window + 1 == settings.accumulation
            with contextlib.nullcontext() if steps else self.accelerator.no_sync(self.model):
                assert batch.mask is not None
                with autocast(self.device, settings.precision):
                    output = self.model(batch.image, batch.text)
                terms = self.loss(output, batch.mask, batch.text, batch.findings)
                self.scaler.scale(terms["loss"] / window).backward()
                values = {name: value.item() for name, value in terms.items()}  # a GPU is waited for here, not before
                if not math.isfinite(values["loss"]):
                    raise ValueError(
                        f"the loss is {values['loss']} in epoch {epoch + 1}, batch {position + 1}, with the films "
                        f"{', '.join(batch.ids)}; the state before this epoch is kept. Look at these films, lower "
                        "optimizer.learning_rate, or set optimizer.clip_norm=1"
                    )
            if steps:
                self._step()
            progress.batches += 1
            done_here += len(batch.ids) * self.world
            for name, value in values.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            elapsed = time.monotonic() - began
            progress.seconds = seconds_before + elapsed
            self.observer.step(epoch + 1, progress.batches, total, values["loss"], done_here / max(elapsed, 1e-9))
            if steps and not is_last:  # only between steps is there a state to save
                if stop():
                    return False
                minutes = settings.save_minutes
                if minutes and self._agree(time.monotonic() - self.saved_at > 60 * minutes):
                    self._save()
        return True

    def _read(self, batches: EpochBatches) -> Iterator[Batch]:
        """Yield the batches on the device, and note how long they were waited for."""
        on_gpu = self.device.type == "cuda"
        found = iterate_batches(self.train_data, batches, workers=self.config.data.workers, pin_memory=on_gpu)
        while True:
            began = time.monotonic()
            batch = next(found, None)
            if batch is None:
                return
            self.progress.waiting += time.monotonic() - began
            yield batch.to(self.device)

    def _set_rate(self, epoch: int, position: int) -> None:
        step = epoch * self.batches_per_epoch + position
        rate = learning_rate(self.config.optimizer, step, self.batches_per_epoch, self.config.train.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _step(self) -> None:
        if self.progress.epoch < self.config.optimizer.frozen_epochs:
            for parameter in self.frozen:
                parameter.grad = None  # what has no gradient is neither stepped nor decayed
        clip = self.config.optimizer.clip_norm
        if clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)

    def _finish_epoch(self) -> None:
        """Validate, keep the best, save the state, write the log."""
        progress, settings = self.progress, self.config.train
        began = time.monotonic()
        scores = self._validate()
        means = _mean_over_processes(progress.sums, progress.batches)
        rate = self.optimizer.param_groups[0]["lr"]
        number = progress.epoch + 1
        line = {
            "epoch": number,
            "learning_rate": rate,
            **{f"train_{name}": value for name, value in means.items()},
            **{f"val_{name}": value for name, value in scores.items()},
            "train_seconds": round(progress.seconds, 3),
            "val_seconds": round(time.monotonic() - began, 3),
            "images_per_second": round(len(self.train_data) / max(progress.seconds, 1e-9), 3),
            "waiting_fraction": round(progress.waiting / max(progress.seconds, 1e-9), 4),
        }
        dice = scores["dice_per_image"]
        is_best = number >= settings.best_from_epoch and (progress.best_dice is None or dice > progress.best_dice)
        if is_best:
            progress.best_dice, progress.best_epoch = dice, number
            if self.is_main:
                metrics = {"epoch": number, **{f"val_{name}": value for name, value in scores.items()}}
                save_model(self.run / "best", self._network_to_score(), self.config, metrics)
        progress.epoch, progress.batches, progress.sums = number, 0, {}
        progress.seconds = progress.waiting = 0.0
        progress.history.append(line)
        self._save()
        if self.is_main:
            self._write_log()
        if settings.trackers:
            self.accelerator.log({key: value for key, value in line.items() if key != "epoch"}, step=number)
        self.observer.epoch(line, is_best)

    def _network_to_score(self) -> nn.Module:
        return self.network if self.average is None else self.average.module

    def _validate(self) -> dict[str, float | int]:
        """Score the validation films; every process returns the figures of all of them.

        The mask is the one that the loader of the preset makes, so that a paper preset chooses its best as published.
        """
        settings = self.config.train
        self._agree_on_averages()
        grid = "published" if self.config.data.resize == "published" else "network"

        def score(prediction: CasePrediction) -> tuple[int, float | None, tuple[Overlap, ...]]:
            classes = score_on_grids(prediction, grids=(grid,)).classes
            return prediction.index, prediction.loss, tuple(of_class[grid] for of_class in classes)

        found = predict_cases(
            self._network_to_score(), self.val_data,
            Compute(str(self.device), settings.batch_size, self.config.data.workers, settings.precision),
            loss=self.loss, rank=self.rank, world=self.world,
        )  # fmt: skip
        mine = list(prefetch(score, found, maximum=2 * settings.batch_size))
        everything = sorted(gather_object(mine) if self.world > 1 else mine, key=lambda entry: entry[0])
        losses = [loss for _, loss, _ in everything]
        broken = [self.val_data.cases[index].id for index, loss, _ in everything if not math.isfinite(loss)]
        if broken:
            raise ValueError(
                f"the validation loss of {len(broken)} films is not finite, the first is {broken[0]}; the state before "
                "this epoch is kept. Lower optimizer.learning_rate, or set optimizer.clip_norm=1"
            )
        scores = summarise_classes([counts for _, _, counts in everything])
        for number, of_class in enumerate(scores.pop("classes", ()), start=1):
            scores |= {f"{name}_class_{number}": of_class[name] for name in ("dice_per_image", "iou_per_image")}
        return {"loss": math.fsum(losses) / len(losses), **scores}

    def _agree_on_averages(self) -> None:
        """Give every process the running statistics and the averaged weights of the first, which are what is saved.

        Each process sees batches of its own, so that its batch norms, which no gradient keeps together, drift apart.
        """
        if self.world == 1:
            return
        averaged = [] if self.average is None else list(self.average.state_dict().values())
        for tensor in [*self.network.buffers(), *averaged]:
            torch.distributed.broadcast(tensor, 0)

    def _save(self) -> None:
        """Save the state; every process hands in its random generators."""
        states = generator_states(self.device)
        gathered = gather_object([states]) if self.world > 1 else [states]
        if self.is_main:
            progress = dataclasses.asdict(self.progress)
            progress |= {"scaler": self.scaler.state_dict(), "num_processes": self.world, "data": self.fingerprint}
            save_state(
                self.run / "last",
                ResumeState(
                    weights=self.network.state_dict(),
                    optimizer=self.optimizer.state_dict(),
                    progress=progress,
                    generators={
                        f"{rank}.{name}": value for rank, own in enumerate(gathered) for name, value in own.items()
                    },
                    average=None if self.average is None else self.average.state_dict(),
                ),
            )
        self.saved_at = time.monotonic()
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        state = load_state(self.run / "last")
        progress = dict(state.progress)
        world, scaler, fingerprint = (progress.pop(name) for name in ("num_processes", "scaler", "data"))
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"the films or reports in {self.config.data.root} are not those that {self.run} was trained on; "
                "restore them, or start another run"
            )
        if world != self.world:
            raise ValueError(
                f"{self.run} was trained by {world} processes and would go on with {self.world}, which changes its "
                f"batches; resume it with {world}"
            )
        restore_weights(self.network, state.weights, where=str(self.run / "last"))
        self.optimizer.load_state_dict(state.optimizer)
        if (self.average is None) != (state.average is None):
            raise ValueError(f"{self.run / 'last'} does not fit train.ema={self.config.train.ema}")
        if self.average is not None and state.average is not None:
            restore_weights(self.average, state.average, where=str(self.run / "last"))
        if scaler:
            self.scaler.load_state_dict(scaler)
        self.progress = Progress(**progress)
        if self.is_main:
            self._write_log()
        restore_generators(
            {
                name.partition(".")[2]: value
                for name, value in state.generators.items()
                if name.startswith(f"{self.rank}.")
            },
            self.device,
        )

    def _write_log(self) -> None:
        lines = "".join(json.dumps(line, allow_nan=False) + "\n" for line in self.progress.history)
        storage.write_text(self.run / "log.jsonl", lines)

    def _time_is_up(self) -> bool:
        hours = self.config.train.max_hours
        return bool(hours) and time.monotonic() - self.started > 3600 * hours

    def _agree(self, wish: object) -> bool:
        """Return whether any process wishes it, so that all act alike."""
        if self.world == 1:
            return bool(wish)
        flag = torch.tensor([float(bool(wish))], device=self.device)
        return bool(self.accelerator.reduce(flag).item())


def _rising_average(decay: float) -> Callable[..., None]:
    """Return a step of a moving average whose decay rises to `decay`, so that the random beginning is soon forgotten.

    After n steps it is (1 + n) / (10 + n) where that is smaller.
    """

    def step(averaged: tuple[Tensor, ...], current: tuple[Tensor, ...], count: Tensor) -> None:
        steps = float(count)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, count)

    return step


def end_processes() -> None:
    """Part from the other processes in good order; call it last. Alone, it does nothing."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _check_disjoint(train_cases: list[Case], val_cases: list[Case]) -> None:
    shared = sorted({case.image.resolve() for case in train_cases} & {case.image.resolve() for case in val_cases})
    if shared:
        logger.warning("%d films are in both parts, so validation is no test: %s, …", len(shared), shared[0])
    groups = {case.group for case in train_cases if case.group} & {case.group for case in val_cases if case.group}
    if groups and not shared:
        logger.warning("%d patients or studies are in both parts, for example %s", len(groups), min(groups))


def _mean_over_processes(sums: dict[str, float], count: int) -> dict[str, float]:
    everything = gather_object([(sums, count)])
    total = sum(own_count for _, own_count in everything)
    return {name: math.fsum(own[name] for own, _ in everything) / total for name in sums}


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
