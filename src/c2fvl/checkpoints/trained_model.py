"""Trained models: a network with its settings, saved to a model folder and loaded from it. Nothing loaded executes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from c2fvl.checkpoints.folders import (
    METRICS,
    SETTINGS,
    WEIGHTS,
    find_model,
    parse_settings,
    read,
)
from c2fvl.checkpoints.small_files import read_small_files
from c2fvl.config import Config
from c2fvl.config_files import to_toml
from c2fvl.files import storage
from c2fvl.metrics.out_of_distribution import OodDetector
from c2fvl.metrics.temperature import TemperatureScaling
from c2fvl.models import build_model
from c2fvl.models.output import TrustNetwork

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A network with everything that is needed to use it."""

    network: nn.Module = field(repr=False)
    """In eval mode."""
    config: Config = field(repr=False)
    metrics: dict[str, Any] = field(repr=False)
    path: Path
    calibration: dict[str, Any] | None = field(repr=False, default=None)
    """The content of `calibration.json`; None if the model is not calibrated."""

    ood_detector: OodDetector | None = field(repr=False, default=None)
    """The OOD check that `c2fvl fit-ood` fitted, if it did."""

    @property
    def scaling(self) -> TemperatureScaling:
        """Return the calibration of the probabilities; without one it changes nothing."""
        return TemperatureScaling.of(self.calibration)

    def with_text_model(self, folder: str) -> "TrainedModel":
        """Return the model with its language model in another folder; the content must be the same."""
        data = replace(self.config.data, text_model=folder, text_revision="", text_fetch=False)
        return replace(self, config=replace(self.config, data=data))

    def with_trust(self, trust: float) -> "TrainedModel":
        """Return the model with another trust in reports; both share their weights.

        Raises `ValueError` for a network without trust, and for a trust outside of 0 … 1.
        """
        if not isinstance(self.network, TrustNetwork):
            raise ValueError(f"the network {self.config.model.name} has no trust in reports; leave the trust out")
        network = self.network.with_trust(trust)
        arguments = {**self.config.model.arguments, "trust": network.trust}
        config = replace(self.config, model=replace(self.config.model, arguments=arguments))
        return replace(self, network=network, config=config)


def save_model(folder: Path | str, network: nn.Module, config: Config, metrics: Mapping[str, Any]) -> None:
    """Write a model folder. Each file is replaced as a whole; the metrics hold the checksum of the weights."""
    folder = Path(folder)
    weights = to_safetensors(plain_tensors(network.state_dict()))
    storage.write_text(folder / SETTINGS, to_toml(config))
    storage.write_bytes(folder / WEIGHTS, weights)
    storage.write_json(folder / METRICS, {**metrics, "weights_sha256": storage.checksum(weights)})


def load_model(path: Path | str, *, device: str | torch.device = "cpu") -> TrainedModel:
    """Return the network of a model folder, of a run folder's best, or of a trained model's name, on `device`.

    It is in eval mode and in float32, whatever the file holds. Raises `FileNotFoundError` where no model
    folder is, and `ValueError` where its files are damaged or do not belong together. A calibration of other weights is
    not used, and the log says so.
    """
    folder = find_model(path)
    config = parse_settings(folder)
    data = read(folder / WEIGHTS)
    checksum = storage.checksum(data)
    files = read_small_files(folder, checksum)
    if files.metrics and files.metrics.get("weights_sha256") != checksum:
        raise ValueError(
            f"{folder / WEIGHTS} does not match the checksum in {METRICS}: it is damaged, or a run was interrupted "
            f"between the two (resume that run), or it was replaced (then delete {METRICS})"
        )
    for message in files.of_other_weights.values():
        logger.warning("%s; until then it is not used", message)
    weights = parse_tensors(data, folder / WEIGHTS)
    del data  # so that the weights are never three times in memory
    network = build_model(config.model.name, config.model.arguments)
    restore_weights(network, weights, where=str(folder / WEIGHTS))
    network = network.to(check_device(device)).eval()
    return TrainedModel(network, config, files.metrics, folder, files.calibration, files.ood_detector)


def check_device(device: torch.device | str) -> torch.device:
    """Return the device; `ValueError` if this machine or this build of torch does not have it.

    "auto" is cuda if available, else cpu; "gpu" is cuda.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device("cuda" if device == "gpu" else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the device {str(device)!r} cannot be used here ({reason}); cpu always can") from error
    return found


def restore_weights(network: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Load weights strictly; `ValueError` lists missing and unknown keys and wrong shapes."""
    expected = network.state_dict()
    missing, surplus = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    wrong = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if missing or surplus or wrong:
        raise ValueError(
            f"{where} does not fit its settings: missing {missing[:5]}, unknown {surplus[:5]}, wrong shape {wrong[:5]}"
        )
    network.load_state_dict(weights, strict=True)  # copies, so that half precision becomes the network's float32


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies on the CPU that share no memory, as safetensors needs them."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def parse_tensors(data: bytes, where: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; `ValueError` names it where it is damaged."""
    try:
        return parse_safetensors(data)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{where} is not a whole safetensors file: {error}") from error
