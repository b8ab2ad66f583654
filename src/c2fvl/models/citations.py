"""What to cite for a network or a data set, in BibTeX. No torch."""

import re
from pathlib import Path

from c2fvl.messages import nearest_names

_FILE = Path(__file__).with_name("citations.bib")
_MEDT = ("valanarasu2021medt",)
OF_NETWORKS: dict[str, tuple[str, ...]] = {
    "filmfirst": ("c2fvl", "tan2019efficientnet"),
    "c2fvl": ("shan2023c2fvl",),
    "lvit": ("li2023lvit",),
    "unet": ("ronneberger2015unet",),
    "uctransnet": ("wang2022uctransnet",),
    "transunet": ("chen2021transunet",),
    "medt": _MEDT,
    "logo": _MEDT,
    "gatedaxialunet": _MEDT,
    "axialunet": _MEDT,
}
OF_DATA_SETS = {
    "qata": ("degerli2022osegnet", "li2023lvit"),
    "mosmed": ("morozov2020mosmeddata", "hofmanninger2020lungs", "li2023lvit"),
    "monuseg": ("kumar2017nuclei", "kumar2020monuseg", "li2023lvit"),
}
"""The captions of all three are of LViT."""


def bibtex(*names: str) -> str:
    """Return the entries for networks and data sets, each once; without a name, all.

    Raises `ValueError` for a name of neither.
    """
    entries = dict(re.findall(r"^(@\w+\{(\w+),.*?^\})", _FILE.read_text(encoding="utf-8"), re.M | re.S))
    by_key = {key: entry for entry, key in entries.items()}
    known = OF_NETWORKS | OF_DATA_SETS
    for name in names:
        if name not in known:
            raise ValueError(f"nothing is known to cite for {name!r}{nearest_names(name, known)}")
    keys = [key for name in names for key in known[name]] if names else list(by_key)
    return "\n\n".join(by_key[key] for key in dict.fromkeys(keys))
