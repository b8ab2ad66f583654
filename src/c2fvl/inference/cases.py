"""A network on the cases of a data set: the probabilities of each case, and their overlap with its mask."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.batches import Batch, EpochBatches, iterate_batches, without_reports
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.on_device import DeviceData
from c2fvl.data.part import Part
from c2fvl.data.transforms import resize_mask
from c2fvl.inference.compute import Compute
from c2fvl.inference.masks import THRESHOLD, check_probability, to_labels, to_original
from c2fvl.inference.torch_engine import infer, probabilities
from c2fvl.metrics.overlap import Overlap, dice, overlap
from c2fvl.models import Output
from c2fvl.models.output import Loss
from c2fvl.models.registry import num_classes

ORIGINAL, NETWORK, PUBLISHED = ("original", "corrected"), ("network", "corrected"), ("network", "published")
SCORINGS = (ORIGINAL, NETWORK, PUBLISHED)
"""Each scoring has a resolution and a protocol. `ORIGINAL` takes the mask as it is in the file, `NETWORK` the mask
resized by nearest neighbour. `PUBLISHED` takes the mask that the published loader makes (bilinear, every touched pixel
counts), and scores it as the published test script does."""
Scoring = tuple[str, str]


@dataclass(frozen=True)
class CaseScore:
    """What one case scored."""

    id: str
    classes: tuple[dict[Scoring, Overlap], ...]
    """For each class but the background, by scoring."""
    loss: float | None
    """Of this image alone, so that it does not depend on the others in the batch."""
    details: tuple[dict[str, float], ...] = ()
    """For each class but the background, every score of `metrics.score_case` at the original resolution, if asked."""

    @property
    def overlaps(self) -> dict[Scoring, Overlap]:
        """Return those of the lesion, by scoring, where it is the only class."""
        (lesion,) = self.classes
        return lesion

    @property
    def dice(self) -> float:
        """Return the Dice at the original resolution by the corrected protocol, averaged over the classes."""
        return float(np.mean([dice(of_class[ORIGINAL]) for of_class in self.classes]))


@dataclass(frozen=True)
class CasePrediction:
    """The probabilities of one case."""

    id: str
    index: int
    """In the data set."""
    probability: np.ndarray
    """Of the lesion (S, S), or of three classes and more (C, S, S), float32, at the network's resolution."""
    original_mask: np.ndarray | None
    """(H, W) uint8."""
    loss: float | None
    logits: tuple[np.ndarray, ...] = ()
    """The findings that the network reads off the image, in the order of `predicted_findings.LOGITS`."""

    @functools.cached_property
    def target(self) -> np.ndarray:
        """Return the true mask (H, W). Raises `ValueError` where there is none."""
        if self.original_mask is None:
            raise ValueError(f"{self.id} has no mask, so it cannot be scored")
        return self.original_mask

    @functools.cached_property
    def original_probability(self) -> np.ndarray:
        """Return the probabilities at the resolution of the mask, (H, W) or (C, H, W)."""
        return to_original(self.probability, self.target.shape)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Return the predicted class of each pixel (H, W) uint8 at the resolution of the mask."""
        return to_labels(self.original_probability)


def predict_cases(
    network: nn.Module,
    dataset: CaseDataset,
    compute: Compute = Compute(),
    *,
    loss: Loss | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[CasePrediction]:
    """Yield the prediction of every case of this process, in the order of the data set.

    The network, which lies on the device of `compute`, is put in eval mode for it and left in it. Without a batch size
    it is run image by image, and "auto" is fp32: `for_inference` settles both. Raises `ValueError`, which names the
    case, where the network gives numbers that are no probabilities; with a `loss`, the loss tells.
    """
    network.eval()
    precision = "fp32" if compute.precision == "auto" else compute.precision
    device = torch.device(compute.device)
    batches = EpochBatches(len(dataset), compute.batch_size or 1, rank=rank, world=world)
    indices = [index for batch in batches for _, index in batch]
    done = 0
    items = iterate_batches(dataset, batches, workers=compute.workers, pin_memory=device.type == "cuda")
    for batch in (batch.to(device) for batch in items):
        output = infer(network, batch, device=device, precision=precision)
        probability = probabilities(output).cpu().numpy()
        losses = None if loss is None else _losses(loss, output, batch)
        logits = [values.float().cpu().numpy() for values in output.findings or ()]
        for row, name in enumerate(batch.ids):
            if loss is None:
                _check(name, probability[row])
            yield CasePrediction(
                id=name,
                index=indices[done + row],
                probability=probability[row],
                original_mask=batch.original_masks[row],
                loss=None if losses is None else losses[row],
                logits=tuple(values[row] for values in logits),
            )
        done += len(batch.ids)


def predict_on_device(
    network: nn.Module, data: DeviceData, *, batch_size: int, precision: str, reports: bool = True
) -> Iterator[CasePrediction]:
    """Yield the prediction of every case of a data set on the device of the network, with or without its report."""
    network.eval()
    index = 0
    for batch in data.val_batches(batch_size):
        given = batch if reports else without_reports(batch)
        probability = probabilities(infer(network, given, device=data.device, precision=precision)).cpu().numpy()
        for row, name in enumerate(batch.ids):
            _check(name, probability[row])
            yield CasePrediction(name, index, probability[row], batch.original_masks[row], None)
            index += 1


def score_prediction(
    prediction: CasePrediction,
    *,
    scorings: tuple[Scoring, ...] = SCORINGS,
    details: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None,
) -> CaseScore:
    """Return the overlap of a prediction with its mask, and `details` of both at the original resolution.

    Raises `ValueError` for a case without a mask.
    """
    mask, probability = prediction.target, prediction.probability
    size, is_lesion = probability.shape[-1], probability.ndim == 2
    classes: tuple[dict[Scoring, Overlap], ...] = tuple({} for _ in range(1 if is_lesion else len(probability) - 1))
    every: list[dict[str, float]] = []
    for scoring in scorings:
        if scoring == ORIGINAL:
            labels, target = prediction.labels, mask
        elif scoring == PUBLISHED and is_lesion:
            labels, target = probability > THRESHOLD, resize_mask(mask, size, rule="published")
        else:  # several classes are always resized by nearest neighbour
            labels, target = to_labels(probability), resize_mask(mask, size, rule="exact")
        for number, overlaps in enumerate(classes, start=1):
            pair = (labels, target) if is_lesion else (labels == number, target == number)
            overlaps[scoring] = overlap(*pair)
            if scoring == ORIGINAL and details is not None:
                every.append(details(*pair))
    return CaseScore(prediction.id, classes, prediction.loss, tuple(every))


def _check(name: str, probability: np.ndarray) -> None:
    try:
        check_probability(probability)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _losses(loss: Loss, output: Output, batch: Batch) -> list[float] | None:
    if batch.mask is None:
        return None

    def of(row: int) -> float:
        mask, text, findings = (
            None if values is None else values[row : row + 1] for values in (batch.mask, batch.text, batch.findings)
        )
        return float(loss(output.row(row), mask, text, findings)["loss"])

    return [of(row) for row in range(len(batch.mask))]


def dataset_of(model: TrainedModel, part: Part) -> CaseDataset:
    """Return the cases of a part as the model takes them. Raises as `Part.cases` and `CaseDataset`."""
    config = model.config
    settings = config.data
    if settings.text == "none" or part.text == "none":
        settings = dataclasses.replace(settings, missing_reports="allow")
    return CaseDataset(part.cases(settings.table), settings, num_classes=num_classes(config.model))
