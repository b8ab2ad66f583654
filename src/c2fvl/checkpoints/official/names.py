"""How the published networks name their weights: our keys → theirs, unused keys, and arguments read off the shapes.

A rule turns the beginning of one of our keys into theirs: `{0}` is the first number that the pattern found, `{+0}`
that number plus one, `{V0}` that number but nothing for 0. If a template ends with a dot, the rest of the key
follows. With several templates, their weights are concatenated along the first axis to make ours.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Rules = tuple[tuple[str, str | tuple[str, ...]], ...]


@dataclass(frozen=True)
class OfficialNames:
    """Names in the published checkpoints of one network."""

    rules: Rules
    dead: re.Pattern[str]
    """Keys that the published network carries but never uses."""
    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    """Arguments of the network, read off the shapes; absent keys are reported later."""

    def translate(self, key: str) -> tuple[str, ...]:
        """Return their key for one of ours, or several keys that are concatenated along the first axis."""
        for pattern, templates in self.rules:
            match = re.match(pattern, key)
            if match is None:
                continue
            slots: dict[str, str] = {}
            for index, found in enumerate(match.groups()):
                slots[str(index)] = found
                if found.isdecimal():
                    slots[f"+{index}"] = str(int(found) + 1)
                    slots[f"V{index}"] = "" if found == "0" else found
            tail = key[match.end() :].replace("convolution.", "conv.")
            several = (templates,) if isinstance(templates, str) else templates
            return tuple(_filled(template, slots) + (tail if template.endswith(".") else "") for template in several)
        raise AssertionError(f"no official name is known of {key}")


def _filled(template: str, slots: Mapping[str, str]) -> str:
    return re.sub(r"\{(.*?)\}", lambda slot: slots[slot[1]], template)


_NOTHING = re.compile(r"(?!)")

_UNET_ENCODER: Rules = (
    (r"encoder\.stem\.", "inc."),
    (r"encoder\.stages\.(\d)\.(\d)\.", "down{+0}.nConvs.{1}."),
    (r"decoders\.(\d)\.convolutions\.(\d)\.", "up{+0}.nConvs.{1}."),
)
"""Shared by all networks that are built around the U-Net."""


def _unet_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read width, channels and classes off the stem and the head."""
    arguments: dict[str, Any] = {}
    stem, head = weights.get("inc.conv.weight"), weights.get("outc.weight")
    if stem is not None and stem.ndim == 4 and stem.numel() and stem.shape[0] % 8 == 0:
        arguments |= {"base_width": stem.shape[0], "in_channels": stem.shape[1]}
    if head is not None and head.ndim == 4 and head.numel():
        arguments["num_classes"] = head.shape[0]
    return arguments


def _image_size(weights: Mapping[str, Tensor], key: str, patch: int) -> dict[str, Any]:
    """Read the size of the image off the number of positions (1, T, C)."""
    position = weights.get(key)
    if position is None or position.ndim != 3 or not position.numel():
        return {}
    return {"image_size": patch * math.isqrt(position.shape[1])}


_TRANSFORMER_BRANCH: Rules = (
    (r"branches\.(\d)\.embedding\.position", "downVit{V0}.embeddings.position_embeddings"),
    (r"branches\.(\d)\.embedding\.projection\.", "downVit{V0}.embeddings.patch_embeddings."),
    (r"branches\.(\d)\.block\.attention_norm\.", "downVit{V0}.Encoder_blocks.0.norm1."),
    (r"branches\.(\d)\.block\.attention\.query_key_value\.", "downVit{V0}.Encoder_blocks.0.attn.qkv."),
    (r"branches\.(\d)\.block\.attention\.projection\.", "downVit{V0}.Encoder_blocks.0.attn.proj."),
    (r"branches\.(\d)\.block\.mlp_norm\.", "downVit{V0}.Encoder_blocks.0.norm2."),
    (r"branches\.(\d)\.block\.mlp\.expand\.", "downVit{V0}.Encoder_blocks.0.mlp.fc1."),
    (r"branches\.(\d)\.block\.mlp\.reduce\.", "downVit{V0}.Encoder_blocks.0.mlp.fc2."),
    (r"branches\.(\d)\.reduction\.", "downVit{V0}.CTBN."),
    (r"reconstructions\.(\d)\.", "reconstruct{+0}."),
)
"""The transformers of C2FVL and of LViT's encoder."""

_C2FVL = OfficialNames(
    rules=(
        *_UNET_ENCODER,
        *_TRANSFORMER_BRANCH,
        (r"decoders\.(\d)\.alignment\.average_convolution\.", "up{+0}.vlab.conv_avg."),
        (r"decoders\.(\d)\.alignment\.average_linear\.", "up{+0}.vlab.linear_avg."),
        (r"decoders\.(\d)\.alignment\.maximum_convolution\.", "up{+0}.vlab.conv_max."),
        (r"decoders\.(\d)\.alignment\.maximum_linear\.", "up{+0}.vlab.linear_max."),
        (r"decoders\.(\d)\.alignment\.bottleneck\.", "up{+0}.vlab.bottleneck."),
        (r"heads\.0\.", "outc."),
        (r"heads\.(\d)\.", "outc{+0}."),
    ),
    dead=re.compile(
        r"upVit[123]?\.|downVit[123]?\.(norm|head|CTBN2|CTBN3)\.|downVit\.CTBN\.|up[1-4]\.vlab\.conv_sig\.|"
        r"vlab[1-4]\.|text_module[1-4]\.|reconstruct_text[1-4]\.|process_text[1-4]\."
    ),
    arguments=lambda weights: (
        _unet_arguments(weights) | _image_size(weights, "downVit.embeddings.position_embeddings", 16)
    ),
)


def _lvit_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    arguments = _unet_arguments(weights) | _image_size(weights, "downVit.embeddings.position_embeddings", 16)
    spread, widest = weights.get("downVit.CTBN3.conv.weight"), weights.get("text_module4.weight")
    for name, values in (("text_tokens", spread), ("text_features", widest)):
        if values is not None and values.ndim == 3 and values.numel():
            arguments[name] = values.shape[1]
    return arguments


_LVIT = OfficialNames(
    rules=(
        *_UNET_ENCODER,
        *_TRANSFORMER_BRANCH,
        (r"return_blocks\.(\d)\.attention_norm\.", "upVit{V0}.Encoder_blocks.0.norm1."),
        (r"return_blocks\.(\d)\.attention\.query_key_value\.", "upVit{V0}.Encoder_blocks.0.attn.qkv."),
        (r"return_blocks\.(\d)\.attention\.projection\.", "upVit{V0}.Encoder_blocks.0.attn.proj."),
        (r"return_blocks\.(\d)\.mlp_norm\.", "upVit{V0}.Encoder_blocks.0.norm2."),
        (r"return_blocks\.(\d)\.mlp\.expand\.", "upVit{V0}.Encoder_blocks.0.mlp.fc1."),
        (r"return_blocks\.(\d)\.mlp\.reduce\.", "upVit{V0}.Encoder_blocks.0.mlp.fc2."),
        (r"return_reductions\.(\d)\.", "upVit{V0}.CTBN2."),
        (r"text\.projections\.(\d)\.", "text_module{+0}."),
        (r"text\.spread\.", "downVit.CTBN3.conv."),
        (r"text\.norm\.", "downVit.CTBN3.norm."),
        (r"decoders\.(\d)\.attention\.average_convolution\.", "up{+0}.pixModule.conv_avg."),
        (r"decoders\.(\d)\.attention\.maximum_convolution\.", "up{+0}.pixModule.conv_max."),
        (r"decoders\.(\d)\.attention\.bottleneck\.", "up{+0}.pixModule.bottleneck."),
        (r"head\.", "outc."),
    ),
    dead=re.compile(
        r"downVit[123]?\.(norm|head|CTBN2)\.|downVit\.CTBN\.|downVit[123]\.CTBN3\.|"
        r"upVit[123]?\.(embeddings|norm|head|CTBN|CTBN3)\.|upVit3\.CTBN2\.|up[1-4]\.pixModule\.conv_sig\.|pix_module[1-4]\."
    ),
    arguments=_lvit_arguments,
)


_UNET = OfficialNames(
    rules=(*_UNET_ENCODER, (r"decoders\.(\d)\.upsample\.", "up{+0}.up."), (r"head\.", "outc.")),
    dead=_NOTHING,
    arguments=_unet_arguments,
)


def _uctransnet_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    layers = {match[1] for key in weights if (match := re.match(r"mtc\.encoder\.layer\.(\d+)\.", key))}
    arguments = _unet_arguments(weights) | _image_size(weights, "mtc.embeddings_1.position_embeddings", 16)
    return arguments | ({"num_layers": len(layers)} if layers else {})


_HEADS = range(4)
_UCTRANSNET = OfficialNames(
    rules=(
        *_UNET_ENCODER,
        (r"embeddings\.(\d)\.position", "mtc.embeddings_{+0}.position_embeddings"),
        (r"embeddings\.(\d)\.projection\.", "mtc.embeddings_{+0}.patch_embeddings."),
        (r"layers\.(\d+)\.attention_norms\.(\d)\.", "mtc.encoder.layer.{0}.attn_norm{+1}."),
        (r"layers\.(\d+)\.joint_norm\.", "mtc.encoder.layer.{0}.attn_norm."),
        (
            r"layers\.(\d+)\.attention\.queries\.(\d)\.",
            tuple(f"mtc.encoder.layer.{{0}}.channel_attn.query{{+1}}.{head}." for head in _HEADS),
        ),
        (
            r"layers\.(\d+)\.attention\.(key|value)\.",
            tuple(f"mtc.encoder.layer.{{0}}.channel_attn.{{1}}.{head}." for head in _HEADS),
        ),
        (r"layers\.(\d+)\.attention\.outputs\.(\d)\.", "mtc.encoder.layer.{0}.channel_attn.out{+1}."),
        (r"layers\.(\d+)\.mlp_norms\.(\d)\.", "mtc.encoder.layer.{0}.ffn_norm{+1}."),
        (r"layers\.(\d+)\.mlps\.(\d)\.expand\.", "mtc.encoder.layer.{0}.ffn{+1}.fc1."),
        (r"layers\.(\d+)\.mlps\.(\d)\.reduce\.", "mtc.encoder.layer.{0}.ffn{+1}.fc2."),
        (r"norms\.(\d)\.", "mtc.encoder.encoder_norm{+0}."),
        (r"reconstructions\.(\d)\.", "mtc.reconstruct_{+0}."),
        (r"decoders\.(\d)\.gate\.from_skip\.", "up{+0}.coatt.mlp_x.1."),
        (r"decoders\.(\d)\.gate\.from_coarse\.", "up{+0}.coatt.mlp_g.1."),
        (r"head\.", "outc."),
    ),
    dead=_NOTHING,
    arguments=_uctransnet_arguments,
)


_EMBEDDINGS, _LAYER = "transformer.embeddings.", "transformer.encoder.layer.{0}."
_UNIT = _EMBEDDINGS + "hybrid_model.body.block{+0}.unit{+1}."


def _transunet_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read encoder, channels, classes and image size off the first layers, the head and the positions."""
    arguments = _image_size(weights, f"{_EMBEDDINGS}position_embeddings", 16)
    first = weights.get(f"{_EMBEDDINGS}hybrid_model.root.conv.weight")
    patches = weights.get(f"{_EMBEDDINGS}patch_embeddings.weight")
    hybrid = any(key.startswith(f"{_EMBEDDINGS}hybrid_model.") for key in weights)
    if not hybrid and patches is not None and patches.shape[2:] == (16, 16):
        arguments["encoder"], first = "vit-b16", patches
    head = weights.get("segmentation_head.0.weight")
    if first is not None and first.ndim == 4 and first.numel():
        arguments["in_channels"] = first.shape[1]
    if head is not None and head.ndim == 4 and head.numel():
        arguments["num_classes"] = head.shape[0]
    return arguments


_TRANSUNET = OfficialNames(
    rules=(
        (r"residual\.stem\.", _EMBEDDINGS + "hybrid_model.root.conv."),
        (r"residual\.stem_norm\.", _EMBEDDINGS + "hybrid_model.root.gn."),
        (r"residual\.stages\.(\d)\.(\d+)\.convolutions\.(\d)\.", _UNIT + "conv{+2}."),
        (r"residual\.stages\.(\d)\.(\d+)\.norms\.(\d)\.", _UNIT + "gn{+2}."),
        (r"residual\.stages\.(\d)\.(\d+)\.shortcut\.", _UNIT + "downsample."),
        (r"residual\.stages\.(\d)\.(\d+)\.shortcut_norm\.", _UNIT + "gn_proj."),
        (r"embedding\.projection\.", _EMBEDDINGS + "patch_embeddings."),
        (r"embedding\.position", _EMBEDDINGS + "position_embeddings"),
        (r"blocks\.(\d+)\.attention_norm\.", _LAYER + "attention_norm."),
        (
            r"blocks\.(\d+)\.attention\.query_key_value\.",
            (_LAYER + "attn.query.", _LAYER + "attn.key.", _LAYER + "attn.value."),
        ),
        (r"blocks\.(\d+)\.attention\.projection\.", _LAYER + "attn.out."),
        (r"blocks\.(\d+)\.mlp_norm\.", _LAYER + "ffn_norm."),
        (r"blocks\.(\d+)\.mlp\.expand\.", _LAYER + "ffn.fc1."),
        (r"blocks\.(\d+)\.mlp\.reduce\.", _LAYER + "ffn.fc2."),
        (r"norm\.", "transformer.encoder.encoder_norm."),
        (r"neck\.convolution\.", "decoder.conv_more.0."),
        (r"neck\.norm\.", "decoder.conv_more.1."),
        (r"decoders\.(\d)\.convolutions\.(\d)\.convolution\.", "decoder.blocks.{0}.conv{+1}.0."),
        (r"decoders\.(\d)\.convolutions\.(\d)\.norm\.", "decoder.blocks.{0}.conv{+1}.1."),
        (r"head\.", "segmentation_head.0."),
    ),
    dead=_NOTHING,
    arguments=_transunet_arguments,
)

_AXIAL_ATTENTION = {
    "query_key_value.": "qkv_transform.",
    "query_key_value_norm.": "bn_qkv.",
    "similarity_norm.": "bn_similarity.",
    "output_norm.": "bn_output.",
    "relative": "relative",
    "gate_query": "f_qr",
    "gate_key": "f_kr",
    "gate_position": "f_sve",
    "gate_value": "f_sv",
}
_AXIAL_BLOCK = {
    "reduce.": "conv_down.",
    "reduce_norm.": "bn1.",
    "expand.": "conv_up.",
    "expand_norm.": "bn2.",
    "shortcut.": "downsample.0.",
    "shortcut_norm.": "downsample.1.",
    **{f"columns.{ours}": f"hight_block.{theirs}" for ours, theirs in _AXIAL_ATTENTION.items()},
    **{f"rows.{ours}": f"width_block.{theirs}" for ours, theirs in _AXIAL_ATTENTION.items()},
}


def _axial_branch(branch: str, suffix: str = "") -> Rules:
    """Return the rules of one branch of the MedT family; `suffix` is what the local branch's names end with."""
    start = re.escape(branch)
    return (
        (rf"{start}\.stem\.(\d)\.convolution\.", f"conv{{+0}}{suffix}."),
        (rf"{start}\.stem\.(\d)\.norm\.", f"bn{{+0}}{suffix}."),
        *(
            (rf"{start}\.stages\.(\d)\.(\d)\.{re.escape(ours)}", f"layer{{+0}}{suffix}.{{1}}.{theirs}")
            for ours, theirs in _AXIAL_BLOCK.items()
        ),
        (rf"{start}\.bottom\.", f"decoder1{suffix}."),
        *((rf"{start}\.decoders\.{step}\.", f"decoder{5 - step}{suffix}.") for step in range(4)),
    )


def _axial_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    stem, head = weights.get("conv1.weight"), weights.get("adjust.weight")
    relative = weights.get("layer1.0.hight_block.relative")
    if stem is not None and stem.ndim == 4 and stem.numel():
        arguments["in_channels"] = stem.shape[1]
    if head is not None and head.ndim == 4 and head.numel():
        arguments["num_classes"] = head.shape[0]
    if relative is not None and relative.ndim == 2 and relative.shape[1] % 32 == 31:
        arguments["image_size"] = relative.shape[1] + 1  # 2K − 1 distances, K half the image
    return arguments


_AXIAL_ONE = OfficialNames(
    rules=(*_axial_branch("branch"), (r"head\.", "adjust.")),
    dead=re.compile(r".*\.flatten_index$"),
    arguments=_axial_arguments,
)
_AXIAL_TWO = OfficialNames(
    rules=(
        *_axial_branch("global_branch"),
        *_axial_branch("local_branch", "_p"),
        (r"fusion\.", "decoderf."),
        (r"head\.", "adjust."),
    ),
    dead=re.compile(r".*\.flatten_index$|adjust_p\.|layer[1-4]_p\.\d\.conv1\."),
    arguments=_axial_arguments,
)

OFFICIAL_NAMES: dict[str, OfficialNames] = {
    "c2fvl": _C2FVL,
    "lvit": _LVIT,
    "unet": _UNET,
    "uctransnet": _UCTRANSNET,
    "transunet": _TRANSUNET,
    "axialunet": _AXIAL_ONE,
    "gatedaxialunet": _AXIAL_ONE,
    "logo": _AXIAL_TWO,
    "medt": _AXIAL_TWO,
}
"""By the name of the network."""
