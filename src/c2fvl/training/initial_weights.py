"""What a network starts from in place of random weights: a model trained here, or published weights of photographs."""

import logging
import pickle
from pathlib import Path

import torch
from torch import nn

from c2fvl.checkpoints.folders import WEIGHTS, find_model
from c2fvl.checkpoints.trained_model import load_model, restore_weights
from c2fvl.config import InitConfig
from c2fvl.files import storage
from c2fvl.models.layers.efficient import EfficientEncoder, stages_of
from c2fvl.training.vit_weights import start_from_vit

logger = logging.getLogger(__name__)

HEADS = {"c2fvl": "heads.0.", "lvit": "head.", "uctransnet": "head."}
"""Networks built around the U-Net, and the name of their head."""


def start_from(network: nn.Module, name: str, config: InitConfig) -> dict[str, str] | None:
    """Give `network` the weights that the settings name; without any, it keeps its own.

    Returns what they were: the `setting` with its value, and the `sha256` of the file; None without any.

    Raises `ValueError` and `FileNotFoundError` for weights that do not fit, and then changes nothing.
    """
    named = [name for name, value in vars(config).items() if value]
    if len(named) > 1:
        raise ValueError(f"init.{' and init.'.join(named)} are both set; a network can start from one of them")
    if config.model:
        count = start_from_model(network, name, config.model)
        logger.info("%d weights are those of %s", count, config.model)
    if config.unet:
        count = start_from_unet(network, name, config.unet)
        logger.info("%d weights are those of the U-Net %s", count, config.unet)
    if config.efficientnet_lite:
        count = start_from_efficientnet_lite(network, config.efficientnet_lite)
        logger.info("%d weights are those of %s", count, config.efficientnet_lite)
    if config.vit_npz:
        count = start_from_vit(network, config.vit_npz)
        logger.info("%d weights are those of %s", count, config.vit_npz)
    if not named:
        return None
    (setting,) = named
    value = str(getattr(config, setting))
    file = find_model(value) / WEIGHTS if setting in ("model", "unet") else Path(value)
    return {"setting": f"init.{setting}={value}", "sha256": storage.checksum(file.read_bytes())}


def start_from_model(network: nn.Module, name: str, path: str | Path) -> int:
    """Give `network` all the weights of a trained model of its kind; return how many.

    Raises `ValueError` where that is another network, one of other arguments, or one whose words belong to its own
    training captions, and then changes nothing.
    """
    model = load_model(path)
    if model.config.model.name != name:
        raise ValueError(f"init.model={path} holds the network {model.config.model.name!r}; expected is {name}")
    if model.config.data.vocabulary:
        raise ValueError(
            f"init.model={path} reads words by a vocabulary of its own, which another training does not have"
        )
    weights = model.network.state_dict()
    restore_weights(network, weights, where=f"init.model={path}")
    return len(weights)


def start_from_unet(network: nn.Module, name: str, folder: str | Path) -> int:
    """Copy encoder, decoder and head of a U-Net's model folder into a network built around it; return how many weights.

    The U-Net joins [enlarged map, skip], the others [skip, enlarged map], so the halves of the first convolution of
    each step are exchanged; the authors' own transfer leaves them as they are. Raises `ValueError` where the folder
    holds another network or one of another width, and then changes nothing.
    """
    if name not in HEADS:
        raise ValueError(f"init.unet is for {', '.join(HEADS)}, which are built around the U-Net; {name} is not")
    model = load_model(folder)
    if model.config.model.name != "unet":
        raise ValueError(f"init.unet={folder} holds the network {model.config.model.name!r}; expected is a unet")
    copied, wrong = {}, []
    expected = network.state_dict()
    for key, value in model.network.state_dict().items():
        if ".upsample." in key:  # the learned upsampling has no counterpart
            continue
        ours = key.replace("head.", HEADS[name], 1) if key.startswith("head.") else key
        if expected[ours].shape != value.shape:
            wrong.append(f"{ours} {tuple(value.shape)} instead of {tuple(expected[ours].shape)}")
        is_join = key.startswith("decoders.") and key.endswith("convolutions.0.convolution.weight")
        copied[ours] = torch.cat(tuple(reversed(value.chunk(2, dim=1))), dim=1) if is_join else value
    if wrong:
        raise ValueError(
            f"the U-Net in init.unet={folder} does not fit: {len(wrong)} weights differ in shape ({wrong[0]}); train "
            "it with the same base_width, in_channels and num_classes"
        )
    network.load_state_dict(expected | copied)
    return len(copied)


def start_from_efficientnet_lite(network: nn.Module, path: str | Path) -> int:
    """Give the encoder of a FilmFirst the weights of its EfficientNet-Lite in a file of PyTorch; return how many.

    The file is a dictionary of tensors by the names of the package `efficientnet_lite_pytorch`; nothing in it is
    executed. Raises `ValueError` for another network or another file, and then changes nothing.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, EfficientEncoder):
        raise ValueError("init.efficientnet_lite is for filmfirst with the encoder lite0, lite1 or lite2 only")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no file of weights that can be loaded safely: {error}") from error
    blocks = [
        (stage, place) for stage, (*_, blocks) in enumerate(stages_of(encoder.variant)) for place in range(blocks)
    ]
    names = {"stem.": "_conv_stem.", "stem_norm.": "_bn0."}
    for number, (stage, place) in enumerate(blocks):
        ours, theirs = f"stages.{stage}.{place}", f"_blocks.{number}"
        names |= {f"{ours}.{name}.": f"{theirs}.{other}." for name, other in _BLOCK_NAMES.items()}
    expected = encoder.state_dict()
    prefixes = {key: key.rpartition(".")[0] + "." for key in expected}
    copied = {}
    for key, value in expected.items():
        theirs = names[prefixes[key]] + key.removeprefix(prefixes[key])
        if not isinstance(found, dict) or getattr(found.get(theirs), "shape", None) != value.shape:
            raise ValueError(
                f"{path} is not EfficientNet-Lite{encoder.variant}: it holds no {theirs} of the shape "
                f"{tuple(value.shape)}"
            )
        copied[key] = found[theirs]
    encoder.load_state_dict(copied)
    return len(copied)


_BLOCK_NAMES = {
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}
"""Parts of a block, ours and those of `efficientnet_lite_pytorch`."""
