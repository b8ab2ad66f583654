"""Model folders and resume states.

A model folder holds `model.safetensors`, `config.toml` and `metrics.json`: all that `load_model` needs; and, once its
probabilities were calibrated, `calibration.json`. A resume state
is a folder of safetensors and JSON with a manifest of checksums; `last/` keeps the newest two of a run, so that one
whole state is there whatever happens to the other. Nothing that is loaded can execute.
"""

import contextlib
import copy
import json
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

from c2fvl import storage
from c2fvl.catalogue import find_entry
from c2fvl.config import Config, to_toml
from c2fvl.familiarity import Familiarity
from c2fvl.findings import checked_trust
from c2fvl.model_folders import (
    CALIBRATION,
    FAMILIARITY,
    METRICS,
    SETTINGS,
    WEIGHTS,
    find_model,
    parse_settings,
    read,
    read_metrics,
)
from c2fvl.models import build_model
from c2fvl.temperature import Scaling, parse_calibration

logger = logging.getLogger(__name__)

NUM_STATES_KEPT = 2
STATE_VERSION = 2


@dataclass(frozen=True)
class TrainedModel:
    """A network with what is needed to use it."""

    network: nn.Module = field(repr=False)
    """In eval mode."""
    config: Config = field(repr=False)
    metrics: dict[str, Any] = field(repr=False)
    path: Path
    calibration: dict[str, Any] | None = field(repr=False, default=None)
    """The content of `calibration.json`; None where the probabilities were never calibrated."""

    familiarity: Familiarity | None = field(repr=False, default=None)
    """What is usual among the films trained on; None where `c2fvl acquaint` never looked at them."""

    @property
    def scaling(self) -> Scaling:
        """Return what makes the network's probabilities calibrated ones; it changes nothing without a calibration."""
        return Scaling.of(self.calibration)

    def with_text_model(self, folder: str) -> "TrainedModel":
        """Return the model with its language model at another place; its content must be the same."""
        data = replace(self.config.data, text_model=folder, text_revision="", text_fetch=False)
        return replace(self, config=replace(self.config, data=data))

    def with_trust(self, trust: float) -> "TrainedModel":
        """Return the model with another trust in reports, its weights shared.

        Raises `ValueError` for a network that does not read the film first, and for a trust outside of 0 … 1.
        """
        if find_entry(self.config.model.name).text != "findings":
            raise ValueError(
                f"the network {self.config.model.name} has no trust in reports to be set; leave the trust out"
            )
        trust = checked_trust(trust)
        network = copy.copy(self.network)
        network.trust = trust  # type: ignore[assignment]
        arguments = {**self.config.model.arguments, "trust": trust}
        config = replace(self.config, model=replace(self.config.model, arguments=arguments))
        return replace(self, network=network, config=config)


def save_model(folder: Path | str, network: nn.Module, config: Config, metrics: Mapping[str, Any]) -> None:
    """Write a model folder. Each file is replaced whole; the checksum in the metrics ties them together."""
    folder = Path(folder)
    weights = to_safetensors(_plain(network.state_dict()))
    storage.write_text(folder / SETTINGS, to_toml(config))
    storage.write_bytes(folder / WEIGHTS, weights)
    storage.write_json(folder / METRICS, {**metrics, "weights_sha256": storage.checksum(weights)})


def load_model(path: Path | str, *, device: str | torch.device = "cpu") -> TrainedModel:
    """Return the network of a model folder, of a run folder's best, or of a trained model's name, on `device`.

    It is in eval mode, and in float32 whatever the numbers in the file. Raises `FileNotFoundError` where no model
    folder is, `ValueError` where its files are damaged or do not belong together. A calibration of other weights is not
    used, and the log says so.
    """
    folder = find_model(path)
    config, metrics = parse_settings(folder), read_metrics(folder)
    data = read(folder / WEIGHTS)
    calibration = read_calibration(folder, data)
    if metrics:
        expected = metrics.get("weights_sha256")
        if expected != storage.checksum(data):
            raise ValueError(
                f"{folder / WEIGHTS} does not match the checksum in {METRICS}: it is damaged, or a run was interrupted "
                f"between the two (resume that run), or it was replaced (then delete {METRICS})"
            )
    weights = _tensors(data, folder / WEIGHTS)
    del data  # so that weights are never there three times
    network = build_model(config.model.name, config.model.arguments)
    restore_weights(network, weights, where=str(folder / WEIGHTS))
    familiarity = read_familiarity(folder)
    return TrainedModel(network.to(check_device(device)).eval(), config, metrics, folder, calibration, familiarity)


def read_calibration(folder: Path, weights: bytes) -> dict[str, Any] | None:
    """Return what `c2fvl calibrate` left in a model folder of these weights; `ValueError` where that is damaged.

    None where nothing is there, or where it was fitted to other weights, which the log says.
    """
    file = folder / CALIBRATION
    if not file.exists():
        return None
    found = parse_calibration(read(file), where=file)
    if found["weights_sha256"] == storage.checksum(weights):
        return found
    logger.warning(
        "%s was fitted to other weights than those beside it and is not used: probabilities are not calibrated until "
        "`c2fvl calibrate` fits it anew",
        file,
    )
    return None


def read_familiarity(folder: Path) -> Familiarity | None:
    """Return what `c2fvl acquaint` left in a model folder, if anything; `ValueError` where that is damaged."""
    file = folder / FAMILIARITY
    return Familiarity.from_bytes(read(file), where=file) if file.exists() else None


def check_device(device: torch.device | str) -> torch.device:
    """Return the device, or raise `ValueError` where this machine or this torch has none of that name."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the device {str(device)!r} cannot be used here ({reason}); cpu always can") from error
    return found


def restore_weights(network: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Load weights strictly; `ValueError` lists what is missing, surplus or of a wrong shape."""
    expected = network.state_dict()
    missing, surplus = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    wrong = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if missing or surplus or wrong:
        raise ValueError(
            f"{where} does not fit its settings: missing {missing[:5]}, surplus {surplus[:5]}, wrong shape {wrong[:5]}"
        )
    network.load_state_dict(weights, strict=True)  # copies, so that half precision becomes the network's float32


@dataclass
class ResumeState:
    """Everything that a run needs to go on as if it had not stopped."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    """As `Optimizer.state_dict()`."""
    progress: dict[str, Any]
    """JSON values: position, history, the best so far, sums of the epoch under way, gradient scaler."""
    generators: dict[str, Tensor]
    """State of every random generator, by process."""
    average: dict[str, Tensor] | None = None
    """Moving average of the weights."""


def save_state(folder: Path | str, state: ResumeState) -> Path:
    """Write a state as the newest of `folder` and remove all but the newest two; return its path."""
    folder = Path(folder)
    storage.make_folder(folder)
    storage.clear_partial(folder)
    numbers = _numbers(folder)
    path = folder / f"{(numbers[-1] if numbers else 0) + 1:06d}"
    tensors, structure = _flatten(state.optimizer)
    files = {
        "weights.safetensors": to_safetensors(_plain(state.weights)),
        "optimizer.safetensors": to_safetensors(tensors),
        "generators.safetensors": to_safetensors(_plain(state.generators)),
        "state.json": json.dumps(
            {"version": STATE_VERSION, "optimizer": structure, "progress": state.progress}, allow_nan=False
        ).encode(),
    }
    if state.average is not None:
        files["average.safetensors"] = to_safetensors(_plain(state.average))
    storage.write_folder(path, files)
    for number in _numbers(folder)[:-NUM_STATES_KEPT]:
        storage.remove_folder(folder / f"{number:06d}")
    return path


def load_state(folder: Path | str) -> ResumeState:
    """Return the newest whole state of `folder`, saying so in the log where a newer one is damaged.

    Raises `FileNotFoundError` where there is none at all, `ValueError` where every one is damaged.
    """
    folder = Path(folder)
    numbers = _numbers(folder)
    if not numbers:
        raise FileNotFoundError(f"{folder} holds no saved state; nothing was saved before the run ended, so start anew")
    reasons = []
    for number in reversed(numbers):
        path = folder / f"{number:06d}"
        try:
            return _parse_state(storage.read_folder(path), path)
        except ValueError as error:
            reasons.append(str(error))
            logger.warning("this state is passed over for the one before it: %s", error)
    raise ValueError(f"every saved state in {folder} is damaged: {'; '.join(reasons)}")


def _parse_state(files: dict[str, bytes], path: Path) -> ResumeState:
    try:
        content = json.loads(files["state.json"])
        if content["version"] != STATE_VERSION:
            raise ValueError(f"{path} is of version {content['version']}; this program reads version {STATE_VERSION}")
        average = files.get("average.safetensors")
        return ResumeState(
            weights=_tensors(files["weights.safetensors"], path),
            optimizer=_unflatten(content["optimizer"], _tensors(files["optimizer.safetensors"], path)),
            progress=content["progress"],
            generators=_tensors(files["generators.safetensors"], path),
            average=None if average is None else _tensors(average, path),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no state of this program ({error!r})") from error


def _numbers(folder: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal() and entry.is_dir())
    return []


def _flatten(value: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a nest of dictionaries and lists into its tensors and a JSON structure that refers to them.

    JSON turns whole-numbered keys into text, so a dictionary becomes a list of [key, value] pairs.
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = f"t{len(tensors)}"
            tensors[name] = node.detach().cpu().contiguous()
            return {"tensor": name}
        if isinstance(node, Mapping):
            return {"map": [[key, walk(item)] for key, item in node.items()]}
        if isinstance(node, list | tuple):
            return {"tuple" if isinstance(node, tuple) else "list": [walk(item) for item in node]}
        if node is None or isinstance(node, bool | int | float | str):
            return {"value": node}
        raise TypeError(f"an optimiser state holds {type(node).__name__}, which has no place in a saved state")

    structure = walk(value)
    return tensors, structure


def _unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    (kind, content), *_ = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "map":
        return {key: _unflatten(item, tensors) for key, item in content}
    if kind == "value":
        return content
    items = [_unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies on the CPU that share no memory, which is what safetensors can hold."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def _tensors(data: bytes, where: Path) -> dict[str, Tensor]:
    try:
        return parse_safetensors(data)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{where} is not a whole safetensors file: {error}") from error
