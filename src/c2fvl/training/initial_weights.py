"""The weights that a network starts from in place of random ones: a model trained here, or published weights."""

import logging
from pathlib import Path

import torch
from torch import nn

from c2fvl.checkpoints.folders import WEIGHTS, find_model
from c2fvl.checkpoints.foreign import read_checkpoint
from c2fvl.checkpoints.trained_model import load_model, restore_weights
from c2fvl.checkpoints.weights import weight_fault
from c2fvl.config import InitConfig
from c2fvl.files import storage
from c2fvl.models.layers.efficient import EfficientEncoder
from c2fvl.models.registry import NETWORKS
from c2fvl.training.vit_weights import start_from_vit

logger = logging.getLogger(__name__)


def start_from(network: nn.Module, name: str, config: InitConfig) -> dict[str, str] | None:
    """Give `network` the weights that the settings name; without any, it keeps its own.

    Returns the `setting` with its value, and the `sha256` of the file; None without any. Raises `ValueError` and
    `FileNotFoundError` for weights that do not fit, and then changes nothing.
    """
    given = {setting: value for setting, value in vars(config).items() if value}
    if len(given) > 1:
        raise ValueError(f"init.{' and init.'.join(given)} are both set; a network can start from one of them")
    if not given:
        return None
    ((setting, value),) = given.items()
    if setting == "model":
        count = start_from_model(network, name, value)
    elif setting == "unet":
        count = start_from_unet(network, name, value)
    elif setting == "efficientnet_lite":
        count = start_from_efficientnet_lite(network, value)
    else:
        count = start_from_vit(network, value)
    logger.info("%d weights are those of init.%s=%s", count, setting, value)
    file = find_model(value) / WEIGHTS if setting in ("model", "unet") else Path(value)
    return {"setting": f"init.{setting}={value}", "sha256": storage.checksum(file.read_bytes())}


def start_from_model(network: nn.Module, name: str, path: str | Path) -> int:
    """Give `network` all weights of a trained model of the same network. Returns how many.

    Raises `ValueError` for another network, for other arguments, and for a model whose vocabulary belongs to its own
    training captions; then nothing is changed.
    """
    model = load_model(path)
    if model.config.model.name != name:
        raise ValueError(f"init.model={path} holds the network {model.config.model.name!r}; expected {name}")
    if model.config.data.vocabulary:
        raise ValueError(f"init.model={path} reads words by a vocabulary of its own, which another training lacks")
    weights = model.network.state_dict()
    restore_weights(network, weights, where=f"init.model={path}")
    return len(weights)


def start_from_unet(network: nn.Module, name: str, folder: str | Path) -> int:
    """Copy encoder, decoder and head of a trained U-Net into a network built around it. Returns how many weights.

    The U-Net concatenates [upsampled, skip], the others [skip, upsampled], so the halves of the first convolution of
    each decoder are exchanged; the authors' own transfer does not do that. Raises `ValueError` where the folder holds
    another network or one of another width, and then changes nothing.
    """
    head = getattr(network, "UNET_HEAD", None)
    if not isinstance(head, str):
        fitting = [known for known, entry in NETWORKS.items() if "init.unet" in entry.starts_from]
        raise ValueError(f"init.unet is for {', '.join(fitting)}, which are built around the U-Net; {name} is not")
    model = load_model(folder)
    if model.config.model.name != "unet":
        raise ValueError(f"init.unet={folder} holds the network {model.config.model.name!r}; expected unet")
    copied, wrong = {}, []
    expected = network.state_dict()
    for key, value in model.network.state_dict().items():
        if ".upsample." in key:  # the learned upsampling has no counterpart
            continue
        ours = key.replace("head.", head, 1) if key.startswith("head.") else key
        if expected[ours].shape != value.shape:
            wrong.append(f"{ours} {tuple(value.shape)} instead of {tuple(expected[ours].shape)}")
        is_fusion = key.startswith("decoders.") and key.endswith("convolutions.0.convolution.weight")
        copied[ours] = torch.cat(tuple(reversed(value.chunk(2, dim=1))), dim=1) if is_fusion else value
    if wrong:
        raise ValueError(
            f"the U-Net in init.unet={folder} does not fit: {len(wrong)} weights differ in shape ({wrong[0]}); train "
            "it with the same base_width, in_channels and num_classes"
        )
    network.load_state_dict(expected | copied)
    return len(copied)


def start_from_efficientnet_lite(network: nn.Module, path: str | Path) -> int:
    """Give the encoder of a FilmFirst the weights of EfficientNet-Lite in a file of PyTorch. Returns how many.

    The file has the names of the package `efficientnet_lite_pytorch`. Raises `ValueError` for another network or
    another file and as `read_checkpoint`, and then changes nothing.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, EfficientEncoder):
        raise ValueError("init.efficientnet_lite is for filmfirst with the encoder lite0, lite1 or lite2 only")
    found = read_checkpoint(path)
    copied = {}
    for key, value in encoder.state_dict().items():
        theirs = encoder.published_name(key)
        if theirs not in found or found[theirs].shape != value.shape:
            raise ValueError(
                f"{path} is not EfficientNet-Lite{encoder.variant}: it has no {theirs} of shape {tuple(value.shape)}"
            )
        fault = weight_fault(found[theirs], value)
        if fault is not None:
            raise ValueError(f"{path}: {theirs} {fault}, so it cannot be used")
        copied[key] = found[theirs]
    encoder.load_state_dict(copied)
    return len(copied)
