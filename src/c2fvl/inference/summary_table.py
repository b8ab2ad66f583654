"""The table of everything that one call of `c2fvl predict` did: `predictions.csv`. No torch."""

import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from c2fvl.files.tables import write_cells
from c2fvl.messages import printable

NAME = "predictions.csv"
_LONGEST_REASON = 90
COLUMNS = (
    "image", "status", "reason", "file", "area_fraction", "area_mm2", "volume_ml", "estimated_dice",
    "is_in_distribution", "report", "warnings",
)  # fmt: skip


def warnings_of(record: dict[str, Any]) -> list[str]:
    """Return what a user must know of an image and of its results, but for the out-of-distribution check."""
    left_out = [f"{output} is not written: {reason}" for output, reason in record.get("left_out", {}).items()]
    return [*record["source"]["warnings"], *left_out]


class SummaryTable:
    """Collects the records of images and writes one row for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[list[object]] = []
        self._places: list[int] = []
        self.reasons: Counter[str] = Counter()
        self.num_failed = self.num_skipped = self.num_refused = 0

    def add(self, record: dict[str, Any], place: int | None = None) -> None:
        """Take in the record of one image; `place` is its place among all images, None for the next."""
        self._places.append(len(self._places) if place is None else place)
        if "error" in record:
            self.num_failed += 1
            reason = record["error"].partition(";")[0].partition(":")[0]
            self.reasons[textwrap.shorten(reason, _LONGEST_REASON, placeholder=" …")] += 1
            self.rows.append([record["image"], "failed", record["error"], *[""] * (len(COLUMNS) - 3)])
            return
        report, ood = record["report"] or {}, record.get("ood")
        self.num_skipped += "skipped" in record
        self.num_refused += "refused" in report
        warnings = [*warnings_of(record), *((ood or {}).get("reasons", ()))]
        fraction = record["voxels_fraction"] if "voxels_fraction" in record else record["area_fraction"]
        status = "skipped" if "skipped" in record else "done"
        self.rows.append(
            [
                record["image"], status, "", record["files"][0], f"{fraction:.6f}",
                _cell(record.get("area_mm2")), _cell(record.get("volume_ml")), _cell(record.get("estimated_dice")),
                "" if ood is None else ood["is_in_distribution"],
                "refused" if "refused" in report else "followed" if report else "none", " | ".join(warnings),
            ]
        )  # fmt: skip

    def write(self) -> None:
        """Write the table, in the order of the images."""
        rows = [row for _, row in sorted(zip(self._places, self.rows, strict=True), key=lambda pair: pair[0])]
        write_cells(self.folder / NAME, [COLUMNS, *(list(map(_shown, row)) for row in rows)])

    def lines(self, *, num_reports: int) -> list[str]:
        """Return in words what was not done, and why."""
        lines = []
        if self.num_refused:
            lines.append(f"{self.num_refused} of {num_reports} reports could not be read and were not used")
        if self.num_skipped:
            lines.append(f"{self.num_skipped} of {len(self.rows)} images were predicted before and left as they are")
        if self.num_failed:
            most = "; ".join(f"{count} × {reason}" for reason, count in self.reasons.most_common(5))
            why = f" ({most})" if len(self.rows) > 1 else ""
            lines.append(f"{self.num_failed} of {len(self.rows)} images failed{why}")
        return lines


def _shown(cell: object) -> object:
    """Return a cell with control characters spelled out: one odd file name must not cost the whole table."""
    return printable(cell) if isinstance(cell, str) else cell


def _cell(value: object) -> object:
    return "" if value is None else value
