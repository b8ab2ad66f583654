"""The file format of a resume state, which is written completely or not at all, with checksums."""

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors
from torch import Tensor

from c2fvl.checkpoints.trained_model import parse_tensors, plain_tensors
from c2fvl.files import storage
from c2fvl.files.parsing import parse_json
from c2fvl.files.partial import clear_partial

logger = logging.getLogger(__name__)


NUM_STATES_KEPT = 2
STATE_VERSION = 3


@dataclass
class ResumeState:
    """Everything that a run needs to go on as if it had not stopped."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    """As `Optimizer.state_dict()`."""
    progress: dict[str, Any]
    """JSON values: position, history, best score, sums of the current epoch, gradient scaler."""
    generators: dict[str, Tensor]
    """State of every random generator, by process."""
    average: dict[str, Tensor] | None = None
    """EMA weights."""


def save_state(folder: Path | str, state: ResumeState) -> Path:
    """Write a state as the newest of `folder` and remove all but the newest two; return its path."""
    folder = Path(folder)
    storage.make_folder(folder)
    clear_partial(folder)
    numbers = _numbers(folder)
    path = folder / f"{(numbers[-1] if numbers else 0) + 1:06d}"
    tensors, structure = _flatten(state.optimizer)
    files = {
        "weights.safetensors": to_safetensors(plain_tensors(state.weights)),
        "optimizer.safetensors": to_safetensors(tensors),
        "generators.safetensors": to_safetensors(plain_tensors(state.generators)),
        "state.json": json.dumps(
            {"version": STATE_VERSION, "optimizer": structure, "progress": state.progress}, allow_nan=False
        ).encode(),
    }
    if state.average is not None:
        files["average.safetensors"] = to_safetensors(plain_tensors(state.average))
    storage.write_folder(path, files)
    for number in _numbers(folder)[:-NUM_STATES_KEPT]:
        storage.remove_folder(folder / f"{number:06d}")
    return path


def load_state(folder: Path | str) -> ResumeState:
    """Return the newest undamaged state of `folder`; the log names each newer one that is damaged.

    Raises `FileNotFoundError` if there is no state, `ValueError` if all are damaged.
    """
    folder = Path(folder)
    numbers = _numbers(folder)
    if not numbers:
        raise FileNotFoundError(
            f"{folder} holds no saved state, so the run cannot go on; give another run folder, or start a new run"
        )
    reasons = []
    for number in reversed(numbers):
        path = folder / f"{number:06d}"
        try:
            return _parse_state(storage.read_folder(path), path)
        except ValueError as error:
            reasons.append(str(error))
            logger.warning("a damaged state is skipped, and the one before it is used: %s", error)
    raise ValueError(f"every saved state in {folder} is damaged: {'; '.join(reasons)}")


def _parse_state(files: dict[str, bytes], path: Path) -> ResumeState:
    try:
        content = parse_json(files["state.json"])
        if content["version"] != STATE_VERSION:
            raise ValueError(f"{path} has version {content['version']}; this program reads version {STATE_VERSION}")
        average = files.get("average.safetensors")
        return ResumeState(
            weights=parse_tensors(files["weights.safetensors"], path),
            optimizer=_unflatten(content["optimizer"], parse_tensors(files["optimizer.safetensors"], path)),
            progress=content["progress"],
            generators=parse_tensors(files["generators.safetensors"], path),
            average=None if average is None else parse_tensors(average, path),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a state of this program ({error!r})") from error


def _numbers(folder: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal() and entry.is_dir())
    return []


def _flatten(value: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested dictionaries and lists into tensors and a JSON structure that refers to them.

    JSON turns integer keys into strings, so a dictionary becomes a list of [key, value] pairs.
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
        raise TypeError(f"an optimiser state holds {type(node).__name__}, which cannot be saved")

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
