"""All networks by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from c2fvl.messages import nearest_names
from c2fvl.models.c2fvl import C2FVL
from c2fvl.models.filmfirst import FilmFirst
from c2fvl.models.lvit import LViT
from c2fvl.models.medt import AxialUNet, GatedAxialUNet, LoGo, MedT
from c2fvl.models.registry import find_network
from c2fvl.models.transunet import TransUNet
from c2fvl.models.uctransnet import UCTransNet
from c2fvl.models.unet import UNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "filmfirst": FilmFirst,
    "c2fvl": C2FVL,
    "lvit": LViT,
    "unet": UNet,
    "uctransnet": UCTransNet,
    "transunet": TransUNet,
    "medt": MedT,
    "logo": LoGo,
    "gatedaxialunet": GatedAxialUNet,
    "axialunet": AxialUNet,
}


def build_model(name: str, arguments: Mapping[str, Any] | None = None, /, **keywords: Any) -> nn.Module:
    """Return a new network by name with its keyword-only arguments.

    Raises `ValueError` for a name or an argument that is not known, with the nearest that is.
    """
    find_network(name)
    build = MODELS[name]
    arguments = {**(arguments or {}), **keywords}
    known = list(inspect.signature(build).parameters)
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"{name} has no argument {argument!r}{nearest_names(argument, known)}")
    classes = arguments.get("num_classes", 1)
    if isinstance(classes, int) and classes < 1:
        raise ValueError(
            f"{name}: num_classes is {classes}; expected is 1 for a lesion, or the classes with background"
        )
    try:
        return build(**arguments)
    except (TypeError, ZeroDivisionError, RuntimeError, OverflowError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(f"{name} cannot be built with {shown} ({error}); see `c2fvl models {name}`") from error
