"""Distillation: a network also learns the mean prediction of other, trained networks.

The target of a step is a weighted mean of the mask and of the teachers' probabilities (Hinton et al., "Distilling the
Knowledge in a Neural Network", 2015, with the mask as the hard target). Teachers that read findings predict twice, once
without a report and once with the right report at a trust of 1, so that the target holds what the report adds, whatever
report the network itself is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config import Config
from c2fvl.data.batches import Batch
from c2fvl.inference.precision import autocast
from c2fvl.inference.torch_engine import probabilities
from c2fvl.models.inference_model import optimize
from c2fvl.models.output import TrustNetwork
from c2fvl.models.registry import num_classes
from c2fvl.reports.findings import TRUST


@dataclass(frozen=True)
class Teacher:
    """One trained network that predicts the batches of another."""

    network: nn.Module
    image_size: int
    text: str
    """What it reads of a report, as the setting data.text."""
    checksum: str


class Teachers:
    """Trained networks whose mean prediction is part of the target."""

    def __init__(self, teachers: Sequence[Teacher], fraction: float, precision: str) -> None:
        self.teachers, self.fraction, self.precision = tuple(teachers), fraction, precision

    @property
    def checksums(self) -> list[str]:
        """Return the checksums of their weights."""
        return [teacher.checksum for teacher in self.teachers]

    def soften(self, batch: Batch) -> Tensor:
        """Return the target of a batch, (B, S, S) float32 in [0, 1]."""
        assert batch.mask is not None
        with torch.no_grad(), autocast(batch.image.device, self.precision):
            mean = torch.stack([self._predict(teacher, batch) for teacher in self.teachers]).mean(0)
        return torch.lerp(batch.mask.float(), mean, self.fraction)

    def _predict(self, teacher: Teacher, batch: Batch) -> Tensor:
        """Return the mean of the probabilities that one teacher predicts for a batch (B, S, S)."""
        size, own = batch.image.shape[-1], teacher.image_size
        image = batch.image
        if own != size:
            image = functional.interpolate(image, size=(own, own), mode="bilinear", antialias=own < size)
            image = image.contiguous(memory_format=torch.channels_last)
        mean = torch.stack([of_one.float() for of_one in self._passes(teacher, image, batch)]).mean(0, keepdim=True)
        if own != size:
            mean = functional.interpolate(mean, size=(size, size), mode="bilinear", antialias=own > size)
        return mean[0]

    def _passes(self, teacher: Teacher, image: Tensor, batch: Batch) -> list[Tensor]:
        network = teacher.network
        if isinstance(network, TrustNetwork):
            assert batch.findings is not None
            right = batch.findings.clone()
            right[:, TRUST] = 1.0
            features = network.encode_image(image)
            reports = (torch.full_like(right, torch.nan), right)
            return [probabilities(network.decode(features, report[:, None])) for report in reports]
        return [probabilities(network(image, None if teacher.text == "none" else batch.text))]


def load_teachers(config: Config, device: torch.device) -> Teachers | None:
    """Return the teachers that the settings name, on a device; None if there are none.

    Raises `ValueError` for a teacher that cannot predict the batches of the network, `OSError` for one that is missing.
    """
    settings = config.train
    if not settings.teachers or not settings.distillation:
        return None
    if num_classes(config.model) > 2 or config.data.mask == "labels":
        raise ValueError("train.teachers are for one lesion; this network has several classes")
    found = [_load(model, config, device) for name in settings.teachers for model in _folders(Path(name))]
    return Teachers(found, settings.distillation, settings.precision)


def _folders(path: Path) -> list[Path]:
    """Return the model folders that a name stands for: itself, or the folds of a cross-validation."""
    folds = sorted(path.glob("fold-*/best"))
    return folds or [path]


def _load(path: Path, config: Config, device: torch.device) -> Teacher:
    model = load_model(path, device=device)
    wanted, own = config.data, model.config.data
    if num_classes(model.config.model) > 2 or own.channel_order != wanted.channel_order:
        raise ValueError(
            f"{path} cannot teach this network: it has {num_classes(model.config.model)} classes and the channel order "
            f"{own.channel_order}; expected one lesion and {wanted.channel_order}"
        )
    if own.text not in ("none", wanted.text):
        raise ValueError(
            f"{path} cannot teach this network: it reads reports as {own.text}, and this network as {wanted.text}; "
            "choose a teacher that reads the same, or none"
        )
    return Teacher(optimize(model.network), own.image_size, own.text, str(model.metrics.get("weights_sha256")))
