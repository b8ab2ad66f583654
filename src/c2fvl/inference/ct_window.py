"""Whether a network is for CT slices or for chest films, and by which window it sees a CT volume. No torch."""

import math

from c2fvl.config import Config
from c2fvl.files.dicom_headers import text
from c2fvl.files.picture import Picture

MOSMED_WINDOW = (-285.0, 1530.0)
"""The window in HU that comes nearest to the slices of MosMedData+, which are stored as grey values."""
_FILM_MODALITIES = ("CR", "DX", "DR", "RG")
_OTHER_MODEL = "take a model for CT, such as --model ct_small"


def parse_window(given: str) -> tuple[float, float]:
    """Return center and width in HU of a text such as "-600,1500". Raises `ValueError` for another text."""
    try:
        center, width = (float(part) for part in given.split(","))
    except ValueError:
        center, width = math.nan, math.nan
    if not (math.isfinite(center) and math.isfinite(width) and width > 0):
        raise ValueError(f"the window is {given!r}; expected center,width in HU with a positive width, as -285,1530")
    return center, width


def window_of(config: Config) -> tuple[float, float] | None:
    """Return the window of a network for CT slices; None for one that is not known to be for CT.

    Networks that were trained on MosMedData+ before `data.ct_window` was a setting are known by their preset.
    """
    if config.data.ct_window:
        return parse_window(config.data.ct_window)
    return MOSMED_WINDOW if "mosmed" in config.preset else None


def window_for_volume(config: Config, given: tuple[float, float] | None) -> tuple[tuple[float, float], str]:
    """Return the window by which a network sees a volume, and whether it was "given" or is that of the "model".

    Raises `ValueError` where none was given and the network is not known to be for CT.
    """
    if given is not None:
        return given, "given"
    own = window_of(config)
    if own is None:
        raise ValueError(
            f"this is a CT volume, and the model ({config.preset or config.model.name}) is not known to be for CT "
            f"(its setting data.ct_window is empty); {_OTHER_MODEL}, or give --window CENTER,WIDTH to use this model "
            "all the same"
        )
    return own, "model"


def check_is_for_films(config: Config, picture: Picture) -> None:
    """Raise `ValueError` for a chest film of DICOM and a network for CT slices."""
    modality = "" if picture.header is None else text(picture.header, "Modality")
    if window_of(config) is not None and modality in _FILM_MODALITIES:
        name = config.preset or config.model.name
        raise ValueError(
            f"this is a chest film ({modality}), and the model ({name}) is for CT slices; "
            "take a model for films, such as --model default, or give --force-view to use this model all the same"
        )
