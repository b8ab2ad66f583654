"""The log of a run, `log.jsonl`, as a results page and a model card read it. No torch."""

import logging
import math
from pathlib import Path
from typing import Any

from c2fvl.files.parsing import parse_json

logger = logging.getLogger(__name__)

LOG = "log.jsonl"
_ALWAYS = ("epoch", "train_loss", "train_seconds", "val_seconds")
_VALIDATED = ("val_loss", "val_dice_per_image", "val_iou_per_image")


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the epochs of a run's log; none, with a warning that names the line, where a number is missing."""
    file = run / LOG
    if not file.is_file():
        return []
    lines: list[dict[str, Any]] = []
    try:
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            lines.append(_parsed(text, number))
        if not any(_VALIDATED[0] in line for line in lines):
            raise ValueError("no epoch was validated")
    except (OSError, ValueError) as error:
        logger.warning("%s is damaged, so nothing is shown of it: %s", file, error)
        return []
    return lines


def _parsed(text: str, number: int) -> dict[str, Any]:
    try:
        line = parse_json(text)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(line, dict):
        raise ValueError(f"line {number} is no table of numbers")
    needed = (*_ALWAYS, *(_VALIDATED if any(key in line for key in _VALIDATED) else ()))
    wrong = [key for key in needed if type(line.get(key)) not in (int, float) or not math.isfinite(line[key])]
    if wrong:
        raise ValueError(f"line {number} has no number as {', '.join(wrong)}")
    return line
