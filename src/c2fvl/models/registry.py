"""The networks by name: where each is, what it reads and what it can start from. No torch before a class is needed.

A network is one file and one entry here. A class of the user's own is named as "package.module:Class" instead;
`docs/networks.md` says what it must have.
"""

import ast
import functools
import importlib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2fvl.config import ModelConfig
from c2fvl.extensions import find_extension, is_extension
from c2fvl.messages import nearest_names

if TYPE_CHECKING:
    from torch import nn

TEXTS = {
    "none": "none",
    "attributes": "eight attributes",
    "findings": "side, number, zones",
    "sentence": "a sentence",
}
"""What a network can read beside the image, and how a list says it. No network needs a report."""
MAX_ARGUMENT = 2**24
"""No whole number that describes a network is larger."""


@dataclass(frozen=True)
class NetworkEntry:
    """What is known of a network without importing it."""

    path: str
    """Its module and class, as "package.module:Class"."""
    text: str
    """One of `TEXTS`; the class says the same in its attribute `TEXT`."""
    classes: int = 1
    """Logits for each pixel with the default arguments: 1, or one for each class with the background."""
    paper: str = ""
    year: int = 0
    published: str = ""
    """Address of the paper."""
    starts_from: tuple[str, ...] = ()
    """Settings that can give it published weights; `init.model` is for every network."""

    @property
    def citation(self) -> str:
        """Return paper and year, or that there is none."""
        return f"{self.paper}, {self.year}" if self.paper else "not published"


_MEDT = NetworkEntry(
    "c2fvl.models.medt:MedT",
    "none",
    classes=2,
    paper="Valanarasu et al., MICCAI",
    year=2021,
    published="https://arxiv.org/abs/2102.10662",
)
NETWORKS = {
    "filmfirst": NetworkEntry(
        "c2fvl.models.filmfirst:FilmFirst",
        "findings",
        paper="this project",
        year=2026,
        starts_from=("init.efficientnet_lite",),
    ),
    "c2fvl": NetworkEntry(
        "c2fvl.models.c2fvl:C2FVL",
        "attributes",
        paper="Shan et al., ICASSP",
        year=2023,
        published="https://arxiv.org/abs/2303.00279",
        starts_from=("init.unet",),
    ),
    "lvit": NetworkEntry(
        "c2fvl.models.lvit:LViT",
        "sentence",
        paper="Li et al., IEEE TMI",
        year=2023,
        published="https://arxiv.org/abs/2206.14718",
        starts_from=("init.unet",),
    ),
    "unet": NetworkEntry(
        "c2fvl.models.unet:UNet",
        "none",
        paper="Ronneberger et al., MICCAI",
        year=2015,
        published="https://arxiv.org/abs/1505.04597",
    ),
    "uctransnet": NetworkEntry(
        "c2fvl.models.uctransnet:UCTransNet",
        "none",
        paper="Wang et al., AAAI",
        year=2022,
        published="https://arxiv.org/abs/2109.04335",
        starts_from=("init.unet",),
    ),
    "transunet": NetworkEntry(
        "c2fvl.models.transunet:TransUNet",
        "none",
        classes=9,
        paper="Chen et al., arXiv",
        year=2021,
        published="https://arxiv.org/abs/2102.04306",
        starts_from=("init.vit_npz",),
    ),
    "medt": _MEDT,
    "logo": replace(_MEDT, path="c2fvl.models.medt:LoGo"),
    "gatedaxialunet": replace(_MEDT, path="c2fvl.models.medt:GatedAxialUNet"),
    "axialunet": replace(_MEDT, path="c2fvl.models.medt:AxialUNet"),
}
"""The networks of this package, in the order of lists."""


def find_network(name: str) -> NetworkEntry:
    """Return the entry of a network; `ValueError` names the nearest where there is none.

    For a class of the user's own, its module must have been imported (`c2fvl.extensions`).
    """
    if name in NETWORKS:
        return NETWORKS[name]
    network = network_class(name)
    return NetworkEntry(name, network.TEXT, inspect.signature(network).parameters["num_classes"].default)


def network_class(name: str) -> Any:
    """Return the class of a network, which imports torch. Raises `ValueError` as `find_network` does."""
    if name in NETWORKS:
        module, _, class_name = NETWORKS[name].path.partition(":")
        return getattr(importlib.import_module(module), class_name)
    if not is_extension(name):
        raise ValueError(f"there is no network {name!r}{nearest_names(name, NETWORKS)}")
    found = find_extension(name)
    _check_class(found, name)
    return found


def _check_class(network: Any, name: str) -> None:
    """Raise `ValueError` unless an object is a class that can be trained as a network here."""
    from torch import nn

    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise ValueError(f"{name} is no class derived from torch.nn.Module, so it cannot be a network")
    if (text := getattr(network, "TEXT", None)) not in TEXTS:
        raise ValueError(
            f"{name} does not say which text it reads; give the class an attribute TEXT, one of {', '.join(TEXTS)}"
        )
    arguments = inspect.signature(network).parameters
    without_default = [key for key, value in arguments.items() if value.default is value.empty]
    needed = ("text_tokens", "text_features", "vocabulary_size") if text == "sentence" else ()
    missing = [key for key in ("num_classes", *needed) if type(getattr(arguments.get(key), "default", None)) is not int]
    if missing or without_default:
        raise ValueError(
            f"the constructor of {name} must have keyword arguments with defaults only, among them whole numbers for "
            f"{', '.join(('num_classes', *needed))}; missing: {', '.join(missing) or 'none'}; without default: "
            f"{', '.join(without_default) or 'none'}"
        )
    if not {"image", "text"} <= inspect.signature(network.forward).parameters.keys():
        raise ValueError(f"{name}: expected a method forward(self, image, text=None) that returns c2fvl.models.Output")


def build_model(name: str, arguments: Mapping[str, Any] | None = None, /, **keywords: Any) -> "nn.Module":
    """Return a new network by name with its keyword arguments.

    Raises `ValueError` for a name or an argument that is not known, with the nearest that is, for an argument of a
    wrong type, and for a network that does not fit into memory.
    """
    network = network_class(name)
    arguments = {**(arguments or {}), **keywords}
    known = inspect.signature(network).parameters
    for key, value in arguments.items():
        if key not in known:
            raise ValueError(f"{name} has no argument {key!r}{nearest_names(key, known)}")
        if not _fits(value, known[key].default):
            raise ValueError(
                f"{name}: {key} is {value!r}; expected a value like its default {known[key].default!r}; see "
                f"`c2fvl models {name}`"
            )
    if arguments.get("num_classes", 1) < 1:
        raise ValueError(
            f"{name}: num_classes is {arguments['num_classes']}; expected 1 for a lesion, or the number of classes "
            "with the background"
        )
    try:
        return network(**arguments)
    except RuntimeError as error:
        if is_extension(name):
            raise
        too_large = any(word in str(error) for word in ("alloc", "overflow"))
        fault = "does not fit into memory" if too_large else "cannot be built"
        raise ValueError(f"{name} {fault} with {arguments}: {error}") from error


def _fits(value: Any, default: Any) -> bool:
    """Tell whether an argument is of the kind of its default."""
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and all(_fits(item, default[0]) for item in value if default)
    if type(default) is float:
        return type(value) in (int, float) and math.isfinite(value)
    if type(default) is int:
        return type(value) is int and abs(value) <= MAX_ARGUMENT
    return type(value) is type(default) or not isinstance(default, str | bool)


def num_classes(config: ModelConfig) -> int:
    """Return how many logits a network gives for each pixel: 1, or one for each class, background included."""
    given = config.arguments.get("num_classes")
    return find_network(config.name).classes if given is None else int(given)


def num_parameters() -> dict[str, int]:
    """Return the number of parameters of each network with its default arguments.

    They are read from a file that `docs/make_reference.py` writes, so that a list needs no torch.
    """
    return json.loads((Path(__file__).parent / "parameters.json").read_text(encoding="utf-8"))


def arguments_of(name: str) -> list[str]:
    """Return one line per argument of a network, with type and default.

    Those of this package are read from its source, without torch. Raises `ValueError` for a name that is not known,
    with the nearest that is.
    """
    entry = find_network(name)
    if name in NETWORKS:
        description, arguments = _read_source(entry.path)
    else:
        network = network_class(name)
        description = inspect.getdoc(network) or ""
        arguments = [str(argument) for argument in inspect.signature(network).parameters.values()]
    return [f"{name} ({entry.citation})", description, "", *(f"  {argument}" for argument in arguments)]


@functools.cache
def _read_source(path: str) -> tuple[str, list[str]]:
    """Return docstring and keyword-only arguments of a class of this package, as they are written."""
    module, _, class_name = path.partition(":")
    file = Path(__file__).parent / f"{module.rpartition('.')[2]}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    network = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    constructor = next(node for node in network.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    arguments = zip(constructor.args.kwonlyargs, constructor.args.kw_defaults, strict=True)
    return ast.get_docstring(network) or "", [
        f"{argument.arg}: {ast.unparse(argument.annotation)} = {ast.unparse(default)}"
        for argument, default in arguments
        if argument.annotation is not None and default is not None
    ]
