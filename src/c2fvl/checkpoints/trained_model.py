"""Trained models: a network with its settings, saved to a model folder and loaded from it. Nothing loaded executes."""

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from c2fvl.checkpoints.folders import METRICS, SETTINGS, WEIGHTS, find_model, without_places
from c2fvl.checkpoints.model_files import open_folder, write_files
from c2fvl.checkpoints.small_files import read_small_files
from c2fvl.checkpoints.weights import build_for, check_fit
from c2fvl.config import Config
from c2fvl.config_files import to_toml
from c2fvl.devices import automatic_device
from c2fvl.files import storage
from c2fvl.metrics.out_of_distribution import OodDetector
from c2fvl.metrics.temperature import TemperatureScaling
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
    weights = to_safetensors(plain_tensors(network.state_dict()))
    written = {
        SETTINGS: to_toml(config).encode(),
        WEIGHTS: weights,
        METRICS: storage.json_bytes({**metrics, "weights_sha256": storage.checksum(weights)}),
    }
    write_files(Path(folder), written)


def load_model(
    path: Path | str, *, device: str | torch.device = "cpu", replacing: Collection[str] = ()
) -> TrainedModel:
    """Return the network of a model folder, of a run folder's best, or of a trained model's name, on `device`.

    It is in eval mode and in float32, whatever the file holds. Files that the caller is `replacing` are not read, so
    that damaged ones can be replaced. Raises `FileNotFoundError` where no model
    folder is, and `ValueError` where its files are damaged or do not belong together, and for weights that are not
    finite. A calibration of other weights and a folder without a manifest are warnings in the log. Caches that the
    settings name are not used, and nothing is downloaded.
    """
    folder = find_model(path)
    read_files = open_folder(folder)
    config = without_places(read_files.settings())
    data = read_files.need(WEIGHTS)
    files = read_small_files(read_files, storage.checksum(data), without=replacing)
    files.warn()
    weights = parse_tensors(data, folder / WEIGHTS)
    del data  # so that the weights are never three times in memory
    network = build_for(config.model, weights, where=str(folder / WEIGHTS))
    network.load_state_dict(weights, strict=True)  # copies, so that half precision becomes the network's float32
    network = network.to(check_device(device)).eval()
    return TrainedModel(network, config, files.metrics, folder, files.calibration, files.ood_detector)


def check_device(device: torch.device | str) -> torch.device:
    """Return the device; `ValueError` if this machine or this build of torch does not have it.

    "auto" is cuda, else mps, else cpu; "gpu" is cuda.
    """
    if device == "auto":
        device = automatic_device()
    try:
        found = torch.device("cuda" if device == "gpu" else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"\n|\. ", str(error))[0]  # torch goes on with pages on its build
        reason = f"this build of torch has no {found.type}" if isinstance(error, NotImplementedError) else reason
        raise ValueError(f"the device {str(device)!r} cannot be used here ({reason}); cpu always can") from error
    return found


def restore_weights(network: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Load weights strictly; `ValueError` lists missing and unknown keys and wrong shapes."""
    check_fit(network.state_dict(), weights, where=where)
    network.load_state_dict(weights, strict=True)


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
