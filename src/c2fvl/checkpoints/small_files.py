"""The small files of a model folder beside weights, settings and card: read together, written together. No torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c2fvl.checkpoints.folders import CALIBRATION, METRICS, OOD_DETECTOR, TRUST_CURVE, read
from c2fvl.files import storage
from c2fvl.files.parsing import parse_json
from c2fvl.metrics.out_of_distribution import OodDetector
from c2fvl.metrics.temperature import parse_calibration

_REDO = {CALIBRATION: "`c2fvl calibrate`", TRUST_CURVE: "`c2fvl fit-trust --keep`"}
"""The command that writes a file anew which belongs to the weights beside it."""


@dataclass(frozen=True)
class SmallFiles:
    """What the commands after a training left in a model folder."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """Scores of the training; empty without the file."""
    calibration: dict[str, Any] | None = None
    """By `c2fvl calibrate`."""
    trust_curve: dict[str, Any] | None = None
    """By `c2fvl fit-trust --keep`."""
    ood_detector: OodDetector | None = None
    """By `c2fvl fit-ood`."""
    of_other_weights: dict[str, str] = field(default_factory=dict)
    """Files that were left out because they belong to other weights: name → message."""

    def require(self, *names: str) -> None:
        """Raise `ValueError` where one of these files was left out because it belongs to other weights."""
        for name in names:
            if name in self.of_other_weights:
                raise ValueError(self.of_other_weights[name])


def read_small_files(folder: Path, weights_sha256: str | None) -> SmallFiles:
    """Return the small files of a model folder whose weights have this checksum.

    A file that was fitted to other weights is left out. Raises `ValueError` where a file is damaged.
    """
    tied: dict[str, dict[str, Any] | None] = {CALIBRATION: None, TRUST_CURVE: None}
    left_out = {}
    for name in tied:
        file = folder / name
        if not file.is_file():
            continue
        if name == CALIBRATION:
            found = parse_calibration(read(file), where=file)
        else:
            found = _read_table(file, f"run {_REDO[name]} again, or delete it")
        if found.get("weights_sha256") == weights_sha256:
            tied[name] = found
        else:
            left_out[name] = f"{file} was fitted to other weights than those beside it; run {_REDO[name]} again"
    detector = folder / OOD_DETECTOR
    return SmallFiles(
        read_metrics(folder),
        tied[CALIBRATION],
        tied[TRUST_CURVE],
        OodDetector.from_bytes(read(detector), where=detector) if detector.is_file() else None,
        left_out,
    )


def write_small_files(folder: Path, files: SmallFiles, weights_sha256: str) -> None:
    """Write small files into a model folder whose weights have this checksum."""
    for name, content in (
        (METRICS, files.metrics), (CALIBRATION, files.calibration), (TRUST_CURVE, files.trust_curve),
    ):  # fmt: skip
        if content is not None:
            storage.write_json(folder / name, {**content, "weights_sha256": weights_sha256})
    if files.ood_detector is not None:
        storage.write_bytes(folder / OOD_DETECTOR, files.ood_detector.to_bytes())


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics of a model folder, empty without the file; `ValueError` where it is damaged."""
    file = folder / METRICS
    return _read_table(file, "delete it to load the weights alone") if file.exists() else {}


def _read_table(file: Path, remedy: str) -> dict[str, Any]:
    try:
        return dict(parse_json(read(file)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}; {remedy}") from error
