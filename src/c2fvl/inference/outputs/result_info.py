"""What a clinical file says about the model and the result that it holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from c2fvl.files.picture import Picture
from c2fvl.inference.prediction import PredictedBy
from c2fvl.reports.from_mask import report_from_mask
from c2fvl.reports.zones import ZONES, mirrored, zones_in_words
from c2fvl.version import __version__

RESEARCH_ONLY = "AI result, research use only, not for diagnosis"

Orientation = tuple[str, str]
"""Where the rows and the columns of a file run in the patient, as in PatientOrientation: ("L", "F") is upright."""
_AXES = {"L": "side", "R": "side", "A": "depth", "P": "depth", "H": "height", "F": "height"}


@dataclass(frozen=True)
class ResultInfo:
    """The model that made a result, its settings, and what it found."""

    model: str
    """The name of the network, such as "filmfirst"."""
    weights_sha256: str
    """The checksum of the weights, 64 hexadecimal digits."""
    model_version: str = ""
    """The version of the trained model, if it has one."""
    threshold: float = 0.5
    """The probability from which on a pixel belongs to the lesion."""
    trust: float | None = None
    """The trust in the report that was used; None for a network without one."""
    report_used: bool = False
    """Whether a report changed the result."""
    zones: frozenset[str] = field(default_factory=frozenset)
    """The zones with lesion, of the patient's lungs: "lupper" is the patient's left upper zone."""
    estimated_dice: float | None = None
    """The Dice that the model estimates for its mask."""
    classes: tuple[str, ...] = ("lesion",)
    """The names of the classes of the mask, from 1 on."""
    orientation: Orientation | None = None
    """What the user gave in place of the file's PatientOrientation, such as ("L", "F"); None to read the file."""
    package_version: str = __version__

    @classmethod
    def of_model(cls, model: PredictedBy, *, report_used: bool, **found: Any) -> "ResultInfo":
        """Return what is said about the result of a model; a report at a trust of 0 was not used."""
        return cls(
            model=model.name,
            weights_sha256=model.weights_sha256 or "",
            model_version=model.preset,
            threshold=model.threshold,
            trust=model.trust,
            report_used=report_used and model.trust != 0,
            classes=model.classes,
            **found,
        )

    def __post_init__(self) -> None:
        unknown = sorted(self.zones - set(ZONES))
        if unknown:
            raise ValueError(f"there is no zone {', '.join(unknown)}; expected some of {', '.join(ZONES)}")
        if not self.classes:
            raise ValueError("the result names no class; give at least one, such as 'lesion'")
        if self.orientation is not None and not are_directions(self.orientation):
            raise ValueError(
                f"the orientation is {self.orientation}; expected where the rows and the columns run, such as "
                "('L', 'F')"
            )

    @property
    def zones_in_words(self) -> str:
        """Return the zones of the patient in words: "right lung, left upper zone"; "" without zones."""
        return ", ".join(zones_in_words(self.zones))

    @property
    def settings(self) -> dict[str, str]:
        """Return what the result depends on besides the image, as text."""
        trust = {} if self.trust is None else {"trust": f"{self.trust:g}"}
        return {
            "threshold": f"{self.threshold:g}",
            **trust,
            "weights_sha256": self.weights_sha256,
            "report_used": "yes" if self.report_used else "no",
        }


def are_directions(values: Sequence[str]) -> bool:
    """Tell whether two values are directions in the patient as DICOM writes them, of two different axes."""
    if len(values) != 2 or not all(re.fullmatch("[LRAPHF]{1,3}", value) for value in values):
        return False
    return len(axes_of((values[0], values[1]))) == 2


def axes_of(orientation: Orientation) -> set[str]:
    """Return the axes of the patient along which an image lies: two of "side", "depth" and "height"."""
    return {_AXES[direction[0]] for direction in orientation}


def patient_zones(upright: np.ndarray, modality: Literal["film", "ct"] = "film") -> frozenset[str]:
    """Return the zones of the patient in which an upright mask (H, W) lies, named as captions name them.

    The left of an upright image is the patient's right, so every zone changes its side.
    """
    return frozenset(mirrored(zone) for zone in report_from_mask(upright, modality=modality).zones)


def orientation_of_picture(picture: Picture) -> Orientation | None:
    """Return where the rows and the columns of the file of a picture run in the patient; None if that is assumed."""
    if picture.orientation_source == "assumed":
        return None
    across, down = "R" if picture.mirrored else "L", "H" if picture.flipped else "F"
    return (down, across) if picture.transposed else (across, down)
