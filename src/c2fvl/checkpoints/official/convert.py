"""Checkpoints of the published networks → networks of this package, with an exact match of keys, shapes and types."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from c2fvl.checkpoints.foreign import read_checkpoint
from c2fvl.checkpoints.official.names import OFFICIAL_NAMES
from c2fvl.checkpoints.trained_model import save_model
from c2fvl.checkpoints.weights import weight_fault
from c2fvl.config import Config, ModelConfig
from c2fvl.files.storage import check_new_folder, checksum, new_folder
from c2fvl.messages import listed
from c2fvl.models import build_model
from c2fvl.models.text_input import text_kind

logger = logging.getLogger(__name__)


def from_reference(name: str, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Return our network `name` in eval mode with the weights of an official checkpoint.

    The `module.` prefix of DataParallel and the counters `total_ops`, `total_params` that a FLOP counter left behind
    are understood; keys that the published network carries but never uses are dropped and named once in the log.
    Raises `ValueError` that lists every key that is missing, unknown or of a wrong shape.
    """
    if name not in OFFICIAL_NAMES:
        raise ValueError(f"no official checkpoints are known of {name!r}; known are: {', '.join(OFFICIAL_NAMES)}")
    names = OFFICIAL_NAMES[name]
    weights = _clean(state_dict)
    found = names.arguments(weights)
    with torch.device("meta"):  # nothing of the size that a file claims is made before all of it is checked
        expected = {key: (names.translate(key), value) for key, value in build_model(name, found).state_dict().items()}

    live = {their_key for their_keys, _ in expected.values() for their_key in their_keys}
    missing = sorted(live - weights.keys())
    surplus = sorted(weights.keys() - live)
    dead = [key for key in surplus if names.dead.match(key)]
    unknown = [key for key in surplus if not names.dead.match(key)]
    if missing or unknown:
        raise ValueError(
            f"this is not a checkpoint of the published {name}: {len(missing)} of its {len(live)} keys are missing "
            f"({listed(missing)}), {len(unknown)} are unknown ({listed(unknown)})"
        )
    ours, wrong = {}, []
    for our_key, (their_keys, like) in expected.items():
        faults = [f"{key} {fault}" for key in their_keys if (fault := weight_fault(weights[key], like))]
        if faults:
            wrong += faults
            continue
        parts = [_shaped(our_key, weights[key], like, len(their_keys)) for key in their_keys]
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        if {part.shape for part in parts} == {_fraction(like.shape, len(parts))}:
            ours[our_key] = parts[0] if len(parts) == 1 else torch.cat(parts)
        else:
            wrong.append(f"{', '.join(their_keys)}: wrong shape {shapes} for {tuple(like.shape)}")
    if wrong:
        raise ValueError(f"{len(wrong)} weights of the checkpoint cannot be used: {listed(wrong)}")
    network = build_model(name, found)
    network.load_state_dict(ours, strict=True)
    if dead:
        logger.warning("%d keys that the published %s never uses were left out: %s", len(dead), name, listed(dead))
    return network.eval()


def official_keys(name: str, network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the official names of every key of our network; several are joined along the first axis."""
    return {key: OFFICIAL_NAMES[name].translate(key) for key in network.state_dict()}


def convert(file: Path | str, out: Path | str, *, name: str, config: Config) -> nn.Module:
    """Read an official checkpoint of `name`, write it as the model folder `out` and return the network.

    `config` gives the settings of data it was trained with, such as the preset c2fvl_qata_paper. The folder is written
    whole or not at all. Raises `ValueError` and `FileNotFoundError` as `read_checkpoint` and `from_reference` do, and
    `FileExistsError` for a folder that is there already and not empty; then nothing is written.
    """
    check_new_folder(out)
    weights = read_checkpoint(file)
    network = from_reference(name, weights)
    arguments = OFFICIAL_NAMES[name].arguments(_clean(weights))
    config = dataclasses.replace(config, model=ModelConfig(name=name, arguments=arguments))
    data = dataclasses.replace(
        config.data,
        text=text_kind(config),
        image_size=arguments.get("image_size", config.data.image_size),
        text_tokens=arguments.get("text_tokens", config.data.text_tokens),
        mask="labels" if arguments.get("num_classes", 1) > 2 else config.data.mask,
    )
    config = dataclasses.replace(config, data=data)
    source = {"source": Path(file).name, "source_sha256": checksum(Path(file).read_bytes())}
    with new_folder(out) as folder:
        save_model(folder, network, config, source)
    return network


def _clean(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the `module.` prefix of DataParallel and without a FLOP counter's buffers."""
    counters = ("total_ops", "total_params")
    weights: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        plain = key.removeprefix("module.")
        if plain.rsplit(".", 1)[-1] in counters:
            continue
        if plain in weights:
            raise ValueError(f"the checkpoint holds {plain!r} twice, once with the prefix 'module.'")
        weights[plain] = value
    return weights


def _fraction(shape: torch.Size, parts: int) -> torch.Size:
    """Return the shape of one of `parts` equal parts along the first axis."""
    return torch.Size((shape[0] // parts, *shape[1:])) if parts > 1 else shape


def _shaped(key: str, values: Tensor, like: Tensor, parts: int) -> Tensor:
    """Return their values in our layout where only the layout differs; what then still differs is reported.

    A linear layer and a convolution of one pixel or one position have the same weights. Positions that they keep as
    tokens (1, T, C) are a map (1, C, h, w) here.
    """
    if key.endswith("weight") and min(like.ndim, values.ndim) >= 2:
        fraction = _fraction(like.shape, parts)
        if values.shape[:2] == fraction[:2] and not any(side != 1 for side in (*fraction[2:], *values.shape[2:])):
            return values.reshape(fraction)
    side = math.isqrt(values.shape[1]) if values.ndim == 3 else 0
    if key.endswith("position") and like.ndim == 4 and side and side * side == values.shape[1]:
        return values.transpose(1, 2).reshape(1, -1, side, side)
    return values
