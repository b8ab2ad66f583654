"""Official checkpoints → networks of this package, strictly.

`official.read_official` reads the authors' file; `from_reference` then asks for an exact match of keys, of shapes and
of kinds of numbers.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from c2fvl.checkpoint import WEIGHTS, save_model
from c2fvl.config import Config, ModelConfig
from c2fvl.models import MODELS, build_model
from c2fvl.official import read_official
from c2fvl.storage import checksum

logger = logging.getLogger(__name__)


def from_reference(name: str, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Return our network `name` in eval mode with the weights of an official checkpoint.

    The `module.` prefix of DataParallel and the counters `total_ops`, `total_params` that a FLOP counter left behind
    are understood; keys that the published network carries but never uses are dropped and named once in the log.
    Raises `ValueError` that lists every key that is missing, unknown or of a wrong shape.
    """
    if name not in REFERENCES:
        raise ValueError(f"no official checkpoints are known of {name!r}; known are: {', '.join(REFERENCES)}")
    arguments, translate, dead_keys = REFERENCES[name]
    weights = _clean(state_dict)
    found = arguments(weights)
    with torch.device("meta"):  # nothing of the size that a file claims is made before all of it is checked
        expected = {translate(key): (key, value) for key, value in build_model(name, found).state_dict().items()}

    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys())
    dead = [key for key in surplus if dead_keys.match(key)]
    unknown = [key for key in surplus if not dead_keys.match(key)]
    if missing or unknown:
        raise ValueError(
            f"this is not a checkpoint of the published {name}: {len(missing)} of its {len(expected)} keys are missing "
            f"({_listed(missing)}), {len(unknown)} are unknown ({_listed(unknown)})"
        )
    ours, wrong = {}, []
    for key, (our_key, like) in expected.items():
        values = weights[key]
        fault = _fault(values, like)
        if fault:
            wrong.append(f"{key}: {fault}")
            continue
        if _is_pointwise(our_key, like, values):
            values = values.reshape(like.shape)
        elif name in _POSITION_GRIDS and our_key.endswith("position_embedding"):
            values = _position_as_grid(values, like)
        if values.shape != like.shape:
            wrong.append(f"{key}: wrong shape {tuple(values.shape)} instead of {tuple(like.shape)}")
        ours[our_key] = values
    if wrong:
        raise ValueError(f"{len(wrong)} weights of the checkpoint cannot be used: {_listed(wrong)}")
    network = build_model(name, found)
    network.load_state_dict(ours, strict=True)
    if dead:
        logger.warning("%d keys that the published %s never uses were left out: %s", len(dead), name, _listed(dead))
    return network.eval()


def official_keys(name: str, network: nn.Module) -> dict[str, str]:
    """Return the official name of every key of our network, ours → theirs."""
    translate = REFERENCES[name][1]
    return {key: translate(key) for key in network.state_dict()}


def convert(file: Path | str, out: Path | str, *, name: str, config: Config) -> nn.Module:
    """Read an official checkpoint of `name`, write it as the model folder `out` and return the network.

    `config` gives the settings of data it was trained with, such as the preset c2fvl_qata_paper. Raises `ValueError`
    and `FileNotFoundError` as `read_official` and `from_reference` do, and `FileExistsError` for a model folder that
    is there already; then nothing is written.
    """
    if (Path(out) / WEIGHTS).exists():
        raise FileExistsError(f"{out} holds a model already and nothing is overwritten; name another folder")
    weights = read_official(file)
    network = from_reference(name, weights)
    arguments = REFERENCES[name][0](_clean(weights))
    image_size = arguments.get("image_size", config.data.image_size)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=image_size),
        model=ModelConfig(name=name, arguments=arguments),
    )
    save_model(out, network, config, {"source": Path(file).name, "source_sha256": checksum(Path(file).read_bytes())})
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


def _listed(items: list[str], most: int = 12) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return (", ".join(items[:most]) or "none") + more


def _fault(values: Tensor, like: Tensor) -> str | None:
    """Return what keeps a weight from being used: its layout, its kind of number, or numbers that are none."""
    if values.layout != torch.strided or values.is_meta:
        return "no dense tensor"
    if like.dtype.is_floating_point != values.dtype.is_floating_point or values.dtype.is_complex:
        return f"{values.dtype} instead of {like.dtype}"
    if not torch.isfinite(values.to(like.dtype)).all():
        return "not finite"
    return None


def _is_pointwise(key: str, ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether a Linear of theirs stands where ours is a 1×1 convolution."""
    return key.endswith("weight") and ours.ndim == 4 and ours.shape[2:] == (1, 1) and ours.shape[:2] == theirs.shape


def _position_as_grid(values: Tensor, like: Tensor) -> Tensor:
    """Turn their tokens (1, T, C) into our grid (1, C, h, w); the shape is checked by the caller."""
    side = math.isqrt(values.shape[1]) if values.ndim == 3 else 0
    if not side or side * side != values.shape[1]:
        return values
    return values.transpose(1, 2).reshape(1, -1, side, side)


_POSITION_GRIDS = {"c2fvl"}
_C2FVL_RULES: list[tuple[str, str]] = [
    (r"encoder\.stem\.", "inc."),
    (r"encoder\.stages\.(\d)\.(\d)\.", "down{+0}.nConvs.{1}."),
    (r"branches\.(\d)\.position_embedding", "{V0}.embeddings.position_embeddings"),
    (r"branches\.(\d)\.patch_embedding\.", "{V0}.embeddings.patch_embeddings."),
    (r"branches\.(\d)\.attention_norm\.", "{V0}.Encoder_blocks.0.norm1."),
    (r"branches\.(\d)\.attention\.query_key_value\.", "{V0}.Encoder_blocks.0.attn.qkv."),
    (r"branches\.(\d)\.attention\.projection\.", "{V0}.Encoder_blocks.0.attn.proj."),
    (r"branches\.(\d)\.mlp_norm\.", "{V0}.Encoder_blocks.0.norm2."),
    (r"branches\.(\d)\.mlp\.expand\.", "{V0}.Encoder_blocks.0.mlp.fc1."),
    (r"branches\.(\d)\.mlp\.reduce\.", "{V0}.Encoder_blocks.0.mlp.fc2."),
    (r"branches\.(\d)\.reduction\.", "{V0}.CTBN."),
    (r"reconstructions\.(\d)\.", "reconstruct{+0}."),
    (r"decoders\.(\d)\.alignment\.average_convolution\.", "up{+0}.vlab.conv_avg."),
    (r"decoders\.(\d)\.alignment\.average_linear\.", "up{+0}.vlab.linear_avg."),
    (r"decoders\.(\d)\.alignment\.maximum_convolution\.", "up{+0}.vlab.conv_max."),
    (r"decoders\.(\d)\.alignment\.maximum_linear\.", "up{+0}.vlab.linear_max."),
    (r"decoders\.(\d)\.alignment\.bottleneck\.", "up{+0}.vlab.bottleneck."),
    (r"decoders\.(\d)\.convolutions\.(\d)\.", "up{+0}.nConvs.{1}."),
    (r"heads\.0\.", "outc."),
    (r"heads\.(\d)\.", "outc{+0}."),
]
"""Our names → theirs; {+0} is the first number plus one, {V0} the name of the transformer of that scale."""


def _c2fvl_key(key: str) -> str:
    for pattern, template in _C2FVL_RULES:
        match = re.match(pattern, key)
        if match is None:
            continue
        numbers = match.groups()
        values = {f"+{i}": str(int(number) + 1) for i, number in enumerate(numbers)}
        values |= {str(i): number for i, number in enumerate(numbers)}
        values |= {f"V{i}": f"downVit{number if number != '0' else ''}" for i, number in enumerate(numbers)}
        head = re.sub(r"\{(.*?)\}", lambda slot, values=values: values[slot[1]], template)  # type: ignore[misc]
        tail = key[match.end() :].replace("convolution.", "conv.") if template.endswith(".") else ""
        return head + tail
    raise AssertionError(f"no official name is known of {key}")


_C2FVL_DEAD = re.compile(
    r"upVit[123]?\.|downVit[123]?\.(norm|head|CTBN2|CTBN3)\.|downVit\.CTBN\.|up[1-4]\.vlab\.conv_sig\.|vlab[1-4]\.|"
    r"text_module[1-4]\.|reconstruct_text[1-4]\.|process_text[1-4]\."
)


def _c2fvl_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read width, channels, classes and size off the weights; what is absent is reported as a missing key later."""
    arguments: dict[str, Any] = {}
    stem, head = weights.get("inc.conv.weight"), weights.get("outc.weight")
    position = weights.get("downVit.embeddings.position_embeddings")
    if stem is not None and stem.ndim == 4 and stem.numel() and stem.shape[0] % 8 == 0:
        arguments |= {"base_width": stem.shape[0], "in_channels": stem.shape[1]}
    if head is not None and head.ndim == 4 and head.numel():
        arguments["num_classes"] = head.shape[0]
    if position is not None and position.ndim == 3 and position.numel():
        arguments["image_size"] = 16 * math.isqrt(position.shape[1])
    return arguments


REFERENCES: dict[str, tuple[Callable[[Mapping[str, Tensor]], dict[str, Any]], Callable[[str], str], re.Pattern[str]]]
REFERENCES = {"c2fvl": (_c2fvl_arguments, _c2fvl_key, _C2FVL_DEAD)}
"""Per network: its arguments read off the weights, our key → theirs, and the keys that theirs carries in vain."""

assert REFERENCES.keys() <= MODELS.keys()
