"""The model card: `README.md` of a model folder, filled from the run, its evaluations and its audit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from c2fvl.checkpoints.folders import CARD, TRUST_CURVE, WEIGHTS, find_model
from c2fvl.checkpoints.model_files import REDO, ModelFiles, check_target, write_changed
from c2fvl.checkpoints.small_files import SmallFiles, read_small_files
from c2fvl.config import Config
from c2fvl.config_files import to_toml
from c2fvl.data.perturbations import perturbations
from c2fvl.evaluation.evaluation_folder import EvaluationFolder, OtherVersionError
from c2fvl.evaluation.pages.markdown import code, escape, escaped_table, table
from c2fvl.evaluation.pages.rows import audit_table, findings_table, show, trust_table
from c2fvl.evaluation.run_log import read_log
from c2fvl.evaluation.summary import Summary
from c2fvl.files import storage
from c2fvl.files.parsing import parse_json
from c2fvl.metrics.intervals import Estimate
from c2fvl.models.registry import find_network

_MADE = "<!-- Made by `c2fvl card`; run it again after a new evaluation. -->"
_READS = {
    "none": "no text",
    "findings": "the image first, then reports, as side, number of lesions and six zones, each known or not",
    "attributes": "reports, as side, number of lesions and six zones",
    "words": "reports, as a sentence of learned words",
    "sentence": "reports, as a sentence that a language model encodes",
}
_UNKNOWN = "unknown"


def write_card(
    path: Path | str,
    *,
    evaluations: Sequence[Path | str] = (),
    data: str = "",
    text_version: str = "",
    licence: str = "",
    replace: bool = False,
    out: Path | str | None = None,
) -> Path:
    """Write the card of a run folder, model folder or named model from what lies beside it, and return its path.

    Evaluations and audits are those that `c2fvl evaluate` and `c2fvl audit` leave with the model, and the folders
    `evaluations`; those of other weights are left out, in words. `data`, `text_version` and `licence` say in words what
    no file tells. `out` is a new folder for a copy of the model with the card; models of the package get one only so.
    Raises `FileNotFoundError` where no model or evaluation is, `ValueError` for damaged files and, unless `replace`,
    for a README that this program did not write.
    """
    folder = find_model(path)
    card = folder / CARD
    check_target(folder, out, "c2fvl card")
    if (
        out is None
        and card.is_file()
        and not replace
        and _MADE not in card.read_text(encoding="utf-8", errors="replace")
    ):
        raise ValueError(f"{card} was not made by this program and is not overwritten; move it, or give --replace")
    model_files = ModelFiles(folder)
    files = read_small_files(model_files, storage.checksum(model_files.need(WEIGHTS)))
    config, metrics = model_files.settings(), files.metrics
    beside = folder.parent if folder.name == "best" else folder
    folders = [*EvaluationFolder.beside(folder), *(EvaluationFolder(Path(path)) for path in evaluations)]
    summaries: list[Summary] = []
    left_out: list[Path] = []
    for evaluation in dict.fromkeys(folders):
        try:
            summary = evaluation.read_summary()
        except OtherVersionError:
            left_out.append(evaluation.path)
            continue
        if summary.model.weights_sha256 == metrics.get("weights_sha256") and not summary.model.is_masks:
            summaries.append(summary)
        else:
            left_out.append(evaluation.path)
    environment = _read_json(beside / "environment.json") if (beside / "environment.json").is_file() else {}
    lines = [
        "---", "library_name: c2fvl", "pipeline_tag: image-segmentation", "tags: [medical-imaging, text-guided]", "---",
        "", _MADE, "", f"# {escape(config.preset or config.model.name)}", "",
        "**Research use, not for diagnosis.** No clinic has tested it, no authority has approved it.", "",
        *_what(config, metrics), *_data(config, environment, data, text_version, licence),
        *_recipe(config, environment, beside), *_scores(summaries), *_audits(summaries),
        *_trust(files, folder),
        *_findings(summaries), *_calibration(summaries),
        *_limits(summaries, left_out, has_detector=files.ood_detector is not None),
        "## Every setting", "", "```toml", *to_toml(config).strip().splitlines(), "```", "",
    ]  # fmt: skip
    return write_changed(folder, {CARD: "\n".join(lines).encode()}, out) / CARD


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; make it again") from error


def _what(config: Config, metrics: Mapping[str, Any]) -> list[str]:
    entry, size = find_network(config.model.name), config.data.image_size
    weights = metrics.get("weights_sha256")
    lines = [
        f"The network `{config.model.name}` ({escape(entry.citation)}) at {size} × {size} pixels. It reads "
        f"{_READS.get(config.data.text, config.data.text)}. Left and right are those of the image.",
        "",
        "```sh",
        'c2fvl predict IMAGE.png --model THIS_FOLDER --report "Unilateral pulmonary infection, one infected area, '
        'upper left lung." --out masks'
        if config.data.text != "none"
        else "c2fvl predict IMAGE.png --model THIS_FOLDER --out masks",
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
        counts = f", {environment['num_train']} for training and {environment['num_val']} for validation"
    table_name = config.data.table or "the split's own"
    return [
        "## Data", "",
        f"- Images: {escape(data or Path(config.data.root).name or _UNKNOWN)}{counts}",
        f"- Licence of the images: {escape(licence) if licence else f'{_UNKNOWN}; ask whoever published them'}",
        f"- Reports: caption table {escape(table_name)}, version {escape(text_version) if text_version else _UNKNOWN}",
        "",
    ]  # fmt: skip


def _recipe(config: Config, environment: Mapping[str, Any], run: Path) -> list[str]:
    lines = ["## Training", ""]
    if not environment:
        return [*lines, "Not trained by this program, or its run folder is missing.", ""]
    command = " ".join(str(word) for word in environment.get("command", []))
    rows = read_log(run)
    minutes = sum(row["train_seconds"] + row["val_seconds"] for row in rows) / 60
    machine = ", ".join(str(environment[name]) for name in ("processor", "device", "platform") if name in environment)
    commit = f" (commit {environment['commit']})" if environment.get("commit") else ""
    return [
        *lines,
        f"- Recipe: preset {escape(config.preset or 'none')}, seed {config.train.seed}, "
        + (f"{len(rows)} epochs in {minutes:.0f} minutes" if rows else f"{_UNKNOWN} number of epochs"),
        f"- Command: {code(command)}",
        *_initial_weights(environment.get("begun_from")),
        f"- Machine: {escape(machine)}; {environment.get('threads', '?')} threads",
        f"- Versions: c2fvl {environment.get('c2fvl')}{commit}, torch {environment.get('torch')}, Python "
        f"{environment.get('python')}",
        "",
    ]


def _initial_weights(begun_from: Mapping[str, str] | None) -> list[str]:
    if begun_from is None:
        return []
    setting, sha256 = (code(str(begun_from.get(key, _UNKNOWN))) for key in ("setting", "sha256"))
    return [f"- Initial weights: {setting}, a file with the SHA-256 {sha256}"]


def _scores(summaries: Sequence[Summary]) -> list[str]:
    lines = ["## Scores", ""]
    if not summaries:
        return [*lines, "Not scored yet: run `c2fvl evaluate` or `c2fvl audit`, then `c2fvl card` again.", ""]
    rows = []
    for summary in summaries:
        statistics, data = summary.statistics, summary.data
        scores = [of[name] for of in (statistics.per_image, statistics.pooled) for name in ("dice", "iou")]
        rows.append(
            [f"{Path(data.root).name}, {data.split}", summary.text.words]
            + [show(score, fraction=True) for score in scores] + [str(data.num_cases)]
        )  # fmt: skip
    header = ["split", "report given", "Dice per image", "IoU per image", "Dice pooled", "IoU pooled", "images"]
    return [
        *lines, *escaped_table(header, rows, numbers=5), "",
        "In %, at the original resolution by the corrected protocol. Scores per image and pooled scores cannot be "
        "compared with each other. In brackets 95 % confidence intervals by bootstrap over patients or studies where "
        "they are known, otherwise over images; none for one image. Captions of QaTa-COV19 and MosMedData+ were made "
        "from the masks: a score with an image's own report is that of an oracle report.", "",
    ]  # fmt: skip


def _audits(summaries: Sequence[Summary]) -> list[str]:
    lines: list[str] = []
    for summary in summaries:
        if summary.audit is None:
            continue
        trust = summary.text.trust
        at = "" if trust is None else f", at trust {trust:g}"
        lines += [f"## Effect of the report, {escape(summary.data.split)} split{at}", ""]
        lines += [f"- {escape(remark.text)}" for remark in summary.audit.remarks] + [""]
        if summary.audit.changes:
            lines += [*escaped_table(*audit_table(summary.audit), numbers=3), ""]
    return lines or ["## Effect of the report", "", "Not audited yet: run `c2fvl audit`, then `c2fvl card` again.", ""]


def _trust(files: SmallFiles, folder: Path) -> list[str]:
    files.require(TRUST_CURVE)
    try:
        return [] if files.trust_curve is None else _curve(files.trust_curve)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / TRUST_CURVE} is damaged ({error!r}); run {REDO[TRUST_CURVE]} again") from error


def _curve(curve: Mapping[str, Any]) -> list[str]:
    measured, titles = curve["measured_on"], {change.name: change.title for change in perturbations(None)}
    bounds = ", ".join(f"{titles[name]} {maximum:g}" for name, maximum in curve["max_harm"].items())
    lines = [
        "## Trust in reports", "",
        f"Dice per image, %, {measured['num_cases']} images of the {escape(measured['split'])} split; without a report "
        f"{_show(curve['none'])}. The default is the highest trust at which a wrong report costs at most so many "
        f"points: {bounds}. The benefit kept is that of the right report, against trust 1.", "",
        *table(*trust_table(curve, titles), numbers=6), "",
    ]  # fmt: skip
    held_out = curve.get("held_out")
    if held_out is not None:
        costs = ", ".join(f"{titles[name]} {_show(cost)}" for name, cost in held_out["harm"].items())
        kept = held_out["benefit_kept"]
        lines += [
            f"Chosen on half of the patients ({' and '.join(f'{trust:g}' for trust in held_out['defaults'])}) and "
            f"scored on the other half: the right report {_show(held_out['right'])}"
            f"{'' if kept is None else f', {100 * kept:.0f} % of the benefit kept'}; points below no report: {costs}.",
            "",
        ]
    return lines


def _show(estimate: Mapping[str, Any]) -> str:
    return show(Estimate(**estimate), fraction=True)


def _findings(summaries: Sequence[Summary]) -> list[str]:
    lines: list[str] = []
    for summary in summaries:
        header, rows = findings_table(summary.predicted_findings)
        title = f"## Findings predicted from the image alone, {escape(summary.data.split)} split"
        if rows and title not in lines:  # they are the same whatever report is given
            lines += [title, "", *table(header, rows, numbers=3), ""]
    return lines


def _calibration(summaries: Sequence[Summary]) -> list[str]:
    rows = []
    for summary in summaries:
        found = summary.calibration
        if found is None:
            continue
        doubtful = found.confidence.doubtful if found.confidence else None
        rows.append([
            summary.data.split, summary.text.words, "yes" if found.calibrated else "no",
            f"{100 * found.pixels.ece:.2f}", f"{found.pixels.brier:.4f}",
            f"{100 * doubtful.dice_doubtful:.2f} / {100 * doubtful.dice_kept:.2f}" if doubtful else "–",
        ])  # fmt: skip
    if not rows:
        return []
    header = ["split", "report given", "calibrated", "calibration error, %", "Brier score",
              "Dice of the least certain tenth / of the others, %"]  # fmt: skip
    return ["## Calibration and estimated Dice", "", *escaped_table(header, rows, numbers=3), ""]


def _limits(summaries: Sequence[Summary], left_out: Sequence[Path], *, has_detector: bool) -> list[str]:
    warnings = [
        remark.text
        for summary in summaries
        if summary.audit is not None
        for remark in summary.audit.remarks
        if remark.warning
    ]
    missed = [
        f"{row.missed} of {row.lesions} {size} lesions ({summary.data.split} split, report given: "
        f"{summary.text.words}) are not found"
        for summary in summaries
        for size, row in summary.statistics.lesions.items()
        if row.missed
    ]
    lines = [
        "## Limits", "",
        "- It was trained on images of one kind: other machines, views, ages and diseases were not tried.",
        "- It predicts a mask for any image, even a photograph"
        + ("; many images unlike the training images are flagged, but not all." if has_detector else "."),
        *(f"- {escape(words)}" for words in dict.fromkeys([*warnings, *missed])),
    ]  # fmt: skip
    if left_out:
        names = ", ".join(escape(str(path)) for path in left_out)
        lines.append(f"- Not used here, because they are of other weights or of another version of c2fvl: {names}")
    return [*lines, ""]
