"""Validation: the network on the validation cases, at the network's resolution."""

import math

import torch

from c2fvl.data.prefetch import prefetch
from c2fvl.inference.cases import NETWORK, PUBLISHED, CasePrediction, predict_cases, score_prediction
from c2fvl.inference.compute import Compute
from c2fvl.metrics.overlap import Overlap, summarise_classes
from c2fvl.training.processes import gather
from c2fvl.training.setup import Run


def validate(run: Run) -> dict[str, float | int]:
    """Return the scores of the validation cases; every process returns those of all cases.

    The mask is the one that the preset's loader makes, so that a paper preset chooses its best model as published.
    Raises `ValueError` for a loss that is not finite.
    """
    share_statistics(run)
    settings = run.config.train
    scoring = PUBLISHED if run.config.data.resize == "published" else NETWORK

    def score(prediction: CasePrediction) -> tuple[int, float | None, tuple[Overlap, ...]]:
        classes = score_prediction(prediction, scorings=(scoring,)).classes
        return prediction.index, prediction.loss, tuple(of_class[scoring] for of_class in classes)

    compute = Compute(str(run.device), settings.batch_size, run.config.data.workers, settings.precision)
    found = predict_cases(run.network_to_score, run.val_data, compute, loss=run.loss, rank=run.rank, world=run.world)
    mine = list(prefetch(score, found, maximum=2 * settings.batch_size))
    everything = sorted(gather(run.accelerator, mine), key=lambda entry: entry[0])
    losses = [loss for _, loss, _ in everything]
    broken = [run.val_data.cases[index].id for index, loss, _ in everything if not math.isfinite(loss)]
    if broken:
        raise ValueError(
            f"the validation loss of {len(broken)} images is not finite, the first is {broken[0]}; the state before "
            "this epoch is kept. Lower optimizer.learning_rate, or set optimizer.clip_norm=1"
        )
    scores = summarise_classes([counts for _, _, counts in everything])
    for number, of_class in enumerate(scores.pop("classes", ()), start=1):
        scores |= {f"{name}_class_{number}": of_class[name] for name in ("dice_per_image", "iou_per_image")}
    return {"loss": math.fsum(losses) / len(losses), **scores}


def share_statistics(run: Run) -> None:
    """Give every process the running statistics and the EMA weights of the main one, which are what is saved.

    Each process sees batches of its own, so that its batch norms, which no gradient keeps together, drift apart.
    """
    if run.world == 1:
        return
    averaged = [] if run.ema is None else list(run.ema.module.state_dict().values())
    for tensor in [*run.network.buffers(), *averaged]:
        torch.distributed.broadcast(tensor, 0)
