"""Trained models to share: half the size, and without paths of the machine that trained them."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from c2fvl.checkpoints.folders import CARD, SETTINGS, TRUST_CURVE, WEIGHTS, portable
from c2fvl.checkpoints.model_files import ModelFiles, write_files
from c2fvl.checkpoints.small_files import read_small_files, small_files_as_bytes
from c2fvl.checkpoints.trained_model import TrainedModel, load_model
from c2fvl.config_files import to_toml
from c2fvl.files import storage

_ABSOLUTE = re.compile(r"(?<![\w:/.~])~?/(?:[\w.+@-]+/)+([\w.+@-]*)")
"""An absolute path in a card, but no web address."""


@dataclass(frozen=True)
class Packed:
    """A packed model folder."""

    folder: Path
    num_bytes: int
    """Size of the weights."""
    largest_difference: float
    """Largest change of a weight by rounding to half precision."""
    tensor: str
    """Name of the tensor with this weight."""
    has_calibration: bool
    has_card: bool


def pack(model: Path | str, out: Path | str) -> Packed:
    """Write a trained model as a new model folder with weights in float16 and without paths of this machine.

    `model` is a model folder, a run folder or a name. Settings lose their folders. Scores, calibration,
    trust and OOD check are carried over to the new weights. Of absolute paths in the card the last name remains.
    A tensor with a number beyond the range of float16 stays as it is. Raises `FileNotFoundError` where there is no
    model, `FileExistsError` where `out` exists, and `ValueError` for weights that are damaged or not finite.
    """
    trained = load_model(model)
    model_files = ModelFiles(trained.path)
    files = read_small_files(model_files, storage.checksum(model_files.need(WEIGHTS)))
    files.require(TRUST_CURVE)
    weights = {name: value.detach().cpu().contiguous() for name, value in trained.network.state_dict().items()}
    halves = {name: _half(value) for name, value in weights.items()}
    differences = {
        name: float((value.double() - halves[name].double()).abs().max())
        for name, value in weights.items()
        if value.is_floating_point() and value.numel()
    }
    tensor = max(differences, key=lambda name: differences[name])
    data = to_safetensors(halves)
    checksum = storage.checksum(data)
    card = _card(trained, checksum)
    written = {
        WEIGHTS: data,
        SETTINGS: to_toml(portable(trained.config)).encode(),
        **small_files_as_bytes(files, checksum),
        **({} if card is None else {CARD: card.encode()}),
    }
    with storage.new_folder(out) as folder:
        write_files(folder, written)
    return Packed(Path(out), len(data), differences[tensor], tensor, trained.calibration is not None, card is not None)


def _half(value: Tensor) -> Tensor:
    """Return floating-point numbers in float16 if all are in its range, as a running variance may not be."""
    half = value.to(torch.float16)
    return half if value.is_floating_point() and torch.isfinite(half).all() else value


def _card(model: TrainedModel, checksum: str) -> str | None:
    """Return the card with the checksum of the new weights; None without a card."""
    file = model.path / CARD
    if not file.is_file():
        return None
    text = _ABSOLUTE.sub(r"\1", file.read_text(encoding="utf-8", errors="replace"))
    old = model.metrics.get("weights_sha256")
    return text.replace(old, checksum) if old else text
