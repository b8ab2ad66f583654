"""Commands that evaluate trained networks: evaluate, audit, compare, bench, card."""

import argparse
import json
import sys
from typing import Any

from c2fvl.cli.layout import paragraph, table
from c2fvl.cli.on_ray import add_engine, check_engine, evaluated_on_ray
from c2fvl.cli.options import (
    MODEL,
    Commands,
    add_choice,
    add_compute,
    add_copy,
    add_device,
    add_json,
    add_lengths,
    add_model_and_part,
    add_number,
    add_report,
    add_seed,
    add_split,
    add_text_model,
    add_trust,
    compute_of,
    device_of,
    load_named_model,
    part_of,
)
from c2fvl.cli.output import say, say_lines


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    commands.add("evaluate", run_evaluate, "Evaluate a model on a data set.", _evaluate_options)
    commands.add("audit", run_audit, "Test how correct, wrong and missing reports change the result.", _audit_options)
    commands.add(
        "compare", run_compare, "Compare several models: scores, size, operations, speed, memory.", _compare_options
    )
    commands.add("bench", run_bench, "Measure speed and memory of networks on this machine.", _bench_options)
    commands.add("card", run_card, "Write the model card, README.md of a model folder.", _card_options)


def _evaluate_options(sub: argparse.ArgumentParser) -> None:
    add_model_and_part(sub)
    sub.add_argument(
        "--masks",
        action="store_true",
        help="the first argument is no model but a folder of masks that another tool or a reader has drawn",
    )
    add_report(sub)
    _add_scoring(sub)
    add_engine(sub, "cases are scored")


def _audit_options(sub: argparse.ArgumentParser) -> None:
    add_model_and_part(sub)
    add_seed(sub)
    _add_scoring(sub)


def _add_scoring(sub: argparse.ArgumentParser) -> None:
    add_text_model(sub)
    add_trust(sub)
    add_lengths(sub)
    sub.add_argument("--out", metavar="DIR", help="results folder (default: beside the model)")
    add_compute(sub)
    add_json(sub, "the summary")


def run_evaluate(options: argparse.Namespace) -> int:
    """Run `c2fvl evaluate`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.evaluation.drawn_masks import evaluate_masks
    from c2fvl.evaluation.evaluate import evaluate

    if options.masks and (options.report != "right" or options.text_model or options.trust is not None):
        raise ValueError("--masks scores masks that are drawn already; leave out --report, --text-model and --trust")
    check_engine(options)
    if options.masks and options.engine == "ray":
        raise ValueError("--engine ray scores models; leave it out with --masks")
    with TerminalProgress("Evaluating", quiet=options.json) as progress:
        if options.engine == "ray":
            found = evaluated_on_ray(options, progress, _scoring_options(options))
        elif options.masks:
            found = evaluate_masks(
                options.model, part_of(options), progress=progress, **_scoring_options(options)
            )  # fmt: skip
        else:
            found = evaluate(
                load_named_model(options), part_of(options), compute_of(options),
                progress=progress, **_scoring_options(options),
            )  # fmt: skip
    if options.json:
        say_lines(json.dumps(found.summary.as_dict()))
        return 0
    _print_scores(found)
    say(f"Results page: {found.page}")
    return 0


def run_audit(options: argparse.Namespace) -> int:
    """Run `c2fvl audit`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.evaluation.audit import audit
    from c2fvl.evaluation.pages.rows import effect_table

    with TerminalProgress("Auditing", quiet=options.json) as progress:
        found = audit(
            load_named_model(options), part_of(options), compute_of(options),
            progress=progress, **_scoring_options(options),
        )  # fmt: skip
    if options.json:
        say_lines(json.dumps(found.summary.as_dict()))
        return 0
    _print_scores(found)
    assert found.summary.audit is not None
    if found.summary.audit.changes:
        say("")
        say_lines(table(*effect_table(found.summary.audit)))
        say("")
    for remark in found.summary.audit.remarks:
        say_lines(paragraph(remark.text))
    say(f"Results page: {found.page}")
    return 0


def _scoring_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that only `evaluate` and `audit` take."""
    from c2fvl.metrics.case_scores import TOLERANCES

    tolerances = tuple(dict.fromkeys(options.tolerance or TOLERANCES))
    return {"out": options.out, "spacing": options.spacing, "tolerances": tolerances}


def _print_scores(found: Any) -> None:
    from c2fvl.evaluation.pages.rows import score_table, show

    summary, statistics = found.summary, found.summary.statistics
    say_lines(table(*score_table(summary)))
    say("")
    first = summary.scores[0]
    lines = [
        f"{first.num_cases} images, {first.num_empty_masks} without a lesion ({first.num_false_positives} of these "
        f"with a prediction), {first.num_missed_lesions} whose lesion is missed entirely; report: {summary.text.words}"
    ]
    dice, iou = (show(statistics.per_image[name], fraction=True) for name in ("dice", "iou"))
    lines.append(
        f"Dice per image {dice} %, IoU {iou} %, 95th percentile of the Hausdorff distance "
        f"{show(statistics.per_image['hd95'], fraction=False)} {summary.unit.length}; in brackets 95 % confidence "
        f"intervals ({statistics.intervals})"
    )
    for line in lines:
        say_lines(paragraph(line))


def _compare_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "models",
        nargs="*",
        metavar="RUN",
        help="run folders, model folders or results folders; LABEL=RUN,RUN averages the seeds of one network",
    )
    sub.add_argument("--root", help="data set to evaluate on; without it only size and speed are compared")
    sub.add_argument(
        "--published",
        nargs=2,
        metavar=("DICE", "IOU"),
        help="say whether a published pair of scores is per image or pooled",
    )
    add_split(sub)
    add_report(sub)
    add_text_model(sub)
    sub.add_argument("--fresh", action="store_true", help="evaluate again, even if results exist")
    sub.add_argument("--no-speed", action="store_true", help="do not measure speed and memory")
    sub.add_argument(
        "--out", metavar="DIR", help="folder for a page, and for the table as csv, Markdown, LaTeX and JSON"
    )
    add_compute(sub, batch_size="8")
    add_json(sub, "the table")


def run_compare(options: argparse.Namespace) -> int:
    """Run `c2fvl compare`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.evaluation.compare.compare import compare
    from c2fvl.evaluation.compare.comparison_page import render_comparison
    from c2fvl.evaluation.compare.tables import DIFFERENCE_HEADER, difference_rows, header, rows, to_json, write
    from c2fvl.files import storage

    if options.published is not None:
        return _read_published(options)
    if options.out:
        storage.check_folder(options.out, what="tables")  # before the models are scored
    with TerminalProgress(quiet=options.json) as progress:
        found = compare(
            options.models, None if options.root is None else part_of(options), compute_of(options),
            text_model=options.text_model, speed=not options.no_speed, fresh=options.fresh, progress=progress,
        )  # fmt: skip
    files = write(found, options.out, page=render_comparison(found)) if options.out else []
    if options.json:
        say_lines(json.dumps(to_json(found)))
        return 0
    say_lines(table(header(found), rows(found), numbers=len(found.columns)))
    say("")
    say_lines(paragraph(found.caption))
    if found.differences:
        say("")
        say_lines(table(list(DIFFERENCE_HEADER), difference_rows(found), numbers=4))
        say("")
    if found.statistics:
        say_lines(paragraph(found.statistics))
    for file in files:
        say(file)
    return 0


def _read_published(options: argparse.Namespace) -> int:
    import dataclasses

    from c2fvl.metrics.published import read_published

    if options.models:
        raise ValueError("--published compares no models; leave out the models")
    dice, iou = options.published
    found = read_published(dice, iou)
    if options.json:
        say_lines(json.dumps({"dice": dice, "iou": iou, **dataclasses.asdict(found)}))
    else:
        say(f"Dice {dice}, IoU {iou}: {found.words}")
    return 1 if found.kind == "impossible" else 0


def _bench_options(sub: argparse.ArgumentParser) -> None:
    from c2fvl.inference.compute import MEASURABLE, PRECISIONS

    sub.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="networks, trained models, model folders or exported files (default: c2fvl)",
    )
    sub.add_argument("--only", action="append", choices=MEASURABLE, help="measure only this; may be repeated")
    sub.add_argument("--root", help="data set to load images from (default: a synthetic one)")
    add_device(sub)
    add_choice(sub, "--dtype", PRECISIONS, "fp32", "number format of the computation")
    add_number(sub, "--batch-size", 1, "images per batch")
    add_number(sub, "--repeats", 10, "batches that are timed")
    sub.add_argument("--out", metavar="DIR", help="folder for the results as Markdown and JSON")
    add_json(sub, "the results")


def run_bench(options: argparse.Namespace) -> int:
    """Run `c2fvl bench`; return its exit status."""
    import dataclasses

    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.evaluation.bench import bench, to_markdown
    from c2fvl.files import storage
    from c2fvl.inference.compute import MEASURABLE
    from c2fvl.inference.speed import Conditions

    out = None if options.out is None else storage.check_folder(options.out, what="results")
    conditions = Conditions(device_of(options), options.dtype, options.batch_size, options.repeats)
    with TerminalProgress() as progress:
        found = bench(
            options.models, conditions=conditions, root=options.root, parts=options.only or MEASURABLE,
            progress=progress,
        )  # fmt: skip
    results = dataclasses.asdict(found) | {"command": sys.argv}
    if out is not None:
        storage.write_text(out / "bench.md", to_markdown(found))
        storage.write_json(out / "bench.json", results)
    say_lines(json.dumps(results) if options.json else to_markdown(found).rstrip("\n"))
    return 0


def _card_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help=MODEL)
    sub.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="DIR",
        help="another results folder of evaluate or audit; may be repeated",
    )
    sub.add_argument("--data", default="", metavar="TEXT", help="name of the data set (default: that of its folder)")
    sub.add_argument("--text-version", default="", metavar="TEXT", help="version of the captions")
    sub.add_argument("--licence", default="", metavar="TEXT", help="licence of the images, as far as it is known")
    sub.add_argument("--replace", action="store_true", help="overwrite a README.md that c2fvl did not write")
    add_copy(sub)


def run_card(options: argparse.Namespace) -> int:
    """Run `c2fvl card`; return its exit status."""
    from c2fvl.evaluation.pages.model_card import write_card

    card = write_card(
        options.model, evaluations=options.evaluation, data=options.data, text_version=options.text_version,
        licence=options.licence, replace=options.replace, out=options.out,
    )  # fmt: skip
    say(card)
    return 0
