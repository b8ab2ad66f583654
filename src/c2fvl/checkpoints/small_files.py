"""The small files of a model folder beside weights, settings and card; which belong to its weights. No torch."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c2fvl.checkpoints.folders import CALIBRATION, METRICS, OOD_DETECTOR, TRUST_CURVE, WEIGHTS
from c2fvl.checkpoints.model_files import REDO, ModelFiles
from c2fvl.files import storage
from c2fvl.files.parsing import parse_json
from c2fvl.metrics.out_of_distribution import OodDetector
from c2fvl.metrics.temperature import parse_calibration

logger = logging.getLogger(__name__)


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

    def warn(self) -> None:
        """Say in the log which files were left out."""
        for message in self.of_other_weights.values():
            logger.warning("%s; until then it is not used", message)

    def require(self, *names: str) -> None:
        """Raise `ValueError` where one of these files was left out because it belongs to other weights."""
        for name in names:
            if name in self.of_other_weights:
                raise ValueError(self.of_other_weights[name])


def read_small_files(files: ModelFiles, weights_sha256: str, *, without: Collection[str] = ()) -> SmallFiles:
    """Return the small files of a model folder whose weights have this checksum, `without` some that are not read.

    A file that was fitted to other weights is left out. Raises `ValueError` where a file is damaged, and where the
    metrics are of other weights.
    """
    metrics = read_metrics(files)
    if metrics is not None and metrics.get("weights_sha256") != weights_sha256:
        raise ValueError(
            f"{files.folder / WEIGHTS} does not match the checksum in {METRICS}: it is damaged, or a run was "
            "interrupted between the two (resume that run), or it was replaced (then delete both "
            f"{METRICS} and the manifest)"
        )
    tied: dict[str, dict[str, Any] | None] = {CALIBRATION: None, TRUST_CURVE: None}
    left_out = {}
    for name in tied:
        file = files.folder / name
        data = None if name in without else files.read(name)
        if data is None:
            continue
        if name == CALIBRATION:
            found = parse_calibration(data, where=file)
        else:
            found = _read_table(data, file, f"run {REDO[name]} again, or delete it")
        if found.get("weights_sha256") != weights_sha256:
            left_out[name] = f"{file} was fitted to other weights than those beside it; run {REDO[name]} again"
        elif name == TRUST_CURVE and files.is_half_written():
            left_out[name] = f"{file} was being written when its command was interrupted; run {REDO[name]} again"
        else:
            tied[name] = found
    detector = None if OOD_DETECTOR in without else files.read(OOD_DETECTOR)
    return SmallFiles(
        metrics or {},
        tied[CALIBRATION],
        tied[TRUST_CURVE],
        None if detector is None else OodDetector.from_bytes(detector, where=files.folder / OOD_DETECTOR),
        left_out,
    )


def small_files_as_bytes(files: SmallFiles, weights_sha256: str) -> dict[str, bytes]:
    """Return small files by name, as a model folder has them whose weights have this checksum."""
    tables = {METRICS: files.metrics, CALIBRATION: files.calibration, TRUST_CURVE: files.trust_curve}
    found = {
        name: storage.json_bytes({**content, "weights_sha256": weights_sha256})
        for name, content in tables.items()
        if content is not None
    }
    if files.ood_detector is not None:
        found[OOD_DETECTOR] = files.ood_detector.to_bytes()
    return found


def read_metrics(files: ModelFiles) -> dict[str, Any] | None:
    """Return the metrics of a model folder, None without the file; `ValueError` where it is damaged."""
    data = files.read(METRICS)
    if data is None:
        return None
    return _read_table(data, files.folder / METRICS, "get the model again")


def _read_table(data: bytes, file: Path, remedy: str) -> dict[str, Any]:
    try:
        return dict(parse_json(data))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}; {remedy}") from error
