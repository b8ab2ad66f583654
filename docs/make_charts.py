"""Draw the charts of an evaluation's summary as files for a page: `python docs/make_charts.py SCORES OUT NAME`.

SCORES is a folder that `c2fvl audit` wrote; OUT gets `NAME_battery.svg`, `NAME_reliability.svg` and the like. They hold
no film.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from c2fvl.evaluation.pages.page import charts_of
from c2fvl.files import storage
from c2fvl.files.tables import read_csv

SHOWN = ("battery", "reliability", "risk", "cases")


def main() -> None:
    """Write the charts on white ground, for a page that shows a file cannot hand it its own colours."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scores", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    summary = json.loads((options.scores / "summary.json").read_text(encoding="utf-8"))
    _, rows = read_csv(options.scores / "cases.csv")
    scores = {
        name: np.array([float(row[column]) for _, row in rows])
        for name, column in (("dice", "original_ours_dice"), ("area_target", "area_target"))
    }
    charts = charts_of(summary, scores, [])
    for name in SHOWN:
        if name in charts:
            drawing = str(charts[name]).replace("currentColor", "#222222")
            ground = '<rect width="100%" height="100%" fill="white"/>'
            head, _, rest = drawing.partition(">")
            file = options.out / f"{options.name}_{name}.svg"
            storage.write_text(file, f"{head}>{ground}{rest}")


if __name__ == "__main__":
    main()
