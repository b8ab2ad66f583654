"""What an evaluation found, as `summary.json` holds it. `docs/formats.md` lists the keys."""

from dataclasses import dataclass, field
from typing import Any

from c2fvl.evaluation.records import key, to_plain
from c2fvl.metrics.intervals import Estimate


@dataclass(frozen=True)
class ScoredModel:
    """The network whose masks were scored, or the folder of masks that were drawn elsewhere."""

    name: str
    preset: str
    path: str
    epoch: int | None = None
    weights_sha256: str | None = None
    masks_sha256: str | None = None
    """Checksum of masks that were drawn elsewhere; None for a network."""

    @property
    def is_masks(self) -> bool:
        """Tell whether masks that were drawn elsewhere were scored."""
        return self.masks_sha256 is not None

    @property
    def title(self) -> str:
        """Return the name that readers know it by."""
        return self.preset or self.name


@dataclass(frozen=True)
class ScoredData:
    """The cases that were scored."""

    root: str
    split: str
    num_cases: int
    caption_table: str = ""
    fingerprint: str = ""
    """Checksum of images, reports and masks."""
    masks: str = ""
    """Checksum of the masks alone."""
    num_groups: int | None = None
    num_without_report: int = 0


@dataclass(frozen=True)
class GivenReports:
    """The reports that the network was given."""

    kind: str
    """The name of the perturbation, "right" for each case's own report."""
    given: str
    """In words."""
    seed: int | None = None
    """Where the perturbation is drawn."""
    trust: float | None = None
    """Of a network that reads images itself."""

    @property
    def words(self) -> str:
        """Return which reports were given, and with which trust if the network has one."""
        return self.given if self.trust is None or self.kind == "none" else f"{self.given}, trust {self.trust:g}"


@dataclass(frozen=True)
class Unit:
    """The unit of lengths."""

    length: str
    """mm or pixel."""
    source: str = key("from")
    """In words."""


@dataclass(frozen=True)
class ClassScores:
    """Dice and IoU from 0 to 1, per image and pooled, and how many images are special."""

    num_cases: int
    dice_per_image: float
    iou_per_image: float
    dice_pooled: float
    iou_pooled: float
    num_empty_masks: int
    num_false_positives: int
    num_missed_lesions: int


@dataclass(frozen=True)
class ProtocolScores(ClassScores):
    """The scores of one resolution and protocol, averaged over the classes."""

    resolution: str
    protocol: str
    classes: tuple[ClassScores, ...] = ()
    """Of each, where there are several."""


@dataclass(frozen=True)
class ScoreStatistics(Estimate):
    """The mean of a score over images with its interval, of some also median and quartiles."""

    median: Estimate | None = None
    lower_quartile: Estimate | None = None
    upper_quartile: Estimate | None = None


@dataclass(frozen=True)
class LesionsOfSize:
    """How many lesions of one size there are, and how many were missed."""

    min_fraction_of_image: float
    lesions: int
    missed: int


@dataclass(frozen=True)
class SubgroupScores:
    """The scores of one subgroup."""

    label: str
    num_cases: int
    num_groups: int
    dice: Estimate
    iou: Estimate


COLUMN = "column "
"""Beginning of the name of a division by a column of the data's table."""


@dataclass(frozen=True)
class SubgroupTable:
    """One way to divide the cases into subgroups."""

    name: str
    overlapping: bool
    rows: tuple[SubgroupScores, ...]

    @property
    def is_column(self) -> bool:
        """Tell whether the cases are divided by a column of the data's table."""
        return self.name.startswith(COLUMN)


@dataclass(frozen=True)
class Statistics:
    """Means over cases with 95 % confidence intervals, pooled scores, lesions and subgroups."""

    intervals: str
    """What is drawn by the bootstrap, in words."""
    per_image: dict[str, ScoreStatistics]
    pooled: dict[str, Estimate]
    lesions: dict[str, LesionsOfSize]
    columns_left_out: tuple[str, ...]
    """Columns of the data's table that make no subgroups."""
    subgroups: tuple[SubgroupTable, ...]


@dataclass(frozen=True)
class ReliabilityBin:
    """The pixels of one range of probability."""

    num_pixels: int
    mean_probability: float | None
    lesion_fraction: float | None
    lower: float = key("from")
    upper: float = key("to")


@dataclass(frozen=True)
class PixelSummary:
    """Calibration over pixels."""

    num_pixels: int
    ece: float
    ece_foreground: float | None
    brier: float
    reliability: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class AreaGroup:
    """Cases of about the same expected area."""

    num_cases: int
    expected: float
    true: float


@dataclass(frozen=True)
class AreaSummary:
    """Expected against true area, as fractions of the image."""

    mean_absolute_gap: float
    mean_difference: float
    groups: tuple[AreaGroup, ...]


@dataclass(frozen=True)
class CoverageCurve:
    """Mean Dice of the cases that are kept."""

    coverage: tuple[float, ...]
    dice: tuple[float, ...]


@dataclass(frozen=True)
class LeastCertain:
    """The least certain tenth of the cases."""

    num_cases: int
    coverage: float
    threshold: float
    dice_kept: float
    dice_doubtful: float


@dataclass(frozen=True)
class ConfidenceSummary:
    """How the estimated Dice of cases ranks their Dice."""

    mean: float
    mean_dice: float
    spearman: float | None
    risk_area: float
    risk_area_ideal: float
    risk_area_random: float
    curve: CoverageCurve
    doubtful: LeastCertain


@dataclass(frozen=True)
class CalibrationSummary:
    """Whether the probabilities can be believed."""

    num_cases: int
    calibrated: bool
    temperature: float | None
    offset: float | None
    pixels: PixelSummary
    area: AreaSummary
    confidence: ConfidenceSummary | None
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class FindingScores:
    """How well one finding is read off images, and what the majority guess reaches."""

    accuracy: float
    majority: float
    auc: float | None = None
    values: tuple[str, ...] = ()
    mean_absolute_error: float | None = None
    within_one: float | None = None
    counted_up_to: int | None = None


@dataclass(frozen=True)
class FindingsSummary:
    """How well a network that reads images itself finds what the reports say."""

    num_images: int
    zones: dict[str, FindingScores]
    zones_mean: FindingScores | None = None
    side: FindingScores | None = None
    number: FindingScores | None = None


@dataclass(frozen=True)
class PairedEstimate(Estimate):
    """A paired difference with its p values."""

    permutation_p: float
    wilcoxon_p: float


@dataclass(frozen=True)
class ReportChange:
    """The scores where every case is given a changed report."""

    name: str
    title: str
    is_wrong: bool
    num_changed: int
    """Cases for which the network was given other text than their own."""
    dice: Estimate
    iou: Estimate
    dice_pooled: Estimate
    difference_to_right: PairedEstimate | None
    difference_to_none: PairedEstimate | None
    excluded_lungs: Estimate | None
    """Fraction of the predicted area in lungs that the given report excludes; None where no report excludes any."""
    excluded_zones: Estimate | None
    wrong_lungs: Estimate | None
    """The same for the lungs that the right report excludes."""
    permutation_p_holm: float | None = None


@dataclass(frozen=True)
class HeadlineScore(Estimate):
    """A number to quote."""

    name: str
    title: str


@dataclass(frozen=True)
class Baseline:
    """Masks that do not depend on the image, and by how much the network is better."""

    name: str
    title: str
    num_training_images: int
    dice: Estimate
    iou: Estimate
    difference: PairedEstimate
    """Of Dice, the network less the baseline."""
    compared_with: str
    """What the network was given, in words."""


@dataclass(frozen=True)
class Remark:
    """A sentence on the results."""

    text: str
    warning: bool


@dataclass(frozen=True)
class TextAudit:
    """What correct, altered and missing reports do."""

    seed: int
    constant_report: str | None = None
    changes: tuple[ReportChange, ...] = ()
    headline: tuple[HeadlineScore, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True)
class Summary:
    """Everything that an evaluation found but the scores of each case."""

    model: ScoredModel
    data: ScoredData
    text: GivenReports
    scores: tuple[ProtocolScores, ...]
    """The first is that of the original resolution by the corrected protocol."""
    unit: Unit
    statistics: Statistics
    threshold: float | None = 0.5
    """None for masks that were drawn elsewhere."""
    class_names: tuple[str, ...] = ()
    calibration: CalibrationSummary | None = None
    predicted_findings: FindingsSummary | None = None
    audit: TextAudit | None = None
    settings: str = ""
    """Of the model, as TOML."""
    loss_curves: str | None = None
    """The log whose curves the results page shows."""
    software: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `summary.json`."""
        return dict(to_plain(self))
