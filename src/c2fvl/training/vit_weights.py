"""Load Google's ImageNet-21k weights, `R50+ViT-B_16.npz` or `ViT-B_16.npz`, into a TransUNet.

Nothing in such a file can run, and no array is read before its header says that it is what the network expects.
"""

import logging
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.checkpoints.official.names import OfficialNames
from c2fvl.messages import listed
from c2fvl.models.transunet import TransUNet

logger = logging.getLogger(__name__)

SOURCE = "https://storage.googleapis.com/vit_models/imagenet21k/"
MAX_POSITIONS = 2**14 + 1
RANDOM_START = ("neck.", "decoders.", "head.")
"""Parts that have no counterpart in the files and keep their random weights."""

_LAYER = "Transformer/encoderblock_{0}/"
_ATTENTION = _LAYER + "MultiHeadDotProductAttention_1/"

_NAMES = OfficialNames(
    rules=(
        (r"residual\.stem\.(weight)", "conv_root/{0}"),
        (r"residual\.stem_norm\.(weight|bias)", "gn_root/{0}"),
        (r"residual\.stages\.(\d)\.(\d+)\.convolutions\.(\d)\.(weight)", "block{+0}/unit{+1}/conv{+2}/{3}"),
        (r"residual\.stages\.(\d)\.(\d+)\.norms\.(\d)\.(weight|bias)", "block{+0}/unit{+1}/gn{+2}/{3}"),
        (r"residual\.stages\.(\d)\.(\d+)\.shortcut\.(weight)", "block{+0}/unit{+1}/conv_proj/{2}"),
        (r"residual\.stages\.(\d)\.(\d+)\.shortcut_norm\.(weight|bias)", "block{+0}/unit{+1}/gn_proj/{2}"),
        (r"embedding\.projection\.(weight|bias)", "embedding/{0}"),
        (r"embedding\.position", "Transformer/posembed_input/pos_embedding"),
        (r"blocks\.(\d+)\.attention_norm\.(weight|bias)", _LAYER + "LayerNorm_0/{1}"),
        (
            r"blocks\.(\d+)\.attention\.query_key_value\.(weight|bias)",
            (_ATTENTION + "query/{1}", _ATTENTION + "key/{1}", _ATTENTION + "value/{1}"),
        ),
        (r"blocks\.(\d+)\.attention\.projection\.(weight|bias)", _ATTENTION + "out/{1}"),
        (r"blocks\.(\d+)\.mlp_norm\.(weight|bias)", _LAYER + "LayerNorm_2/{1}"),
        (r"blocks\.(\d+)\.mlp\.expand\.(weight|bias)", _LAYER + "MlpBlock_3/Dense_0/{1}"),
        (r"blocks\.(\d+)\.mlp\.reduce\.(weight|bias)", _LAYER + "MlpBlock_3/Dense_1/{1}"),
        (r"norm\.(weight|bias)", "Transformer/encoder_norm/{0}"),
    ),
    dead=re.compile(r"(head|pre_logits)/|cls$"),
    arguments=lambda _: {},
)
"""Our key → the array's name, whose last part `weight` stands for `kernel` or, of a norm, `scale`."""


def start_from_vit(network: nn.Module, path: str | Path) -> int:
    """Copy Google's weights into the encoder and the transformer of a TransUNet; return how many arrays were used.

    The neck, the decoder and the head keep their random weights; arrays of the classifier are skipped. Positions
    of another grid are resized bilinearly, corner to corner, as published. All or nothing: after an error the network
    is as it was. Raises `FileNotFoundError`, or `ValueError` for another network and for a file that is damaged, lacks
    arrays or holds some of a wrong shape or with numbers that are not finite.
    """
    path = Path(path)
    if not isinstance(network, TransUNet):
        raise ValueError(f"{path.name} starts a transunet only; the network is {type(network).__name__}")
    if network.in_channels != 3:
        raise ValueError(
            f"in_channels is {network.in_channels} and the weights of {path.name} are for 3; build the network with "
            "in_channels=3; a grey image is repeated over the channels"
        )
    parameters = {key: parameter for key, parameter in network.named_parameters() if not key.startswith(RANDOM_START)}
    names_of = {key: _names_of(key, parameter) for key, parameter in parameters.items()}
    wanted = {
        name: _shape_in_file(key, _fraction(parameters[key], len(names)), network.num_heads)
        for key, names in names_of.items()
        for name in names
    }
    found = _read(path, wanted)
    wrong = [f"{name}: {fault}" for name, fault in found.faults.items()]
    if found.missing or wrong:
        file = "ViT-B_16.npz" if network.residual is None else "R50+ViT-B_16.npz"
        raise ValueError(
            f"{path} does not fit the network: {len(found.missing)} of {len(wanted)} arrays are missing "
            f"({listed(found.missing)}), {len(wrong)} cannot be used ({listed(wrong)}); expected {file} from "
            f"{SOURCE}, and a network of its widths"
        )
    start = {key: _joined(parameters[key], [found.arrays[name] for name in names]) for key, names in names_of.items()}
    with torch.no_grad():
        for key, values in start.items():
            parameters[key].copy_(values)
    if found.surplus:
        logger.warning("%s: %d arrays are not used by the network: %s", path, len(found.surplus), listed(found.surplus))
    return len(wanted)


def _names_of(key: str, parameter: Tensor) -> tuple[str, ...]:
    """Return the names of the arrays that, joined along the first axis, make one of our parameters."""
    ending = "/kernel" if parameter.ndim > 1 else "/scale"
    return tuple(re.sub("/weight$", ending, name) for name in _NAMES.translate(key))


def _fraction(parameter: Tensor, parts: int) -> tuple[int, ...]:
    return (parameter.shape[0] // parts, *parameter.shape[1:])


def _shape_in_file(key: str, shape: tuple[int, ...], num_heads: int) -> tuple[int, ...]:
    """Return the shape that an array of ours has in the file: inputs before outputs, heads apart.

    That of the positions is the one they need not to be resized.
    """
    heads = (num_heads, shape[0] // num_heads)
    if key == "embedding.position":
        return (1, shape[2] * shape[3], shape[1])
    if ".query_key_value." in key:
        return (*shape[1:], *heads)
    if key.endswith(".attention.projection.weight"):
        return (*heads, shape[0])
    if len(shape) == 4:
        return (*shape[2:], shape[1], shape[0])
    return shape[::-1]


def _joined(parameter: Tensor, arrays: list[np.ndarray]) -> Tensor:
    """Return the arrays in the layout of our parameter."""
    if parameter.ndim == 4 and arrays[0].ndim == 3:
        return _position_map(torch.from_numpy(arrays[0]), parameter.shape[-1])
    shape = _fraction(parameter, len(arrays))
    if parameter.ndim == 4:
        parts = [array.transpose(3, 2, 0, 1) for array in arrays]
    else:
        parts = [array.reshape(shape[::-1]).transpose() for array in arrays]
    return torch.from_numpy(np.concatenate(parts))


def _position_map(tokens: Tensor, side: int) -> Tensor:
    """Return positions (1, T, C), with a class token or without, as a map (1, C, side, side)."""
    if tokens.shape[1] != side * side:
        tokens = tokens[:, 1:]
    grid = math.isqrt(tokens.shape[1])
    position = tokens.transpose(1, 2).unflatten(2, (grid, grid))
    if grid == side:
        return position
    resized = functional.interpolate(position.double(), size=(side, side), mode="bilinear", align_corners=True)
    return resized.to(tokens.dtype)


class _Found(NamedTuple):
    """What a file holds of what is wanted."""

    arrays: dict[str, np.ndarray]
    missing: list[str]
    faults: dict[str, str]
    """By the array's name."""
    surplus: list[str]
    """Neither wanted nor part of the classifier."""


_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, ArithmeticError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What a damaged archive and a damaged header raise."""


def _read(path: Path, wanted: Mapping[str, tuple[int, ...]]) -> _Found:
    """Read the wanted arrays; raise for a file that is none or damaged."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; Google's weights are at {SOURCE}")
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive, wanted)
        except _DAMAGE as error:
            raise ValueError(f"{path} is damaged or no .npz file: {error}; fetch it again from {SOURCE}") from error


def _read_archive(archive: zipfile.ZipFile, wanted: Mapping[str, tuple[int, ...]]) -> _Found:
    stored = [member.removesuffix(".npy") for member in archive.namelist()]
    if len(set(stored)) != len(stored):
        raise ValueError("two arrays share one name")
    arrays: dict[str, np.ndarray] = {}
    faults: dict[str, str] = {}
    for name in sorted(wanted.keys() & set(stored)):
        read = _read_array(archive, name, wanted[name])
        if isinstance(read, str):
            faults[name] = read
        else:
            arrays[name] = read
    surplus = [name for name in stored if name not in wanted and not _NAMES.dead.match(name)]
    return _Found(arrays, sorted(wanted.keys() - set(stored)), faults, surplus)


def _read_array(archive: zipfile.ZipFile, name: str, expected: tuple[int, ...]) -> np.ndarray | str:
    """Return an array of finite 32-bit numbers, or why it cannot be used; its header is read before its numbers."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):  # a later one may ask for a header of any size, which no plain array needs
            return f"written in the version {version} of the format instead of (1, 0)"
        shape, columns_first, kind = np.lib.format.read_array_header_1_0(member)
        if kind != np.dtype("<f4"):
            return f"numbers of the kind {kind} instead of float32"
        if not _fits(name, shape, expected):
            return f"the shape {shape} instead of {expected}"
        size = 4 * math.prod(shape)
        data = member.read(size + 1)  # one more, so that the end is reached and the checksum compared
    if len(data) != size:
        raise ValueError(f"{name} has not the {size} bytes that its header says")
    values = np.frombuffer(data, np.float32).reshape(shape, order="F" if columns_first else "C")
    return values.copy() if np.isfinite(values).all() else "numbers that are not finite"


def _fits(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Tell whether an array can be used: vectors may have axes of one, positions another grid and a class token."""
    if name == "Transformer/posembed_input/pos_embedding" and shape != expected:
        side = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
        return side > 0 and shape == (1, side * side + 1, expected[2]) and shape[1] <= MAX_POSITIONS
    if len(expected) == 1:
        return math.prod(shape) == max((1, *shape)) == expected[0]
    return shape == expected
