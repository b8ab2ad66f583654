"""Validation: the network on the validation cases, at the network's resolution."""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from c2fvl.data.batches import collate, without_reports
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.on_device import DeviceData
from c2fvl.data.perturbations import perturb_reports
from c2fvl.data.prefetch import prefetch
from c2fvl.inference.cases import NETWORK, PUBLISHED, CasePrediction, predict_cases, score_prediction
from c2fvl.inference.compute import Compute
from c2fvl.inference.masks import THRESHOLD
from c2fvl.inference.torch_engine import infer, probabilities
from c2fvl.metrics.overlap import Overlap, summarise_classes
from c2fvl.training.processes import gather, of_main_process
from c2fvl.training.setup import Run

Score = tuple[int, float | None, tuple[Overlap, ...]]
"""Index of a case, its loss, and its overlap for each class but the background."""

_DEVICE_BATCH = 32

logger = logging.getLogger(__name__)


def validate(run: Run) -> dict[str, float | int]:
    """Return the scores of the validation cases; every process returns those of all cases.

    `dice_per_image_none` is there where `train.best` asks for it. The mask is the one that the preset's loader makes,
    so that a paper preset chooses its best model as published. Raises `ValueError` for a loss that is not finite.
    """
    share_statistics(run)
    found = _scores(run, with_reports=True)
    losses = [loss for _, loss, _ in found if loss is not None]
    broken = [run.val_data.cases[index].id for index, loss, _ in found if loss is not None and not math.isfinite(loss)]
    if broken:
        raise ValueError(
            f"the validation loss of {len(broken)} images is not finite, the first is {broken[0]}; the state before "
            "this epoch is kept. Lower optimizer.learning_rate, or set optimizer.clip_norm=1"
        )
    scores = summarise_classes([counts for _, _, counts in found])
    for number, of_class in enumerate(scores.pop("classes", ()), start=1):
        scores |= {f"{name}_class_{number}": of_class[name] for name in ("dice_per_image", "iou_per_image")}
    if _needs_none(run):
        without = summarise_classes([counts for _, _, counts in _scores(run, with_reports=False)])
        scores["dice_per_image_none"] = without["dice_per_image"]
    return {"loss": math.fsum(losses) / len(losses), **scores}


def score_of_best(run: Run, scores: dict[str, Any]) -> float:
    """Return the Dice per image by which `train.best` chooses the best model; of the last one, the mean of both."""
    right = float(scores["val_dice_per_image"])
    none = float(scores.get("val_dice_per_image_none", right))
    return {"right": right, "none": none, "mean": (right + none) / 2}.get(run.config.train.best, (right + none) / 2)


def start_budget(run: Run) -> None:
    """Keep time for the last validation by measuring one batch of it.

    Raises `ValueError` where `train.minutes` leaves no time to train.
    """
    budget, minutes, schedule = run.budget, run.config.train.minutes, run.config.optimizer.schedule
    if not budget.is_set:
        return
    if schedule not in ("one_cycle", "poly"):
        logger.warning(
            "optimizer.schedule=%s does not follow train.minutes, so the run may end at a high learning rate; set "
            "optimizer.schedule=one_cycle",
            schedule,
        )
    budget.keep(_seconds_of_validation(run))
    if not run.resumed and budget.used() + budget.kept >= budget.seconds:
        raise ValueError(
            f"train.minutes={minutes:g} leaves no time to train: reading and preparing took {budget.used():.1f} s, and "
            f"the last validation takes about {budget.kept:.1f} s"
        )


def update_budget(run: Run) -> None:
    """Read the clock of the run, the same in all processes."""
    if run.budget.is_set:
        run.budget.fraction = of_main_process(run.accelerator, run.budget.now())


def share_statistics(run: Run) -> None:
    """Give every process the running statistics and the EMA weights of the main one, which are what is saved.

    Each process sees batches of its own, so that its batch norms, which no gradient keeps together, drift apart.
    """
    if run.world == 1:
        return
    averaged = [] if run.ema is None else list(run.ema.module.state_dict().values())
    for tensor in [*run.network.buffers(), *averaged]:
        torch.distributed.broadcast(tensor, 0)


def _needs_none(run: Run) -> bool:
    return run.config.train.best != "right" and run.config.data.text != "none"


def _scores(run: Run, *, with_reports: bool) -> list[Score]:
    """Return the scores of all cases of all processes, in the order of the data set."""
    if run.device_val is None:
        mine = list(_streamed_scores(run, with_reports=with_reports))
    else:
        mine = list(_device_scores(run, run.device_val, with_reports=with_reports))
    return sorted(gather(run.accelerator, mine), key=lambda score: score[0])


def _streamed_scores(run: Run, *, with_reports: bool) -> Iterator[Score]:
    settings, data = run.config.train, run.val_data
    if not with_reports:
        config = dataclasses.replace(data.config, missing_reports="allow")
        data = CaseDataset(perturb_reports(data.cases, "none"), config, num_classes=data.num_classes)
    scoring = PUBLISHED if run.config.data.resize == "published" else NETWORK

    def score(prediction: CasePrediction) -> Score:
        classes = score_prediction(prediction, scorings=(scoring,)).classes
        return prediction.index, prediction.loss, tuple(of_class[scoring] for of_class in classes)

    compute = Compute(str(run.device), settings.batch_size, run.config.data.workers, settings.precision)
    loss = run.loss if with_reports else None
    found = predict_cases(run.network_to_score, data, compute, loss=loss, rank=run.rank, world=run.world)
    yield from prefetch(score, found, maximum=2 * settings.batch_size)


def _device_scores(run: Run, data: DeviceData, *, with_reports: bool) -> Iterator[Score]:
    """Yield the scores of this process; the loss of a case is the mean over its batch."""
    network = run.network_to_score.eval()
    counts: list[Tensor] = []
    losses: list[Tensor] = []
    indices: list[int] = []
    for number, full in enumerate(data.val_batches(_DEVICE_BATCH, rank=run.rank, world=run.world)):
        batch = full if with_reports else without_reports(full)
        assert batch.mask is not None
        output = infer(network, batch, device=run.device, precision=run.config.train.precision)
        counts.append(_overlaps(run, probabilities(output), batch.mask))
        if with_reports:
            loss = run.loss(output, batch.mask, batch.text, batch.findings)["loss"]
            losses.append(loss.float().expand(len(batch.ids)))
        first = (run.rank + number * run.world) * _DEVICE_BATCH
        indices += range(first, first + len(batch.ids))
    if not counts:
        return  # there are fewer batches than processes
    values: list[float | None] = torch.cat(losses).tolist() if losses else [None] * len(indices)
    for index, value, classes in zip(indices, values, torch.cat(counts).tolist(), strict=True):
        yield index, value, tuple(Overlap(*of_class) for of_class in classes)


def _overlaps(run: Run, probability: Tensor, mask: Tensor) -> Tensor:
    """Return intersection, prediction and target (B, C, 3) for each class but the background."""
    if probability.ndim == 3:  # by the rules of `score_prediction`
        is_published = run.config.data.resize == "published"
        found = (probability > THRESHOLD if is_published else probability >= THRESHOLD)[:, None]
        target = mask[:, None] != 0
    else:
        classes = torch.arange(1, probability.shape[1], device=mask.device)[None, :, None, None]
        found, target = probability.argmax(1)[:, None] == classes, mask[:, None] == classes
    return torch.stack([(found & target).sum((2, 3)), found.sum((2, 3)), target.sum((2, 3))], dim=-1)


def _seconds_of_validation(run: Run) -> float:
    """Return about how long a validation takes, by one batch that is computed twice."""
    size = min(_DEVICE_BATCH if run.device_val is not None else run.config.train.batch_size, len(run.val_data))
    network, seconds = run.network_to_score.eval(), 0.0
    for _ in range(2):
        began = time.monotonic()
        batch = collate([run.val_data[0, index] for index in range(size)])
        if run.device_val is not None:
            began = time.monotonic()  # then nothing is read
        output = infer(network, batch, device=run.device, precision=run.config.train.precision)
        output.logits.float().mean().item()  # waits for a GPU
        seconds = time.monotonic() - began
    passes = 2 if _needs_none(run) else 1
    return passes * seconds * math.ceil(len(run.val_data) / (size * run.world))
