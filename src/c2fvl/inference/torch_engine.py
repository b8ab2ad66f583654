"""A trained network in PyTorch: its inference model, the batch size that suits a device, and probabilities."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from c2fvl.checkpoints.trained_model import TrainedModel, check_device
from c2fvl.data.batches import Batch
from c2fvl.inference.compute import Compute
from c2fvl.inference.engine import Computed
from c2fvl.inference.precision import autocast, suited_precision
from c2fvl.models import Output
from c2fvl.models.inference_model import optimize
from c2fvl.reports.encoders import text_shape


def for_inference(model: TrainedModel, compute: Compute) -> tuple[nn.Module, Compute]:
    """Return the inference form of a model's network and `compute` with batch size and precision, as they suit."""
    precision = suited_precision(model.config.model.name, model.network, compute.device, compute.precision)
    compute = dataclasses.replace(compute, batch_size=compute.batch_size or automatic_batch(model), precision=precision)
    if precision != "fp32":
        return optimize(model.network), compute
    return inference_form(model, batch_size=compute.batch_size or 1), compute


def inference_form(model: TrainedModel, *, batch_size: int = 1, in_place: bool = False) -> nn.Module:
    """Return the inference model of a network, prepared for batches of images of its size.

    `in_place` as in `optimize`.
    """
    side, channels = model.config.data.image_size, int(model.config.model.arguments.get("in_channels", 3))
    device = next(model.network.parameters()).device
    example = torch.zeros(batch_size, channels, side, side, device=device)
    return optimize(model.network, example=example, in_place=in_place)


def automatic_batch(model: TrainedModel, *, maximum: int = 32) -> int:
    """Return the batch size that suits the device of the model.

    On a processor one, for larger batches leave its caches and are no faster (`docs/performance.md`); on a GPU as many
    as its memory takes, up to `maximum`.
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

    return largest_batch(attempt, maximum=maximum)


def largest_batch(attempt: Callable[[int], object], *, maximum: int) -> int:
    """Return the largest size, from `maximum` down by halves, that `attempt` does not run out of memory with."""
    size = maximum
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

    `batch_size` is how many images it is prepared for at once, None for what suits the device; `precision` as in
    `Compute`; `in_place` as in `optimize`.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        device: torch.device | str = "cpu",
        batch_size: int | None = 1,
        precision: str = "auto",
        in_place: bool = False,
    ) -> None:
        self.config, self.path, self.metrics = model.config, model.path, model.metrics
        self.calibration, self.ood_detector = model.calibration, model.ood_detector
        self.device = check_device(device)
        self.runtime = f"torch {torch.__version__}"
        self.batch_size = batch_size or automatic_batch(model)
        self.precision = suited_precision(model.config.model.name, model.network, self.device, precision)
        if self.precision == "fp32":
            self.network = inference_form(model, batch_size=self.batch_size, in_place=in_place)
        else:
            self.network = optimize(model.network, in_place=in_place)

    def compute(self, images: np.ndarray, text: np.ndarray | None) -> Computed:
        """Return what the network makes of images (B, 3, S, S) and their text (B, T, F), as `Engine` says."""
        rows = None if text is None else torch.from_numpy(text)
        batch = Batch([""] * len(images), torch.from_numpy(images), None, rows, [None] * len(images))
        output = infer(self.network, batch, device=self.device, precision=self.precision)
        logits = tuple(values.cpu().numpy() for values in output.findings or ())
        return Computed(probabilities(output).cpu().numpy(), logits)


def infer(network: nn.Module, batch: Batch, *, device: torch.device | str, precision: str) -> Output:
    """Return the network's output for a batch without gradients; `ValueError` where it is no `Output` of that size."""
    batch = batch.to(device)
    with torch.inference_mode(), autocast(device, precision):
        output = network(batch.image, batch.text)
    if not isinstance(output, Output) or output.logits.ndim != 4 or output.logits.shape[2:] != batch.image.shape[2:]:
        found = tuple(output.logits.shape) if isinstance(output, Output) else type(output).__name__
        raise ValueError(
            f"{type(network).__name__}.forward returned {found}; expected c2fvl.models.Output with logits "
            f"(B, C, {batch.image.shape[2]}, {batch.image.shape[3]})"
        )
    return output


def probabilities(output: Output) -> Tensor:
    """Return the probability of the lesion (B, H, W), or of three classes and more (B, C, H, W), float32.

    A network with one logit and one with two, of background and lesion, both tell the lesion alone.
    """
    logits = output.logits.float()
    if logits.shape[1] == 1:
        return logits[:, 0].sigmoid()
    fractions = logits.softmax(dim=1)
    return fractions[:, 1] if logits.shape[1] == 2 else fractions
