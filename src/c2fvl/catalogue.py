"""What is known of each network without building it, so that `c2fvl models` answers at once. No torch.

A test compares the figures with the networks themselves.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from c2fvl.config import nearest_names


@dataclass(frozen=True)
class CatalogueEntry:
    """One network as the list shows it."""

    paper: str
    year: int
    reads: str
    """Which text it takes."""
    parameters: int
    """With the paper's arguments."""
    source: str
    """Its file and class, as `c2fvl.py:C2FVL`."""


CATALOGUE = {
    "c2fvl": CatalogueEntry(
        paper="Shan et al., ICASSP", year=2023, reads="eight attributes, or none",
        parameters=24_196_088, source="c2fvl.py:C2FVL",
    ),
    "lvit": CatalogueEntry(
        paper="Li et al., IEEE TMI", year=2023, reads="a sentence, or none",
        parameters=29_908_033, source="lvit.py:LViT",
    ),
    "unet": CatalogueEntry(
        paper="Ronneberger et al., MICCAI", year=2015, reads="none",
        parameters=14_751_873, source="unet.py:UNet",
    ),
    "uctransnet": CatalogueEntry(
        paper="Wang et al., AAAI", year=2022, reads="none",
        parameters=66_430_657, source="uctransnet.py:UCTransNet",
    ),
    "transunet": CatalogueEntry(
        paper="Chen et al., arXiv", year=2021, reads="none",
        parameters=105_277_081, source="transunet.py:TransUNet",
    ),
    "medt": CatalogueEntry(
        paper="Valanarasu et al., MICCAI", year=2021, reads="none",
        parameters=1_524_570, source="medt.py:MedT",
    ),
    "logo": CatalogueEntry(
        paper="Valanarasu et al., MICCAI", year=2021, reads="none",
        parameters=1_529_498, source="medt.py:LoGo",
    ),
    "gatedaxialunet": CatalogueEntry(
        paper="Valanarasu et al., MICCAI", year=2021, reads="none",
        parameters=1_326_914, source="medt.py:GatedAxialUNet",
    ),
    "axialunet": CatalogueEntry(
        paper="Valanarasu et al., MICCAI", year=2021, reads="none",
        parameters=1_326_850, source="medt.py:AxialUNet",
    ),
}  # fmt: skip


def arguments_of(name: str) -> list[str]:
    """Return one line per argument of a network, with type and default, read off its source.

    Raises `ValueError` for a name that is not known, with the nearest that is.
    """
    if name not in CATALOGUE:
        raise ValueError(f"there is no network {name!r}{nearest_names(name, CATALOGUE)}")
    file, _, class_name = CATALOGUE[name].source.partition(":")
    tree = ast.parse((Path(__file__).parent / "models" / file).read_text(encoding="utf-8"))
    network = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    constructor = next(node for node in network.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    arguments = constructor.args
    lines = [
        f"  {argument.arg}: {ast.unparse(argument.annotation or ast.Constant(value='any'))} = {ast.unparse(default)}"
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    ]
    return [f"{name} ({CATALOGUE[name].paper}, {CATALOGUE[name].year})", ast.get_docstring(network) or "", "", *lines]
