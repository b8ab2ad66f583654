"""Score a trained network on a data set: a table of cases, a summary, pictures and one page to read them in."""

import base64
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import c2fvl
from c2fvl import storage
from c2fvl.batches import FilmDataset
from c2fvl.cases import Case
from c2fvl.catalogue import class_names, num_classes
from c2fvl.checkpoint import TrainedModel
from c2fvl.datasets import fingerprint, scan
from c2fvl.images import read_image
from c2fvl.labels import THRESHOLD, to_labels, to_original
from c2fvl.metrics import dice, iou, summarise_classes
from c2fvl.overlap import ahead
from c2fvl.scoring import CaseScore, automatic_batch, inference_form, predict_cases, score_on_grids
from c2fvl.spreadsheets import write_cells
from c2fvl.visualize import case_picture, curves, encode_png

logger = logging.getLogger(__name__)

TEXTS = ("right", "shuffled", "none")
ROWS = (("original", "ours"), ("network", "ours"), ("published", "published"))
"""Grid and rule of each row of the summary; the last repeats the published test script to the digit."""
ROW_LABELS = {
    ("original", "ours"): "film's own grid, corrected rule",
    ("network", "ours"): "network's grid, corrected rule",
    ("published", "published"): "network's grid, as the published test script scores",
}
NUM_PICTURES = 4
OWN_TABLE = "the split's own"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation wrote and found."""

    folder: Path
    page: Path
    summary: dict[str, Any]


def evaluate(
    model: TrainedModel,
    root: Path | str,
    *,
    split: str = "val",
    table: str | None = None,
    text: str = "right",
    seed: int = 0,
    out: Path | str | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score `model` on one split and write `cases.csv`, `summary.json`, `report.html` and `pictures/` to `out`.

    `text` says which report each film gets: its own (which in QaTa-COV19 and MosMedData+ was made from the mask and
    so is an oracle), that of another film by `seed`, or none. The `batch_size` None is what suits the device. Raises
    `ValueError` for data that does not fit.
    """
    if text not in TEXTS:
        raise ValueError(f"the text is {text!r}; expected is one of {', '.join(TEXTS)}")
    began = time.monotonic()
    config = model.config
    cases = change_text(scan(root, split, table=table or config.data.table or None), text, seed=seed)
    settings = dataclasses.replace(config.data, missing_text="allow")
    if config.data.text != "none" and text != "none":
        settings = dataclasses.replace(settings, missing_text=config.data.missing_text)
    films = FilmDataset(cases, settings, num_classes=num_classes(config.model))
    folder = Path(out) if out is not None else default_folder(model.path, split, text)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the scores")
    num_reports = films.num_readable
    if text != "none" and config.data.text != "none" and num_reports < len(cases):
        logger.warning("%d of %d films have no report that the network can read", len(cases) - num_reports, len(cases))

    batch_size = batch_size or automatic_batch(model)
    scores: list[CaseScore] = []
    network = inference_form(model, batch_size=batch_size)
    found = predict_cases(network, films, device=device, batch_size=batch_size, workers=workers)
    for score in ahead(score_on_grids, found, most=2 * batch_size):
        scores.append(score)
        if progress is not None:
            progress(len(scores), len(films))

    summary = {
        "model": {"name": config.model.name, "preset": config.preset, "path": str(model.path), **_trained(model)},
        "data": {
            "root": str(root), "split": split, "caption_table": table or config.data.table or OWN_TABLE,
            "fingerprint": fingerprint(cases),
            "num_cases": len(cases), "num_groups": len({case.group for case in cases if case.group}) or None,
            "num_without_report": len(cases) - num_reports,
        },
        "text": {
            "kind": text, "given": describe_text(text, config.data.text, num_reports, len(cases)),
            "seed": seed if text == "shuffled" else None,
        },
        "threshold": THRESHOLD,
        "class_names": class_names(config.data, num_classes(config.model)),
        "scores": [
            {
                "grid": grid, "rule": rule,
                **summarise_classes([[own[grid] for own in score.classes] for score in scores], rule=rule),
            }
            for grid, rule in ROWS
        ],
        "loss_curves": "log.jsonl" if _history(model) else None,
        "software": {"c2fvl": c2fvl.__version__, "command": sys.argv},
        "seconds": round(time.monotonic() - began, 2),
    }  # fmt: skip
    write_cells(folder / "cases.csv", _case_table(cases, scores))
    chosen = _choose(
        [_mean_dice(score) for score in scores],
        [all(own["original"].target == 0 for own in score.classes) for score in scores],
    )
    pictures = [
        {
            "title": title,
            "films": _draw(model, [cases[i] for i in indices], films, folder / "pictures", title.lower()),
        }
        for title, indices in chosen.items()
    ]
    page = folder / "report.html"
    storage.write_text(page, _page(summary, pictures, _history(model)))
    storage.write_json(folder / "summary.json", summary)
    return Evaluation(folder, page, summary)


def describe_text(text: str, encoder: str, num_reports: int, num_cases: int) -> str:
    """Return in words which reports the films were given."""
    if encoder == "none":
        return "none, for the network reads none"
    if text == "none" or not num_reports:
        return "none" if text == "none" else "none, for no film has one that can be read"
    whose = {"right": "its own", "shuffled": "that of another film"}[text]
    return whose if num_reports == num_cases else f"{whose}, for the {num_reports} of {num_cases} films that have one"


def change_text(cases: Sequence[Case], text: str, *, seed: int = 0) -> list[Case]:
    """Return the cases with their own report ("right"), none, or that of another film ("shuffled").

    Shuffled, the reports go around one random circle of all films, so that no film keeps its own; the words may
    still agree, for many films share a caption.
    """
    if text == "right":
        return list(cases)
    if text == "none":
        return [dataclasses.replace(case, report=None) for case in cases]
    if len(cases) < 2:
        raise ValueError("reports can only be shuffled among two films or more")
    order = np.random.default_rng(seed).permutation(len(cases))
    changed = list(cases)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        changed[place] = dataclasses.replace(cases[place], report=cases[source].report)
    return changed


def _case_table(cases: Sequence[Case], scores: Sequence[CaseScore]) -> list[list[object]]:
    """Return a row for each case; of several classes the mean of their scores, and then each of them."""
    header: list[object] = ["id", "group", "report"]
    for grid, rule in ROWS:
        header += [f"{grid}_{rule}_dice", f"{grid}_{rule}_iou"]
    count = len(scores[0].classes)
    endings = [""] if count == 1 else [f"_class_{number}" for number in range(1, count + 1)]
    for ending in endings:
        header += [f"original_ours_dice{ending}", f"original_ours_iou{ending}"] if ending else []
        header += [f"original_{name}{ending}" for name in ("intersection", "prediction", "target")]
    rows = [header]
    for case, score in zip(cases, scores, strict=True):
        report = "" if case.report is None else "".join(c if c.isprintable() else " " for c in str(case.report))
        row: list[object] = [case.id, case.group or "", report]
        for grid, rule in ROWS:
            for measure in (dice, iou):
                row.append(float(np.mean([measure(own[grid], rule=rule) for own in score.classes])))
        for own in score.classes:
            counts = own["original"]
            row += [dice(counts), iou(counts)] if count > 1 else []
            row += [counts.intersection, counts.prediction, counts.target]
        rows.append(row)
    return rows


def _mean_dice(score: CaseScore) -> float:
    return float(np.mean([dice(own["original"]) for own in score.classes]))


def _choose(values: Sequence[float], empty: Sequence[bool]) -> dict[str, list[int]]:
    """Return which cases to draw, none twice: the worst, the best (with a lesion if there are), those in between."""
    order = np.argsort(values, kind="stable").tolist()
    count = min(NUM_PICTURES, max(1, len(order) // 3))
    worst, rest = order[:count], order[count:]
    best = sorted(rest, key=lambda index: (empty[index], -values[index]))[:count]
    between = [index for index in rest if index not in best]
    middle = max(0, len(between) // 2 - count // 2)
    return {"Best": best, "Median": between[middle : middle + count], "Worst": worst}


def _draw(model: TrainedModel, cases: list[Case], like: FilmDataset, folder: Path, name: str) -> list[dict[str, Any]]:
    """Predict and draw a few cases on the films' own grid; the network is run again for them."""
    device = next(model.network.parameters()).device
    entries = []
    films = FilmDataset(cases, like.config, num_classes=like.num_classes)
    names = class_names(like.config, like.num_classes)
    for number, prediction in enumerate(predict_cases(model.network, films, device=device), start=1):
        case, target = cases[prediction.index], prediction.original_mask
        assert target is not None
        found = to_labels(to_original(prediction.probability, target.shape))
        score = _mean_dice(score_on_grids(prediction, grids=("original",)))
        picture = case_picture(
            read_image(case.image), found, target=target, report=case.report, dice=score, classes=names
        )
        data = encode_png(picture)
        storage.write_bytes(folder / f"{name}-{number}.png", data)
        entries.append(
            {
                "id": case.id,
                "dice": score,
                "source": "data:image/png;base64," + base64.b64encode(data).decode(),
                "report": "no report" if case.report is None else case.report.text or str(case.report),
            }
        )
    return entries


def _page(summary: dict[str, Any], pictures: list[dict[str, Any]], history: list[dict[str, Any]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    scores = [{**row, "label": ROW_LABELS[row["grid"], row["rule"]]} for row in summary["scores"]]
    return environment.get_template("report.html").render(
        summary=summary, scores=scores, pictures=pictures, curves=curves(history) if history else None, history=history
    )


def _trained(model: TrainedModel) -> dict[str, Any]:
    return {"epoch": model.metrics.get("epoch"), "weights_sha256": model.metrics.get("weights_sha256")}


def _history(model: TrainedModel) -> list[dict[str, Any]]:
    """Return the log of the run that the model folder lies in; empty where there is none."""
    log = model.path.parent / "log.jsonl"
    if model.path.name != "best" or not log.is_file():
        return []
    try:
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        logger.warning("%s is damaged, so the page shows no curves: %s", log, error)
        return []


def default_folder(model: Path, split: str, text: str) -> Path:
    """Return where the scores of a model folder go: beside the run's best, or into the folder itself."""
    parent = model.parent if model.name == "best" else model
    return parent / f"evaluation-{split}" / text
