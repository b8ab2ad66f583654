"""From settings to everything that a run needs; nothing is written yet."""

import dataclasses
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from c2fvl.config import Config
from c2fvl.data.batches import collate, num_batches
from c2fvl.data.cases import Case
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.folds import read_folds, split_by_fold
from c2fvl.data.on_device import DeviceData, bytes_needed
from c2fvl.data.scan import fingerprint, scan
from c2fvl.inference.precision import is_emulated, settled_precision
from c2fvl.inference.torch_engine import infer
from c2fvl.models import build_model
from c2fvl.models.output import Loss
from c2fvl.models.registry import num_classes
from c2fvl.models.text_input import settle_text
from c2fvl.training.allocator import keep_freed_memory
from c2fvl.training.ema import EmaWeights
from c2fvl.training.initial_weights import start_from
from c2fvl.training.losses import build_loss
from c2fvl.training.optimizers import build_optimizer, frozen_parameters
from c2fvl.training.processes import start_accelerator
from c2fvl.training.random_state import seed_everything
from c2fvl.training.recompute import recompute_activations
from c2fvl.training.teachers import Teachers, load_teachers
from c2fvl.training.time_budget import TimeBudget

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a run stands; all of it is saved and restored."""

    epoch: int = 0
    """Finished epochs."""
    batches: int = 0
    """Finished batches of the current epoch."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the loss terms over those batches."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each finished epoch: the lines of the log."""
    best_dice: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    """Time of the current epoch, over all calls."""
    waiting: float = 0.0
    """Seconds of it in which the network waited for images."""
    used_seconds: float = 0.0
    """Of `train.minutes`, over all calls."""
    first_step: float | None = None
    """Of these, the seconds used when training began."""
    ended_minutes: float = 0.0
    """`train.minutes` of the call that used all of its time; 0 until then."""


@dataclass
class Run:
    """One run in one process: its settings, data, network and position."""

    config: Config
    """Settled: kind of text, vocabulary, precision."""
    folder: Path
    resumed: bool
    train_data: CaseDataset
    val_data: CaseDataset
    data_fingerprint: str
    """Checksum of the names and reports of all cases."""
    accelerator: Accelerator
    network: nn.Module
    """The network itself, whose weights keep their names."""
    model: nn.Module
    """The network as it is trained: the same one, or wrapped so that processes share gradients."""
    optimizer: torch.optim.Optimizer
    loss: Loss
    scaler: torch.amp.GradScaler
    ema: EmaWeights | None
    frozen: list[nn.Parameter]
    """Parameters that wait for `optimizer.frozen_epochs`."""
    started_from: dict[str, str] | None
    """Setting and checksum of the weights that the network started from; None for random ones."""
    budget: TimeBudget
    teachers: Teachers | None = None
    """Trained networks whose predictions are part of the target."""
    device_train: DeviceData | None = None
    """The training data on the device, where they are kept there."""
    device_val: DeviceData | None = None
    progress: Progress = field(default_factory=Progress)
    save_seconds: float = 0.0
    """How long the last saving took."""
    saved_at: float = 0.0
    """When the state was last saved, by `time.monotonic()`."""

    @property
    def device(self) -> torch.device:
        """Return where this process trains."""
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes the run folder."""
        return self.accelerator.is_main_process

    @property
    def rank(self) -> int:
        """Return the index of this process."""
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        """Return the number of processes."""
        return self.accelerator.num_processes

    @property
    def batches_per_epoch(self) -> int:
        """Return how many batches this process trains on in an epoch."""
        settings, length = self.config.train, len(self.train_data)
        if self.device_train is None:
            return num_batches(length, settings.batch_size, self.world)
        per_step = settings.batch_size * settings.accumulation * self.world
        return math.ceil(length / per_step) * settings.accumulation

    @property
    def network_to_score(self) -> nn.Module:
        """Return the network that is validated and saved as the model."""
        return self.network if self.ema is None else self.ema.module


def set_up(config: Config, folder: Path, *, resumed: bool = False) -> Run:
    """Return a run at its beginning; a resumed one still has to be restored.

    Raises `ValueError` for settings or data that do not fit. Nothing is written, and the generators of random numbers
    are seeded last, so that they are in the same state before every run's first step.
    """
    budget, settings = TimeBudget(config.train.minutes), config.train
    if settings.compile and settings.recompute:
        raise ValueError("train.compile and train.recompute exclude each other; set one of them to false")
    config, train_data, val_data = _read_data(config)
    accelerator = start_accelerator(settings, folder)
    config = _prepare_device(config, accelerator.device)
    seed_everything(settings.seed)
    network = build_model(config.model.name, config.model.arguments).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    started_from = None if resumed else start_from(network, config.model.name, config.init)
    frozen = frozen_parameters(network, config.optimizer)
    seed_everything(settings.seed * 1000 + accelerator.process_index)  # dropout differs between processes
    fused = accelerator.device.type == "cuda" and config.train.precision != "fp16"
    model, optimizer = accelerator.prepare(network, build_optimizer(network, config.optimizer, fused=fused))
    run = Run(
        config=config,
        folder=folder,
        resumed=resumed,
        train_data=train_data,
        val_data=val_data,
        data_fingerprint=fingerprint(train_data.cases, val_data.cases),
        accelerator=accelerator,
        network=network,
        model=model,
        optimizer=optimizer,
        loss=build_loss(config.loss),
        scaler=torch.amp.GradScaler(accelerator.device.type, enabled=config.train.precision == "fp16"),
        ema=EmaWeights(network, settings.ema) if settings.ema else None,
        frozen=frozen,
        started_from=started_from,
        budget=budget,
        teachers=load_teachers(config, accelerator.device),
    )
    if settings.recompute:
        recompute_activations(network)
    if settings.compile:
        network.compile()  # in place, so that weights keep their names
    _try_one_case(run)
    _put_data_on_device(run)
    return run


def _read_data(config: Config) -> tuple[Config, CaseDataset, CaseDataset]:
    """Return the settings with their text settled, and the data to train and to validate on."""
    data = config.data
    if not data.root:
        raise ValueError("data.root is not set; give the folder of the images, as data.root=FOLDER")
    if data.fold and not data.folds:
        raise ValueError(f"data.fold={data.fold} needs data.folds, a csv that `c2fvl crossval` writes")
    train_cases = scan(data.root, data.train_split, table=data.table or None)
    if data.fold:
        train_cases, val_cases = split_by_fold(train_cases, read_folds(data.folds), data.fold)
    else:
        val_cases = scan(data.root, data.val_split, table=data.table or None)
    _warn_of_shared_cases(train_cases, val_cases)
    config = settle_text(config, [case.report for case in train_cases])
    classes = num_classes(config.model)
    train_data = CaseDataset(train_cases, config.data, num_classes=classes, augment=True, seed=config.train.seed)
    val_data = CaseDataset(val_cases, config.data, num_classes=classes)
    for split, images in ((data.train_split, train_data), (data.val_split, val_data)):
        images.warn_of_unread_reports(f"{data.root} ({split})")
    if config.data.text != "none" and not train_data.num_readable:
        logger.warning("no training case has a report that the network can read, so it cannot learn to use reports")
    return config, train_data, val_data


def _warn_of_shared_cases(train_cases: list[Case], val_cases: list[Case]) -> None:
    shared = sorted({case.image.resolve() for case in train_cases} & {case.image.resolve() for case in val_cases})
    if shared:
        logger.warning("%d images are in both splits, so validation is no test: %s, …", len(shared), shared[0])
    groups = {case.group for case in train_cases if case.group} & {case.group for case in val_cases if case.group}
    if groups and not shared:
        logger.warning("%d patients or studies are in both splits, for example %s", len(groups), min(groups))


def _prepare_device(config: Config, device: torch.device) -> Config:
    """Set what torch does on the whole machine; return the settings with the precision settled."""
    settings = config.train
    if device.type == "cpu":
        keep_freed_memory()
    precision = settled_precision(device, settings.precision)
    if is_emulated(device, precision):
        logger.warning("this processor has no bf16 and emulates it slowly; train.precision=fp32 is faster here")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts, or cuBLAS refuses
    torch.use_deterministic_algorithms(settings.deterministic)
    torch.backends.cudnn.deterministic = settings.deterministic
    if device.type == "cuda" and not settings.deterministic:
        torch.set_float32_matmul_precision("high")  # TF32, as convolutions have it by default
    return dataclasses.replace(config, train=dataclasses.replace(settings, precision=precision))


def _try_one_case(run: Run) -> None:
    """Run one case through network and loss, so that what does not fit is found before anything is written."""
    batch = collate([run.train_data[0, 0]])
    assert batch.mask is not None
    run.network.eval()  # so that it leaves no trace in running statistics and generators
    try:
        output = infer(run.network, batch, device=run.device, precision=run.config.train.precision)
    except RuntimeError as error:
        raise ValueError(f"the network cannot take an image as the settings prepare it: {error}") from error
    batch = batch.to(run.device)
    run.loss(output, batch.mask, batch.text, batch.findings)


def _put_data_on_device(run: Run) -> None:
    """Keep images, masks and reports in the memory of the device, where the settings and the memory allow it."""
    wanted = run.config.data.on_device
    is_kept = wanted == "yes" or (wanted == "auto" and run.device.type == "cuda")
    if is_kept and run.device.type == "cuda":
        needed = bytes_needed(run.train_data) + bytes_needed(run.val_data)
        is_kept = _fits(run, needed, torch.cuda.mem_get_info(run.device)[0] // 3)
    run.config = dataclasses.replace(
        run.config, data=dataclasses.replace(run.config.data, on_device="yes" if is_kept else "no")
    )
    if is_kept:
        run.device_train, run.device_val = DeviceData(run.train_data, run.device), DeviceData(run.val_data, run.device)


def _fits(run: Run, needed: int, limit: int) -> bool:
    """Tell whether the data fit; raise `ValueError` where the settings say that they must."""
    if needed <= limit:
        return True
    count = len(run.train_data) + len(run.val_data)
    found = (
        f"{count} images of {run.config.data.image_size}² need {needed / 2**30:.1f} GiB on the device, and a third of "
        f"its free memory is {limit / 2**30:.1f} GiB, which holds {count * limit // needed} images"
    )
    if run.config.data.on_device == "yes":
        raise ValueError(f"data.on_device=yes: {found}. Set data.on_device=no or lower data.image_size")
    logger.warning("images are read during training, not kept on the device: %s", found)
    return False
