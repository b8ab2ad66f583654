"""All networks by name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from c2fvl.config import nearest_names
from c2fvl.models.c2fvl import C2FVL
from c2fvl.models.lvit import LViT
from c2fvl.models.medt import AxialUNet, GatedAxialUNet, LoGo, MedT
from c2fvl.models.output import Output, SegmentationModel
from c2fvl.models.transunet import TransUNet
from c2fvl.models.uctransnet import UCTransNet
from c2fvl.models.unet import UNet

__all__ = ["MODELS", "ModelEntry", "Output", "SegmentationModel", "build_model", "find_model", "num_classes"]


@dataclass(frozen=True)
class ModelEntry:
    """One network of the package."""

    build: Callable[..., nn.Module]
    text: str
    """What its second input is made of: "attributes", "sentence", or "none" if it has none."""


MODELS: dict[str, ModelEntry] = {
    "c2fvl": ModelEntry(build=C2FVL, text="attributes"),
    "lvit": ModelEntry(build=LViT, text="sentence"),
    "unet": ModelEntry(build=UNet, text="none"),
    "uctransnet": ModelEntry(build=UCTransNet, text="none"),
    "transunet": ModelEntry(build=TransUNet, text="none"),
    "medt": ModelEntry(build=MedT, text="none"),
    "logo": ModelEntry(build=LoGo, text="none"),
    "gatedaxialunet": ModelEntry(build=GatedAxialUNet, text="none"),
    "axialunet": ModelEntry(build=AxialUNet, text="none"),
}


def find_model(name: str) -> ModelEntry:
    """Return a network's entry; `ValueError` names the nearest where there is none."""
    if name not in MODELS:
        raise ValueError(f"there is no network {name!r}{nearest_names(name, MODELS)}")
    return MODELS[name]


def num_classes(name: str, arguments: Mapping[str, Any]) -> int:
    """Return how many logits a network gives for each pixel: 1, or one for each class, background included."""
    return int(
        arguments.get("num_classes", inspect.signature(find_model(name).build).parameters["num_classes"].default)
    )


def build_model(name: str, arguments: Mapping[str, Any] | None = None, /, **keywords: Any) -> nn.Module:
    """Return a new network by name with its keyword-only arguments.

    Raises `ValueError` for a name or an argument that is not known, with the nearest that is.
    """
    entry = find_model(name)
    arguments = {**(arguments or {}), **keywords}
    known = list(inspect.signature(entry.build).parameters)
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"{name} has no argument {argument!r}{nearest_names(argument, known)}")
    classes = arguments.get("num_classes", 1)
    if isinstance(classes, int) and classes < 1:
        raise ValueError(
            f"{name}: num_classes is {classes}; expected is 1 for a lesion, or the classes with background"
        )
    try:
        return entry.build(**arguments)
    except (TypeError, ZeroDivisionError, RuntimeError, OverflowError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(f"{name} cannot be built with {shown} ({error}); see `c2fvl models {name}`") from error
