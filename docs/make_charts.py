"""Draw the charts of a results folder as files for a page: `python docs/make_charts.py FOLDER OUT NAME`.

FOLDER is one that `c2fvl audit` wrote; OUT gets `NAME_perturbations.svg` and `NAME_reliability.svg`. They show no image
of a patient.
"""

import argparse
from pathlib import Path

from c2fvl.evaluation.evaluation_folder import EvaluationFolder
from c2fvl.evaluation.pages import charts
from c2fvl.files import storage


def main() -> None:
    """Write the charts on a white background, because a file does not know the colours of the page that shows it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    summary = EvaluationFolder(options.folder).read_summary()
    found = {}
    if summary.audit is not None and summary.audit.changes:
        changes = summary.audit.changes
        found["perturbations"] = charts.dots(
            [(row.title, row.dice) for row in changes],
            name="perturbations",
            label="Dice per image, %",
            reference=next((index for index, row in enumerate(changes) if row.name == "none"), None),
        )
    if summary.calibration is not None:
        found["reliability"] = charts.reliability(summary.calibration.pixels.reliability)
    for name, chart in found.items():
        head, _, rest = chart.replace("currentColor", "#222222").partition(">")
        background = '<rect width="100%" height="100%" fill="white"/>'
        storage.write_text(options.out / f"{options.name}_{name}.svg", f"{head}>{background}{rest}")


if __name__ == "__main__":
    main()
