"""Networks on data sets: probability maps, and the overlap of each case on each grid.

Three pairs of grid and rule are kept apart and always labelled:
- `network`: the network's own grid against the mask resized by nearest neighbour;
- `published`: the network's grid against the mask that the published loader makes (bilinear, every touched pixel);
- `original`: the probability map brought to the film's own size against the mask as it is in the file.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from c2fvl.batches import Batch, EpochBatches, FilmDataset, read
from c2fvl.checkpoint import TrainedModel, check_device
from c2fvl.labels import THRESHOLD, to_labels, to_original
from c2fvl.losses import Loss
from c2fvl.metrics import Overlap, overlap
from c2fvl.models import Output
from c2fvl.optimize import optimize
from c2fvl.reading import Computed
from c2fvl.text_encoders import text_shape
from c2fvl.transforms import resize_mask

GRIDS = ("network", "published", "original")
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class CaseScore:
    """What one case scored."""

    id: str
    classes: tuple[dict[str, Overlap], ...]
    """For each class but the background, by grid."""
    loss: float | None
    """Of this film alone, so that it does not depend on its neighbours in the batch."""
    details: tuple[dict[str, float], ...] = ()
    """For each class but the background, every score of `metrics.score_case` on the film's own grid, if asked for."""

    @property
    def overlaps(self) -> dict[str, Overlap]:
        """Return those of the lesion, by grid, where it is the only class."""
        (lesion,) = self.classes
        return lesion


@dataclass(frozen=True)
class CasePrediction:
    """One film's probabilities."""

    id: str
    index: int
    """Its place in the data set."""
    probability: np.ndarray
    """Of the lesion (S, S), or of three classes and more (C, S, S), float32, on the network's grid."""
    original_mask: np.ndarray | None
    """(H, W) uint8."""
    loss: float | None
    logits: tuple[np.ndarray, ...] = ()
    """What the network read off the film, in the order of `reading.LOGITS`."""


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
    pin_memory = torch.device(device).type == "cuda"
    for batch in (batch.to(device) for batch in read(dataset, batches, workers=workers, pin_memory=pin_memory)):
        output = infer(network, batch, device=device, precision=precision)
        probability = probabilities(output).cpu().numpy()
        losses = None if loss is None else _losses(loss, output, batch)
        logits = [values.float().cpu().numpy() for values in output.reading or ()]
        for row, name in enumerate(batch.ids):
            yield CasePrediction(
                id=name,
                index=places[done + row],
                probability=probability[row],
                original_mask=batch.original_masks[row],
                loss=None if losses is None else losses[row],
                logits=tuple(values[row] for values in logits),
            )
        done += len(batch.ids)


def score_on_grids(
    prediction: CasePrediction,
    *,
    grids: tuple[str, ...] = GRIDS,
    threshold: float = THRESHOLD,
    details: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None,
) -> CaseScore:
    """Return the overlap of a prediction with its mask on the given grids, and `details` of both on the film's own."""
    mask = prediction.original_mask
    if mask is None:
        raise ValueError(f"{prediction.id} has no mask to be scored against")
    probability = prediction.probability
    size, is_lesion = probability.shape[-1], probability.ndim == 2
    classes: tuple[dict[str, Overlap], ...] = tuple({} for _ in range(1 if is_lesion else len(probability) - 1))
    every: list[dict[str, float]] = []
    for grid in grids:
        if grid == "original":
            found, target = to_labels(to_original(probability, mask.shape), threshold), mask
        elif grid == "published" and is_lesion:
            found, target = probability > threshold, resize_mask(mask, size, rule="published")
        else:  # several classes are always resized by nearest neighbour
            found, target = to_labels(probability, threshold), resize_mask(mask, size, rule="exact")
        for number, overlaps in enumerate(classes, start=1):
            pair = (found, target) if is_lesion else (found == number, target == number)
            overlaps[grid] = overlap(*pair)
            if grid == "original" and details is not None:
                every.append(details(*pair))
    return CaseScore(prediction.id, classes, prediction.loss, tuple(every))


def inference_form(model: TrainedModel, *, batch_size: int = 1, in_place: bool = False) -> nn.Module:
    """Return the inference form of a model's network, made ready for films of its size in such batches.

    `in_place` as in `optimize`.
    """
    side, channels = model.config.data.image_size, int(model.config.model.arguments.get("in_channels", 3))
    device = next(model.network.parameters()).device
    example = torch.zeros(batch_size, channels, side, side, device=device)
    return optimize(model.network, example=example, in_place=in_place)


def automatic_batch(model: TrainedModel, *, most: int = 32) -> int:
    """Return how many films at once suit the device that the model lies on.

    On a processor one, for larger batches leave its caches and are no faster (`docs/performance.md`); on a GPU as many
    as its memory takes, up to `most`.
    """
    device = next(model.network.parameters()).device
    if device.type == "cpu":
        return 1
    side, channels = model.config.data.image_size, int(model.config.model.arguments.get("in_channels", 3))
    shape = text_shape(model.config)

    def attempt(size: int) -> None:
        text = None if shape is None else torch.zeros(size, *shape)
        batch = Batch([""] * size, torch.zeros(size, channels, side, side), None, text, [None] * size)
        infer(model.network, batch, device=device, precision="fp32")

    return largest_batch(attempt, most=most)


def largest_batch(attempt: Callable[[int], object], *, most: int) -> int:
    """Return the largest size, from `most` down by halves, that `attempt` does not run out of memory with."""
    size = most
    while size > 1:
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            size //= 2
            torch.cuda.empty_cache()
        else:
            return size
    return 1


class NetworkEngine:
    """A trained network that gives probabilities for arrays, in its inference form.

    `batch_size` is how many films it is made ready for at once, None for what suits the device; `in_place` as in
    `optimize`.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        device: torch.device | str = "cpu",
        batch_size: int | None = 1,
        in_place: bool = False,
    ) -> None:
        self.config, self.path, self.metrics = model.config, model.path, model.metrics
        self.calibration, self.familiarity = model.calibration, model.familiarity
        self.device = check_device(device)
        self.batch_size = batch_size or automatic_batch(model)
        self.network = inference_form(model, batch_size=self.batch_size, in_place=in_place)

    def compute(self, images: np.ndarray, text: np.ndarray | None) -> Computed:
        """Return what the network makes of images (B, 3, S, S) and their text (B, T, F), as `Engine` says."""
        rows = None if text is None else torch.from_numpy(text)
        batch = Batch([""] * len(images), torch.from_numpy(images), None, rows, [None] * len(images))
        output = infer(self.network, batch, device=self.device, precision="fp32")
        logits = tuple(values.cpu().numpy() for values in output.reading or ())
        return Computed(probabilities(output).cpu().numpy(), logits)


def infer(network: nn.Module, batch: Batch, *, device: torch.device | str, precision: str) -> Output:
    """Return the network's output for a batch without gradients."""
    batch = batch.to(device)
    with torch.inference_mode(), autocast(device, precision):
        return network(batch.image, batch.text)


def probabilities(output: Output) -> Tensor:
    """Return the probability of the lesion (B, H, W), or of three classes and more (B, C, H, W), float32.

    A network with one logit and one with two, of background and lesion, both tell the lesion alone.
    """
    logits = output.logits.float()
    if logits.shape[1] == 1:
        return logits[:, 0].sigmoid()
    shares = logits.softmax(dim=1)
    return shares[:, 1] if logits.shape[1] == 2 else shares


def check_precision(device: torch.device | str, precision: str) -> None:
    """Raise `ValueError` for a precision that is not known or that the device does not compute in."""
    if precision not in ("fp32", *_PRECISIONS):
        raise ValueError(f"the precision is {precision!r}; expected is one of fp32, {', '.join(_PRECISIONS)}")
    kind = torch.device(device).type
    if kind == "cpu" and precision == "fp16":
        raise ValueError("processors do not compute in fp16; use bf16 or fp32, or --device cuda")
    if kind == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"{torch.cuda.get_device_name(device)} does not compute in bf16; use fp16 or fp32")


def settled_precision(device: torch.device | str, precision: str) -> str:
    """Return the precision, "auto" settled: bf16 where the device computes in it itself, else fp32."""
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def is_emulated(device: torch.device | str, precision: str) -> bool:
    """Tell whether a processor computes in a precision that it does not have, which is many times slower."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return precision == "bf16" and torch.device(device).type == "cpu" and supported is not None and not supported()


def autocast(device: torch.device | str, precision: str) -> AbstractContextManager[object]:
    """Return the context in which the network runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, _PRECISIONS[precision])


def _losses(loss: Loss, output: Output, batch: Batch) -> list[float] | None:
    if batch.mask is None:
        return None

    def of(row: int) -> float:
        mask, text, findings = (
            None if values is None else values[row : row + 1] for values in (batch.mask, batch.text, batch.findings)
        )
        return float(loss(output.row(row), mask, text, findings)["loss"])

    return [of(row) for row in range(len(batch.mask))]
