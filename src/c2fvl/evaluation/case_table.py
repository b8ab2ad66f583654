"""The table `cases.csv`: one row for each case."""

from collections.abc import Sequence

import numpy as np

from c2fvl.data.cases import Case
from c2fvl.evaluation.statistics import Scores
from c2fvl.inference.cases import ORIGINAL, CaseScore
from c2fvl.messages import printable
from c2fvl.metrics.overlap import dice, iou


def case_table(cases: Sequence[Case], scores: Sequence[CaseScore], columns: Scores) -> list[list[object]]:
    """Return the header and a row for each case; of several classes first the means, then the scores of each class.

    `columns` holds the means of every score of `score_case`.
    """
    further = [name for name in columns if name not in ("dice", "iou")]
    count = len(scores[0].classes)
    endings = [f"_class_{number}" for number in range(1, count + 1)] if count > 1 else []
    header: list[object] = ["id", "group", "report"]
    scorings = tuple(scores[0].classes[0])
    for resolution, protocol in scorings:
        header += [f"{resolution}_{protocol}_dice", f"{resolution}_{protocol}_iou"]
    header += [
        f"original_{name}{ending}" for ending in endings or [""] for name in ("intersection", "prediction", "target")
    ]
    header += further
    for ending in endings:
        header += [f"original_corrected_dice{ending}", f"original_corrected_iou{ending}"]
        header += [name + ending for name in further]
    rows = [header]
    for index, (case, score) in enumerate(zip(cases, scores, strict=True)):
        row: list[object] = [case.id, case.group or "", "" if case.report is None else printable(str(case.report))]
        for scoring in scorings:
            for measure in (dice, iou):
                row.append(float(np.mean([measure(own[scoring], protocol=scoring[1]) for own in score.classes])))
        for own in score.classes:
            counts = own[ORIGINAL]
            row += [counts.intersection, counts.prediction, counts.target]
        row += [float(columns[name][index]) for name in further]
        for of_class in score.details if endings else ():
            row += [of_class["dice"], of_class["iou"], *(of_class[name] for name in further)]
        rows.append(row)
    return rows
