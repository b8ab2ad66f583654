"""What is known of each network without building it, so that `c2fvl models` answers at once. No torch.

A test compares the figures with the networks themselves.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from c2fvl.config import ModelConfig
from c2fvl.messages import nearest_names


@dataclass(frozen=True)
class NetworkEntry:
    """One network as the list shows it."""

    paper: str
    year: int
    text: str
    """What its second input is made of: "attributes", "findings", "sentence", or "none" if it has none."""
    classes: int
    """Logits for each pixel with the paper's arguments: 1, or one for each class, background included."""
    parameters: int
    """With the paper's arguments."""
    source: str
    """Its file and class, as `c2fvl.py:C2FVL`."""

    @property
    def reads(self) -> str:
        """Return in words which text it takes."""
        return {
            "attributes": "eight attributes, or none",
            "findings": "side, number and zones, each known or not",
            "sentence": "a sentence, or none",
            "none": "none",
        }[self.text]


NETWORKS = {
    "filmfirst": NetworkEntry(
        paper="this project", year=2026, text="findings", classes=1,
        parameters=3_069_533, source="filmfirst.py:FilmFirst",
    ),
    "c2fvl": NetworkEntry(
        paper="Shan et al., ICASSP", year=2023, text="attributes", classes=1,
        parameters=24_196_088, source="c2fvl.py:C2FVL",
    ),
    "lvit": NetworkEntry(
        paper="Li et al., IEEE TMI", year=2023, text="sentence", classes=1,
        parameters=29_908_033, source="lvit.py:LViT",
    ),
    "unet": NetworkEntry(
        paper="Ronneberger et al., MICCAI", year=2015, text="none", classes=1,
        parameters=14_751_873, source="unet.py:UNet",
    ),
    "uctransnet": NetworkEntry(
        paper="Wang et al., AAAI", year=2022, text="none", classes=1,
        parameters=66_430_657, source="uctransnet.py:UCTransNet",
    ),
    "transunet": NetworkEntry(
        paper="Chen et al., arXiv", year=2021, text="none", classes=9,
        parameters=105_277_081, source="transunet.py:TransUNet",
    ),
    "medt": NetworkEntry(
        paper="Valanarasu et al., MICCAI", year=2021, text="none", classes=2,
        parameters=1_524_570, source="medt.py:MedT",
    ),
    "logo": NetworkEntry(
        paper="Valanarasu et al., MICCAI", year=2021, text="none", classes=2,
        parameters=1_529_498, source="medt.py:LoGo",
    ),
    "gatedaxialunet": NetworkEntry(
        paper="Valanarasu et al., MICCAI", year=2021, text="none", classes=2,
        parameters=1_326_914, source="medt.py:GatedAxialUNet",
    ),
    "axialunet": NetworkEntry(
        paper="Valanarasu et al., MICCAI", year=2021, text="none", classes=2,
        parameters=1_326_850, source="medt.py:AxialUNet",
    ),
}  # fmt: skip


def find_network(name: str) -> NetworkEntry:
    """Return a network's entry; `ValueError` names the nearest where there is none."""
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r}{nearest_names(name, NETWORKS)}")
    return NETWORKS[name]


def num_classes(config: ModelConfig) -> int:
    """Return how many logits a network gives for each pixel: 1, or one for each class, background included."""
    return int(config.arguments.get("num_classes", find_network(config.name).classes))


def arguments_of(name: str) -> list[str]:
    """Return one line per argument of a network, with type and default, read off its source.

    Raises `ValueError` for a name that is not known, with the nearest that is.
    """
    entry = find_network(name)
    file, _, class_name = entry.source.partition(":")
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    network = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    constructor = next(node for node in network.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    arguments = constructor.args
    lines = [
        f"  {argument.arg}: {ast.unparse(argument.annotation or ast.Constant(value='any'))} = {ast.unparse(default)}"
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    ]
    return [f"{name} ({entry.paper}, {entry.year})", ast.get_docstring(network) or "", "", *lines]
