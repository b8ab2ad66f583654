"""How often the report that is read off a mask agrees with the published caption.

    python benchmarks/report_agreement.py QATA_ROOT MOSMED_ROOT

The roots hold Train_Folder and Val_Folder. The rules were fitted to train; val is the figure to quote. "Constant" is
the best single answer for all films of a split, chosen on that split: an agreement no higher than that tells nothing.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from c2fvl import __version__
from c2fvl.data.scan import scan
from c2fvl.files.images import read_mask
from c2fvl.reports.from_mask import report_from_mask
from c2fvl.reports.report import Report
from c2fvl.reports.zones import ZONES, hands_of

QUESTIONS: dict[str, Callable[[Report], Any]] = {
    "count": lambda report: report.number,
    "side": lambda report: report.side,
    "left or right": lambda report: frozenset(hands_of(report.zones)),
    **{zone: lambda report, zone=zone: zone in report.zones for zone in ZONES},
    "all six zones": lambda report: report.zones,
    "whole report": lambda report: (report.side, report.number, report.zones),
}


def main(qata: Path, mosmed: Path) -> None:
    """Print one Markdown table for all data sets and splits."""
    columns: list[tuple[str, Literal["film", "ct"], Path, str, str]] = [
        (f"{name} {split}{' (revised)' if 'revised' in table else ''}", modality, root, split, table)
        for name, modality, root, table in (
            ("QaTa", "film", qata, "{split}_text.xlsx"),
            ("QaTa", "film", qata, "{split}_text_revised.xlsx"),
            ("MosMedData+", "ct", mosmed, "{split}_text.xlsx"),
        )
        for split in ("train", "val")
    ]
    cells: dict[str, list[str]] = {question: [] for question in ("captions", *QUESTIONS)}
    print(f"c2fvl {__version__}; agreement in %, in brackets the best constant answer\n")
    for name, modality, root, split, table in columns:
        cases = [case for case in scan(root, split, table=table) if case.report is not None and case.mask is not None]
        pairs = [(report_from_mask(read_mask(case.mask), modality=modality), case.report) for case in cases]
        cells["captions"].append(str(len(pairs)))
        for question, answer in QUESTIONS.items():
            agreed = sum(answer(made) == answer(said) for made, said in pairs) / len(pairs)
            constant = Counter(answer(said) for _, said in pairs).most_common(1)[0][1] / len(pairs)
            cells[question].append(f"{100 * agreed:.1f} ({100 * constant:.1f})")
        path = root / f"{split.capitalize()}_Folder" / table.format(split=split.capitalize())
        print(f"{name}: {path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}")
    print(f"\n| | {' | '.join(name for name, *_ in columns)} |\n|---|{'---|' * len(columns)}")
    for question, row in cells.items():
        print(f"| {question} | {' | '.join(row)} |")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
