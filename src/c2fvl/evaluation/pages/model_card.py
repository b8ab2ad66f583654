"""The model card: `README.md` of a model folder, filled from the run, its evaluations and its audit."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from c2fvl.checkpoints.folders import CARD, OOD_DETECTOR, TRUST_CURVE, find_model, parse_settings
from c2fvl.checkpoints.small_files import read_metrics, read_small_files
from c2fvl.config import Config
from c2fvl.config_files import to_toml
from c2fvl.data.perturbations import perturbations
from c2fvl.evaluation.pages.markdown import escape, table
from c2fvl.evaluation.pages.page import findings_rows, given, show
from c2fvl.files import storage
from c2fvl.models.registry import find_network

_MADE = "<!-- Made by `c2fvl card`; run it again after a new evaluation. -->"
_READS = {
    "none": "no text",
    "findings": "the film first, then reports, as side, number of areas and six zones, each known or not",
    "attributes": "reports, as side, number of areas and six zones",
    "words": "reports, as a sentence of learned words",
    "sentence": "reports, as a sentence that a language model encodes",
}
_NOT_TOLD = "not told"


def write_card(
    path: Path | str,
    *,
    evaluations: Sequence[Path | str] = (),
    data: str = "",
    text_version: str = "",
    licence: str = "",
    replace: bool = False,
) -> Path:
    """Write the card of a run folder, model folder or named model from what lies beside it, and return its path.

    Evaluations and audits are those that `c2fvl evaluate` and `c2fvl audit` leave with the model, and the folders
    `evaluations`; those of other weights are left out, in words. `data`, `text_version` and `licence` say in words what
    no file tells. Raises `FileNotFoundError` where no model or evaluation is, `ValueError` for damaged files and,
    unless `replace`, for a README that this program did not write.
    """
    folder = find_model(path)
    card = folder / CARD
    if card.is_file() and not replace and _MADE not in card.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{card} was not made by this program and is not overwritten; move it, or give --replace")
    config, metrics = parse_settings(folder), read_metrics(folder)
    beside = folder.parent if folder.name == "best" else folder
    found = sorted(beside.glob("evaluation-*/*/summary.json")) + [Path(place) / "summary.json" for place in evaluations]
    summaries: list[tuple[Path, dict[str, Any]]] = []
    strangers: list[tuple[Path, dict[str, Any]]] = []
    for file in dict.fromkeys(found):
        summary = _read_json(file)
        same = summary.get("model", {}).get("weights_sha256") == metrics.get("weights_sha256")
        (summaries if same and "figures" in summary else strangers).append((file, summary))
    scored = [summary for _, summary in summaries]
    environment = _read_json(beside / "environment.json") if (beside / "environment.json").is_file() else {}
    lines = [
        "---", "library_name: c2fvl", "pipeline_tag: image-segmentation", "tags: [medical-imaging, text-guided]", "---",
        "", _MADE, "", f"# {escape(config.preset or config.model.name)}", "",
        "**Research use, not for diagnosis.** No clinic has tested it, no authority has approved it.", "",
        *_what(config, metrics), *_data(config, environment, data, text_version, licence),
        *_recipe(config, environment, beside), *_scores(scored), *_audits(scored),
        *_trust(folder, metrics.get("weights_sha256")),
        *_readings(scored), *_calibration(scored),
        *_limits(scored, [file.parent for file, _ in strangers], familiar=(folder / OOD_DETECTOR).is_file()),
        "## Every setting", "", "```toml", *to_toml(config).strip().splitlines(), "```", "",
    ]  # fmt: skip
    storage.write_text(card, "\n".join(lines))
    return card


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; name a folder that `c2fvl evaluate` or `c2fvl audit` wrote")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; make it again") from error


def _what(config: Config, metrics: Mapping[str, Any]) -> list[str]:
    entry, size = find_network(config.model.name), config.data.image_size
    weights = metrics.get("weights_sha256")
    lines = [
        f"The network `{config.model.name}` ({escape(entry.citation)}) at {size} × {size} pixels. It reads "
        f"{_READS.get(config.data.text, config.data.text)}. Left and right are those of the picture, the viewer's.",
        "",
        "```sh",
        'c2fvl predict FILM.png --model THIS_FOLDER --report "Unilateral pulmonary infection, one infected area, upper '
        'left lung." --out masks'
        if config.data.text != "none"
        else "c2fvl predict FILM.png --model THIS_FOLDER --out masks",
        "```",
        "",
    ]
    if weights:
        lines += [f"`model.safetensors` has the SHA-256 `{weights}`.", ""]
    if metrics.get("source"):
        lines += [f"Converted from `{escape(str(metrics['source']))}`.", ""]
    return lines


def _data(config: Config, environment: Mapping[str, Any], data: str, text_version: str, licence: str) -> list[str]:
    counts = ""
    if "num_train" in environment:
        counts = f", {environment['num_train']} films to train on and {environment['num_val']} to validate on"
    table_name = config.data.table or "the split's own"
    return [
        "## Data", "",
        f"- Films: {escape(data or Path(config.data.root).name or _NOT_TOLD)}{counts}",
        f"- Licence of the films: {escape(licence) if licence else f'{_NOT_TOLD}; ask whoever published them'}",
        f"- Reports: caption table {escape(table_name)}, version {escape(text_version) if text_version else _NOT_TOLD}",
        "",
    ]  # fmt: skip


def _recipe(config: Config, environment: Mapping[str, Any], run: Path) -> list[str]:
    lines = ["## Training", ""]
    if not environment:
        return [*lines, "Not trained by this program, or its run folder is not at hand.", ""]
    command = " ".join(str(word) for word in environment.get("command", [])).replace("`", "'")
    log = run / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    minutes = sum(row["train_seconds"] + row["val_seconds"] for row in rows) / 60
    machine = ", ".join(str(environment[name]) for name in ("processor", "device", "platform") if name in environment)
    commit = f" (commit {environment['commit']})" if environment.get("commit") else ""
    return [
        *lines,
        f"- Recipe: preset {escape(config.preset or 'none')}, seed {config.train.seed}, {len(rows)} epochs in "
        f"{minutes:.0f} minutes",
        f"- Command: `{command}`",
        *_beginning(environment.get("begun_from")),
        f"- Machine: {escape(machine)}; {environment.get('threads', '?')} threads",
        f"- Versions: c2fvl {environment.get('c2fvl')}{commit}, torch {environment.get('torch')}, Python "
        f"{environment.get('python')}",
        "",
    ]


def _beginning(begun_from: Mapping[str, str] | None) -> list[str]:
    if begun_from is None:
        return []
    return [f"- Begun from: `{begun_from['setting']}`, a file of the SHA-256 `{begun_from['sha256']}`"]


def _scores(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["## Figures", ""]
    if not summaries:
        return [*lines, "Not scored yet: run `c2fvl evaluate` or `c2fvl audit`, then `c2fvl card` again.", ""]
    rows = []
    for summary in summaries:
        figures, data = summary["figures"], summary["data"]
        scores = [figures[kind][name] for kind in ("per_image", "pooled") for name in ("dice", "iou")]
        rows.append(
            [f"{escape(Path(data['root']).name)}, {escape(data['split'])}", escape(given(summary))]
            + [show(score, fraction=True) for score in scores] + [str(data["num_cases"])]
        )  # fmt: skip
    header = ["part", "report given", "Dice per image", "IoU per image", "Dice pooled", "IoU pooled", "films"]
    return [
        *lines, *table(header, rows, numbers=5), "",
        "In %, on the films' own grid by the corrected rule; per image and pooled are not to be compared. "
        "In brackets 95 % intervals by bootstrap over patients or studies where they are known, over films else; none "
        "for one film. Captions of QaTa-COV19 and MosMedData+ were made from the masks: a score with a film's own "
        "report is an oracle's.", "",
    ]  # fmt: skip


def _audits(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for summary in summaries:
        audit = summary.get("audit")
        if audit is None:
            continue
        trust = summary["text"].get("trust")
        at = "" if trust is None else f", at trust {trust:g}"
        lines += [f"## What the text does, {escape(summary['data']['split'])} part{at}", ""]
        lines += [f"- {escape(line['text'])}" for line in audit["words"]] + [""]
        rows = [
            [escape(row["title"]), show(row["dice"], fraction=True), show(row["difference_to_right"], fraction=True),
             show(row["wrong_lungs"], fraction=True)]
            for row in audit["changes"]
        ]  # fmt: skip
        header = ["report given", "Dice per image, %", "less its own report, points", "in lungs without infection, %"]
        lines += [*table(header, rows, numbers=3), ""] if rows else []
    return lines or ["## What the text does", "", "Not audited yet: run `c2fvl audit`, then `c2fvl card` again.", ""]


def _trust(folder: Path, weights_sha256: str | None) -> list[str]:
    files = read_small_files(folder, weights_sha256)
    files.require(TRUST_CURVE)
    found = files.trust_curve
    if found is None:
        return []
    wrong = list(found["points"][0]["harm"])
    rows = [
        [f"{point['trust']:g}{' (default)' if point['trust'] == found['default'] else ''}"]
        + [show(point[name], fraction=True) for name in ("right", *wrong)]
        + ["–" if point["benefit_kept"] is None else f"{100 * point['benefit_kept']:.0f}"]
        for point in found["points"]
    ]
    measured, titles = found["measured_on"], {change.name: change.title for change in perturbations(None)}
    bounds = ", ".join(f"{titles[name]} {maximum:g}" for name, maximum in found["max_harm"].items())
    return [
        "## Trust in reports", "",
        f"Dice per image, %, {measured['num_cases']} films of the {escape(measured['split'])} part; without a report "
        f"{show(found['none'], fraction=True)}. The default is the highest trust at which a wrong report costs at most "
        f"so many points: {bounds}. The gain kept is that of the right report, against trust 1.", "",
        *table(["fit-trust", "right report", *(titles[name] for name in wrong), "gain kept, %"], rows, numbers=5), "",
        *_held_out(found, titles),
    ]  # fmt: skip


def _held_out(curve: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    found = curve.get("held_out")
    if found is None:
        return []
    costs = ", ".join(f"{titles[name]} {show(cost, fraction=True)}" for name, cost in found["harm"].items())
    kept = "" if found["benefit_kept"] is None else f", {100 * found['benefit_kept']:.0f} % of the gain kept"
    return [
        f"Chosen on half of the patients ({' and '.join(f'{trust:g}' for trust in found['defaults'])}) and scored on "
        f"the other: the right report {show(found['right'], fraction=True)}{kept}; points below no report: {costs}.",
        "",
    ]  # fmt: skip


def _readings(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for summary in summaries:
        rows = [
            [row["name"], "–" if row["auc"] is None else f"{row['auc']:.3f}", f"{100 * row['accuracy']:.1f}",
             f"{100 * row['majority']:.1f}"]
            for row in findings_rows(summary.get("reading"))
        ]  # fmt: skip
        title = f"## What it reads off films, {escape(summary['data']['split'])} part"
        if rows and title not in lines:  # it reads the same whatever report it is given
            header = ["read off the film", "area under the curve", "accuracy, %", "majority guess, %"]
            lines += [title, "", *table(header, rows, numbers=3), ""]
    return lines


def _calibration(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for summary in summaries:
        found = summary["calibration"]
        if found is None:
            continue
        doubtful = found["confidence"]["doubtful"] if found["confidence"] else None
        rows.append([
            escape(summary["data"]["split"]), escape(given(summary)), "yes" if found["calibrated"] else "no",
            f"{100 * found['pixels']['ece']:.2f}", f"{found['pixels']['brier']:.4f}",
            f"{100 * doubtful['dice_doubtful']:.2f} / {100 * doubtful['dice_kept']:.2f}" if doubtful else "–",
        ])  # fmt: skip
    if not rows:
        return []
    header = ["part", "report given", "calibrated", "calibration error, %", "Brier score",
              "Dice of the doubtful tenth / of the others, %"]  # fmt: skip
    return ["## Calibration and confidence", "", *table(header, rows, numbers=3), ""]


def _limits(summaries: Sequence[Mapping[str, Any]], strangers: Sequence[Path], *, familiar: bool) -> list[str]:
    warnings = [line["text"] for summary in summaries for line in summary.get("audit", {}).get("words", ())
                if line["warning"]]  # fmt: skip
    missed = [
        f"{row['missed']} of {row['lesions']} {size} lesions ({summary['data']['split']} part, report given: "
        f"{given(summary)}) are not found"
        for summary in summaries
        for size, row in summary["figures"]["lesions"].items()
        if row["missed"]
    ]
    lines = [
        "## Limits", "",
        "- It knows films like those it was trained on: other machines, views, ages and diseases were not tried.",
        "- It draws a mask for whatever it is given, a photograph too"
        + ("; films unlike those it was trained on are flagged, not all of them." if familiar else "."),
        *(f"- {escape(words)}" for words in dict.fromkeys([*warnings, *missed])),
    ]  # fmt: skip
    if strangers:
        names = ", ".join(escape(str(place)) for place in strangers)
        lines.append(f"- Left out, for they are of other weights or of an older program: {names}")
    return [*lines, ""]
