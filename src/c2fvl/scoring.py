"""Networks on data sets: probability maps, and the overlap of each case on each grid.

Three pairs of grid and rule are kept apart and always labelled:
- `network`: the network's own grid against the mask resized by nearest neighbour;
- `published`: the network's grid against the mask that the published loader makes (bilinear, every touched pixel);
- `original`: the probability map brought to the film's own size against the mask as it is in the file.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from c2fvl.batches import Batch, EpochBatches, FilmDataset, loader
from c2fvl.losses import Loss
from c2fvl.metrics import Overlap, overlap
from c2fvl.models import Output
from c2fvl.transforms import resize_mask

GRIDS = ("network", "published", "original")
THRESHOLD = 0.5
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class CaseScore:
    """What one case scored."""

    id: str
    overlaps: dict[str, Overlap]
    """By grid."""
    loss: float | None
    """Of this film alone, so that it does not depend on its neighbours in the batch."""


@dataclass(frozen=True)
class CasePrediction:
    """One film's probabilities."""

    id: str
    index: int
    """Its place in the data set."""
    probability: np.ndarray
    """(S, S) float32, on the network's grid."""
    original_mask: np.ndarray | None
    """(H, W) uint8."""
    loss: float | None


def predict_cases(
    network: nn.Module,
    dataset: FilmDataset,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    workers: int = 0,
    precision: str = "fp32",
    loss: Loss | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[CasePrediction]:
    """Yield the prediction of every film of this process's share, in the order of the data set.

    The network is put in eval mode for it and left in it.
    """
    network.eval()
    batches = EpochBatches(len(dataset), batch_size, rank=rank, world=world)
    places = [index for batch in batches for _, index in batch]
    done = 0
    for batch in loader(dataset, batches, workers=workers):
        output = infer(network, batch, device=device, precision=precision)
        probability = probabilities(output).cpu().numpy()
        losses = None if loss is None or batch.mask is None else _losses(loss, output, batch.mask.to(device))
        for row, name in enumerate(batch.ids):
            yield CasePrediction(
                id=name,
                index=places[done + row],
                probability=probability[row],
                original_mask=batch.original_masks[row],
                loss=None if losses is None else losses[row],
            )
        done += len(batch.ids)


def score_case(
    prediction: CasePrediction, *, grids: tuple[str, ...] = GRIDS, threshold: float = THRESHOLD
) -> CaseScore:
    """Return the overlap of a prediction with its mask on the given grids."""
    mask = prediction.original_mask
    if mask is None:
        raise ValueError(f"{prediction.id} has no mask to be scored against")
    size = prediction.probability.shape[0]
    overlaps = {}
    for grid in grids:
        if grid == "network":
            found, target = prediction.probability >= threshold, resize_mask(mask, size, rule="exact")
        elif grid == "published":
            found, target = prediction.probability > threshold, resize_mask(mask, size, rule="published")
        else:
            found, target = to_original(prediction.probability, mask.shape) >= threshold, mask
        overlaps[grid] = overlap(found, target)
    return CaseScore(prediction.id, overlaps, prediction.loss)


def infer(network: nn.Module, batch: Batch, *, device: torch.device | str, precision: str) -> Output:
    """Return the network's output for a batch without gradients."""
    text = None if batch.text is None else batch.text.to(device)
    with torch.inference_mode(), autocast(device, precision):
        return network(batch.image.to(device), text)


def probabilities(output: Output) -> Tensor:
    """Return the probability of the lesion (B, H, W), float32, of a network with one class."""
    if output.logits.shape[1] != 1:
        raise ValueError(f"the network returns {output.logits.shape[1]} classes; one is expected here")
    return output.logits[:, 0].float().sigmoid()


def to_original(probability: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the probability map bilinearly resized to (height, width) of the film."""
    if probability.shape == tuple(shape):
        return probability
    return cv2.resize(probability, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def autocast(device: torch.device | str, precision: str) -> AbstractContextManager[object]:
    """Return the context in which the network runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, _PRECISIONS[precision])


def _losses(loss: Loss, output: Output, mask: Tensor) -> list[float]:
    def of(row: int) -> float:
        alone = Output(output.logits[row : row + 1], tuple(side[row : row + 1] for side in output.aux))
        return float(loss(alone, mask[row : row + 1])["loss"])

    return [of(row) for row in range(len(mask))]
