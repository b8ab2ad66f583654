"""Google's ImageNet-21k weights of a vision transformer, `R50+ViT-B_16.npz` or `ViT-B_16.npz` → TransUNet.

Everything in the file that the network needs is checked before the network is changed; nothing in it can execute.
"""

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.transunet import TransUNet

Values = Mapping[str, np.ndarray]


def start_from_vit(network: nn.Module, path: str | Path) -> int:
    """Copy the encoder's weights into a TransUNet and return how many arrays were used.

    Decoder and head keep what they have; the classifier in the file is passed over. Kernels are transposed from
    (height, width, in, out), and positions brought to the network's grid. Raises `FileNotFoundError`, or `ValueError`
    that lists what is missing or does not fit; then the network is as it was.
    """
    if not isinstance(network, TransUNet):
        raise ValueError(f"Google's weights are for transunet; this network is a {type(network).__name__}")
    path = Path(path)
    wanted = _wanted(network)
    needed = sorted({name for names, _ in wanted.values() for name in names})
    arrays = _read(path, needed)
    expected = network.state_dict()
    found, wrong = {}, []
    for key, (names, convert) in wanted.items():
        try:
            values = convert([torch.from_numpy(arrays[name].astype(np.float32)) for name in names], expected[key])
        except (RuntimeError, ValueError, IndexError) as error:
            wrong.append(f"{', '.join(names)}: {str(error).splitlines()[0]}")
            continue
        if values.shape != expected[key].shape:
            wrong.append(f"{', '.join(names)}: {tuple(values.shape)} instead of {tuple(expected[key].shape)}")
        elif not torch.isfinite(values).all():
            wrong.append(f"{', '.join(names)}: not finite")
        found[key] = values
    if wrong:
        raise ValueError(
            f"{path} does not fit this transunet: {len(wrong)} of {len(wanted)} weights cannot be used: "
            + "; ".join(wrong[:8])
        )
    network.load_state_dict(expected | found)
    return len(needed)


def _read(path: Path, needed: list[str]) -> dict[str, np.ndarray]:
    """Return the needed arrays of the file; one with Python objects in it is refused."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected is Google's R50+ViT-B_16.npz or ViT-B_16.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not several by name")
            missing = [name for name in needed if name not in file.files]
            if missing:
                raise ValueError(
                    f"{len(missing)} of the {len(needed)} arrays that this network needs are missing: "
                    f"{', '.join(missing[:8])}; R50+ViT-B_16.npz is for encoder=r50-vit-b16, ViT-B_16.npz for vit-b16"
                )
            arrays = {name: file[name] for name in needed}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"{path} cannot be used as Google's weights: {error}") from error
    strange = [name for name, values in arrays.items() if values.dtype.kind != "f"]
    if strange:
        raise ValueError(f"{path}: {strange[0]} holds {arrays[strange[0]].dtype}; expected are floating-point numbers")
    return arrays


Convert = Callable[[list[Tensor], Tensor], Tensor]


def _wanted(network: TransUNet) -> dict[str, tuple[list[str], Convert]]:
    """Return for each of our keys the names of the arrays it is made of, and how."""
    wanted: dict[str, tuple[list[str], Convert]] = {}

    def put(ours: str, theirs: str, kernel: Convert, *, bias: bool = True) -> None:
        wanted[f"{ours}.weight"] = ([f"{theirs}/kernel"], kernel)
        if bias:
            wanted[f"{ours}.bias"] = ([f"{theirs}/bias"], _flat)

    def put_norm(ours: str, theirs: str) -> None:
        wanted[f"{ours}.weight"] = ([f"{theirs}/scale"], _flat)
        wanted[f"{ours}.bias"] = ([f"{theirs}/bias"], _flat)

    if network.resnet is not None:
        put("resnet.root", "conv_root", _kernel, bias=False)
        put_norm("resnet.root_norm", "gn_root")
        for number, stage in enumerate(network.resnet.stages):
            assert isinstance(stage, nn.Sequential)
            for place, unit in enumerate(stage):
                ours, theirs = f"resnet.stages.{number}.{place}", f"block{number + 1}/unit{place + 1}"
                for layer in range(3):
                    put(f"{ours}.convolutions.{layer}", f"{theirs}/conv{layer + 1}", _kernel, bias=False)
                    put_norm(f"{ours}.norms.{layer}", f"{theirs}/gn{layer + 1}")
                if unit.shortcut is not None:
                    put(f"{ours}.shortcut", f"{theirs}/conv_proj", _kernel, bias=False)
                    put_norm(f"{ours}.shortcut_norm", f"{theirs}/gn_proj")
    put("embedding.projection", "embedding", _kernel)
    wanted["embedding.position"] = (["Transformer/posembed_input/pos_embedding"], _position)
    for number in range(len(network.layers)):
        ours, theirs = f"layers.{number}", f"Transformer/encoderblock_{number}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        parts = ("query", "key", "value")
        wanted[f"{ours}.attention.query_key_value.weight"] = (
            [f"{attention}/{part}/kernel" for part in parts],
            _to_heads,
        )
        wanted[f"{ours}.attention.query_key_value.bias"] = ([f"{attention}/{part}/bias" for part in parts], _flat)
        put(f"{ours}.attention.projection", f"{attention}/out", _from_heads)
        put(f"{ours}.mlp.expand", f"{theirs}/MlpBlock_3/Dense_0", _dense)
        put(f"{ours}.mlp.reduce", f"{theirs}/MlpBlock_3/Dense_1", _dense)
        put_norm(f"{ours}.attention_norm", f"{theirs}/LayerNorm_0")
        put_norm(f"{ours}.mlp_norm", f"{theirs}/LayerNorm_2")
    put_norm("norm", "Transformer/encoder_norm")
    return wanted


def _flat(values: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in values])


def _kernel(values: list[Tensor], like: Tensor) -> Tensor:
    return values[0].permute(3, 2, 0, 1)


def _dense(values: list[Tensor], like: Tensor) -> Tensor:
    return values[0].permute(1, 0)


def _to_heads(values: list[Tensor], like: Tensor) -> Tensor:
    """(C, heads, C / heads) each → (3 C, C)."""
    return torch.cat([part.flatten(1).permute(1, 0) for part in values])


def _from_heads(values: list[Tensor], like: Tensor) -> Tensor:
    """(heads, C / heads, C) → (C, C)."""
    return values[0].flatten(0, 1).permute(1, 0)


def _position(values: list[Tensor], like: Tensor) -> Tensor:
    """Return the positions (1, T, C), of which the first may be the classifier's, as a map (1, C, h, w).

    Another grid is reached by linear interpolation between the corners, which stay where they are.
    """
    stored, (height, width) = values[0], like.shape[-2:]
    if stored.shape[1] != height * width:
        stored = stored[:, 1:]
    side = math.isqrt(stored.shape[1])
    if not side or side * side != stored.shape[1]:
        raise ValueError(f"{stored.shape[1]} positions are no square grid")
    grid = stored.transpose(1, 2).unflatten(2, (side, side))
    if (side, side) == (height, width):
        return grid
    return functional.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)
