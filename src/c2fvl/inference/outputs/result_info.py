"""What a clinical file says about the model and the result that it holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from c2fvl.reports.zones import HANDS, ZONES, hands_of, mirrored, zones_in_words
from c2fvl.version import __version__

RESEARCH_ONLY = "AI result, research use only, not for diagnosis"


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
    orientation: tuple[str, str] | None = None
    """What the user gave in place of the file's PatientOrientation, such as ("L", "F"); None to read the file."""
    package_version: str = __version__

    def __post_init__(self) -> None:
        unknown = sorted(self.zones - set(ZONES))
        if unknown:
            raise ValueError(f"there is no zone {', '.join(unknown)}; expected some of {', '.join(ZONES)}")
        if not self.classes:
            raise ValueError("the result names no class; give at least one, such as 'lesion'")

    @property
    def side(self) -> str:
        """Return the patient's side with lesion: "left", "right", "bilateral", or "" without zones."""
        hands = hands_of(self.zones)
        return "bilateral" if len(hands) == len(HANDS) else next(iter(hands), "")

    @property
    def zones_in_words(self) -> str:
        """Return the zones in words, of the patient: "right lung, left upper zone"; "" without zones."""
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


def patient_zones(areas: Mapping[str, int]) -> frozenset[str]:
    """Return the zones with lesion, of the patient, from the pixels in each zone of an upright image.

    The left of an upright image is the patient's right, so every zone changes its side.
    """
    return frozenset(mirrored(zone) for zone, pixels in areas.items() if pixels)
