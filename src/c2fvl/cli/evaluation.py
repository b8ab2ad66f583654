"""Commands that score trained networks."""

import argparse
import json
import sys
from typing import Any

from c2fvl.cli.options import compute_of, load_named_model, part_of


def run_evaluate(options: argparse.Namespace) -> int:
    """Run `c2fvl evaluate`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.evaluation.evaluate import evaluate

    with TerminalProgress("Scoring", quiet=options.json) as progress:
        found = evaluate(
            load_named_model(options), part_of(options), compute_of(options),
            progress=progress, **_scoring_options(options),
        )  # fmt: skip
    if options.json:
        print(json.dumps(found.summary))
        return 0
    _print_scores(found)
    print(f"Page: {found.page}")
    return 0


def run_audit(options: argparse.Namespace) -> int:
    """Run `c2fvl audit`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress, table
    from c2fvl.evaluation.audit import audit
    from c2fvl.evaluation.pages.page import show

    with TerminalProgress("Auditing", quiet=options.json) as progress:
        found = audit(
            load_named_model(options), part_of(options), compute_of(options),
            progress=progress, **_scoring_options(options),
        )  # fmt: skip
    if options.json:
        print(json.dumps(found.summary))
        return 0
    _print_scores(found)
    shown = found.summary["audit"]
    rows = [
        [row["title"], show(row["dice"], fraction=True), show(row["difference_to_right"], fraction=True),
         show(row["wrong_lungs"], fraction=True)]
        for row in shown["changes"]
    ]  # fmt: skip
    if rows:
        header = ["report given", "Dice per image, %", "less its own report, points", "in lungs without infection, %"]
        print(table(header, rows, width=160))
    for line in shown["words"]:
        print(line["text"])
    print(f"Page: {found.page}")
    return 0


def run_card(options: argparse.Namespace) -> int:
    """Run `c2fvl card`; return its exit status."""
    from c2fvl.evaluation.pages.model_card import write_card

    card = write_card(
        options.model, evaluations=options.evaluation, data=options.data, text_version=options.text_version,
        licence=options.licence, replace=options.replace,
    )  # fmt: skip
    print(card)
    return 0


def _scoring_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `evaluate` and `audit` have in common."""
    from c2fvl.metrics.case_scores import TOLERANCES

    return {
        "out": options.out, "spacing": options.spacing,
        "tolerances": tuple(dict.fromkeys(options.tolerance or TOLERANCES)),
    }  # fmt: skip


def _print_scores(found: Any) -> None:
    from c2fvl.cli.terminal import table
    from c2fvl.evaluation.pages.page import ROW_LABELS, given, show

    columns = ("dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled")
    rows = [
        [ROW_LABELS[row["resolution"], row["protocol"]], *(f"{100 * row[name]:.2f}" for name in columns)]
        for row in found.summary["scores"]
    ]
    first = found.summary["scores"][0]
    rows += [
        [f"  {name}, original resolution", *(f"{100 * row[column]:.2f}" for column in columns)]
        for name, row in zip(found.summary["class_names"], first.get("classes", ()), strict=False)
    ]
    print(table(["%", "Dice per image", "IoU per image", "Dice pooled", "IoU pooled"], rows))
    print(
        f"{first['num_cases']} films, {first['num_empty_masks']} with an empty mask, "
        f"{first['num_false_positives']} false positives, {first['num_missed_lesions']} with a missed lesion; "
        f"report given: {given(found.summary)}"
    )
    per_image, unit = found.summary["figures"]["per_image"], found.summary["unit"]["length"]
    print(
        f"Dice per image {show(per_image['dice'], fraction=True)} %, IoU {show(per_image['iou'], fraction=True)} %, "
        f"95th percentile of the Hausdorff distance {show(per_image['hd95'], fraction=False)} {unit}; in brackets 95 % "
        f"intervals, {found.summary['figures']['intervals']}"
    )


def run_bench(options: argparse.Namespace) -> int:
    """Run `c2fvl bench`; return its exit status."""
    import dataclasses

    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.evaluation.bench import PARTS, bench, to_markdown
    from c2fvl.files import storage
    from c2fvl.inference.cost import Conditions

    out = None if options.out is None else storage.check_folder(options.out, what="figures")
    found = bench(
        options.models, conditions=Conditions(options.device, options.dtype, options.batch, options.repeats),
        root=options.root, parts=options.only or PARTS,
        progress=TerminalProgress(),
    )  # fmt: skip
    figures = dataclasses.asdict(found) | {"command": sys.argv}
    if out is not None:
        storage.write_text(out / "bench.md", to_markdown(found))
        storage.write_json(out / "bench.json", figures)
    print(json.dumps(figures) if options.json else to_markdown(found), end="\n" if options.json else "")
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """Run `c2fvl compare`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress, table
    from c2fvl.evaluation.compare.compare import compare
    from c2fvl.evaluation.compare.tables import DIFFERENCE_HEADER, difference_rows, header, rows, to_json, write

    if options.published is not None:
        return _read_published(options)
    with TerminalProgress(quiet=options.json) as progress:
        found = compare(
            options.models, None if options.root is None else part_of(options), compute_of(options),
            text_model=options.text_model, speed=not options.no_speed, fresh=options.fresh, progress=progress,
        )  # fmt: skip
    files = write(found, options.out) if options.out else []
    if options.json:
        print(json.dumps(to_json(found)))
        return 0
    print(table(header(found), rows(found), numbers=len(found.columns), width=240))
    print(found.caption)
    if found.differences:
        print(table(list(DIFFERENCE_HEADER), difference_rows(found), numbers=4, width=200))
    if found.statistics:
        print(found.statistics)
    for file in files:
        print(file)
    return 0


def _read_published(options: argparse.Namespace) -> int:
    import dataclasses

    from c2fvl.metrics.published import read_published

    if options.models:
        raise ValueError("--published reads one pair of figures and compares no models; leave them out")
    dice, iou = options.published
    found = read_published(dice, iou)
    if options.json:
        print(json.dumps({"dice": dice, "iou": iou, **dataclasses.asdict(found)}))
    else:
        print(f"Dice {dice}, IoU {iou}: {found.words}")
    return 1 if found.kind == "impossible" else 0
