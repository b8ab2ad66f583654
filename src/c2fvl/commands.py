"""What each command of `c2fvl` does with its options; what is heavy is imported inside."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from c2fvl.model_folders import ALIAS

PROGRAM = "c2fvl"
STOPPED = {"SIGINT": 130, "SIGTERM": 143}
"""Exit status of a training that was stopped and saved; 75 where its time was up."""


def run_train(options: argparse.Namespace) -> int:
    """Run `c2fvl train`; return its exit status."""
    from c2fvl.config import load_config

    overrides = list(options.overrides)
    if options.resume is not None and options.preset is not None:
        if "=" not in options.preset:
            raise ValueError(f"a run is resumed with its own settings; leave out the preset {options.preset!r}")
        overrides.insert(0, options.preset)
        options.preset = None
    if options.resume is None and options.preset is None:
        raise ValueError("give a preset, such as `c2fvl train debug`, or a run with --resume")
    config = None if options.preset is None else load_config(options.preset, overrides)

    from c2fvl.progress import TerminalObserver
    from c2fvl.train import end_processes, train

    with TerminalObserver() as observer:
        result = train(
            config, out=options.out, run=options.run_folder, resume=options.resume,
            overrides=tuple(overrides) if options.resume else (), observer=observer,
        )  # fmt: skip
    end_processes()
    if not observer.is_main:
        return 0
    print(f"{'Finished' if result.finished else 'Stopped and saved'}: {result.reason}")
    if result.best_dice is not None:
        print(
            f"Best validation Dice per image {result.best_dice:.4f} in epoch {result.best_epoch}: {result.run / 'best'}"
        )
    if not result.finished:
        print(f"Resume with: {PROGRAM} train --resume {result.run}")
    return 0 if result.finished else STOPPED.get(result.signal or "", 75)


def run_evaluate(options: argparse.Namespace) -> int:
    """Run `c2fvl evaluate`; return its exit status."""
    from c2fvl.evaluate import evaluate
    from c2fvl.progress import counting

    with counting("Scoring", quiet=options.json) as progress:
        found = evaluate(
            _loaded(options), options.root, text=options.text, progress=progress, **_scoring_options(options)
        )
    if options.json:
        print(json.dumps(found.summary))
        return 0
    _print_scores(found)
    print(f"Page: {found.page}")
    return 0


def run_audit(options: argparse.Namespace) -> int:
    """Run `c2fvl audit`; return its exit status."""
    from c2fvl.audit import audit
    from c2fvl.page import show
    from c2fvl.progress import counting, table

    with counting("Auditing", quiet=options.json) as progress:
        found = audit(_loaded(options), options.root, progress=progress, **_scoring_options(options))
    if options.json:
        print(json.dumps(found.summary))
        return 0
    _print_scores(found)
    shown = found.summary["audit"]
    rows = [
        [row["title"], show(row["dice"], share=True), show(row["difference_to_right"], share=True),
         show(row["wrong_lungs"], share=True)]
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
    from c2fvl.model_card import write_card

    card = write_card(
        options.model, evaluations=options.evaluation, data=options.data, text_version=options.text_version,
        licence=options.licence, replace=options.replace,
    )  # fmt: skip
    print(card)
    return 0


def _scoring_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `evaluate` and `audit` have in common."""
    from c2fvl.metrics import TOLERANCES

    return {
        "split": options.split, "table": options.table, "seed": options.seed, "out": options.out,
        "device": options.device, "batch_size": options.batch, "workers": options.workers, "spacing": options.spacing,
        "tolerances": tuple(dict.fromkeys(options.tolerance or TOLERANCES)),
    }  # fmt: skip


def _print_scores(found: Any) -> None:
    from c2fvl.page import ROW_LABELS, given, show
    from c2fvl.progress import table

    columns = ("dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled")
    rows = [
        [ROW_LABELS[row["grid"], row["rule"]], *(f"{100 * row[name]:.2f}" for name in columns)]
        for row in found.summary["scores"]
    ]
    first = found.summary["scores"][0]
    rows += [
        [f"  {name}, own grid", *(f"{100 * row[column]:.2f}" for column in columns)]
        for name, row in zip(found.summary["class_names"], first.get("classes", ()), strict=False)
    ]
    print(table(["%", "Dice per image", "IoU per image", "Dice pooled", "IoU pooled"], rows))
    print(
        f"{first['num_cases']} films, {first['num_empty_masks']} with an empty mask, {first['num_false_alarms']} false "
        f"alarms, {first['num_misses']} missed; report given: {given(found.summary)}"
    )
    per_image, unit = found.summary["figures"]["per_image"], found.summary["unit"]["length"]
    print(
        f"Dice per image {show(per_image['dice'], share=True)} %, IoU {show(per_image['iou'], share=True)} %, 95th "
        f"percentile of the Hausdorff distance {show(per_image['hd95'], share=False)} {unit}; in brackets 95 % "
        f"intervals, {found.summary['figures']['intervals']}"
    )


def run_calibrate(options: argparse.Namespace) -> int:
    """Run `c2fvl calibrate`; return its exit status."""
    from c2fvl.calibrate import calibrate
    from c2fvl.progress import counting, table

    with counting("Calibrating", quiet=options.json) as progress:
        found = calibrate(
            _loaded(options), options.root, split=options.split, table=options.table, text=options.text,
            seed=options.seed, device=options.device, batch_size=options.batch, workers=options.workers,
            progress=progress,
        )  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    names = {"nll": "negative log-likelihood of a pixel", "ece": "expected calibration error", "brier": "Brier score"}
    alone = found["without_offset"] or {}
    rows = [
        ["temperature", "1", f"{alone['temperature']:.4f}" if alone else "–", f"{found['temperature']:.4f}"],
        ["offset", "0", "0", f"{found['offset']:.4f}"],
    ]
    for key, name in names.items():
        middle = f"{alone[key]:.5f}" if alone else "–"
        rows.append([name, f"{found[f'{key}_before']:.5f}", middle, f"{found[f'{key}_after']:.5f}"])
    print(table(["", "before", "temperature alone", "kept"], rows))
    fitted = found["fitted_on"]
    print(f"Fitted on {fitted['num_cases']} films of the split {fitted['split']}; report given: {fitted['given']}")
    return 0


def run_acquaint(options: argparse.Namespace) -> int:
    """Run `c2fvl acquaint`; return its exit status."""
    from c2fvl.acquaint import acquaint
    from c2fvl.checkpoint import load_model
    from c2fvl.progress import counting, table

    with counting("Looking", quiet=options.json) as progress:
        found = acquaint(
            load_model(options.model), options.root, split=options.split, check_split=options.check,
            table=options.table, progress=progress,
        )  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    rows = [[name, f"{100 * share:.1f}"] for name, share in found["flagged"].items()]
    print(table([f"{found['num_checked']} films of {found['checked_on']}", "flagged, %"], rows))
    return 0


def run_trust(options: argparse.Namespace) -> int:
    """Run `c2fvl trust`; return its exit status."""
    from c2fvl.checkpoint import load_model
    from c2fvl.progress import counting, table
    from c2fvl.trust import WRONG, measure_trust

    with counting("Measuring", quiet=options.json) as progress:
        found = measure_trust(
            load_model(options.model, device=options.device), options.root, split=options.split, table=options.table,
            seed=options.seed, keep=options.keep, batch_size=options.batch, progress=progress,
        )  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    rows = [
        [
            f"{point['trust']:g}",
            *(f"{100 * point[name]['value']:.2f}" for name in ("right", *WRONG)),
            "–" if point["gain_kept"] is None else f"{100 * point['gain_kept']:.0f}",
            "yes" if point["within_bounds"] else "no",
        ]
        for point in found["points"]
    ]
    print(table(["trust", "right", *(name.replace("_", " ") for name in WRONG), "gain kept, %", "in bounds"], rows))
    kept = ", kept in the model folder" if options.keep else "; --keep writes it to the model folder"
    print(
        f"Dice per image, %; without a report {100 * found['none']['value']:.2f}. Default: {found['default']:g}{kept}"
    )
    held_out = found["held_out"]
    if held_out is not None:
        costs = ", ".join(f"{name.replace('_', ' ')} {100 * held_out['harm'][name]['value']:.2f}" for name in WRONG)
        share = "–" if held_out["gain_kept"] is None else f"{100 * held_out['gain_kept']:.0f}"
        print(
            f"Chosen on half of the patients ({' and '.join(f'{trust:g}' for trust in held_out['defaults'])}) and "
            f"scored on the other: right {100 * held_out['right']['value']:.2f}, gain kept {share} %; below no report: "
            f"{costs}"
        )
    return 0


def run_predict(options: argparse.Namespace) -> int:
    """Run `c2fvl predict`; return its exit status."""
    from c2fvl.predict import ONNX, Predictor, collect, predict_to_folder

    for film in options.films:
        if Path(film).suffix == ONNX:
            raise ValueError(f"{film} is an exported network and no film; give it as --model {film}")
    requests = collect(options.films, table=options.csv, report=options.report)
    exported = Path(options.model).suffix == ONNX
    trust = options.trust if exported else None
    if exported and options.text_model is not None:
        raise ValueError("--text-model goes with a model folder; export the model anew for another language model")
    model = options.model if exported else _loaded(options)
    predictor = Predictor(
        model, device=options.device, threshold=options.threshold, batch_size=options.batch, trust=trust
    )
    if options.report is not None:
        # what cannot be used at all ends it at once
        _, refusal = predictor.understand_or_refuse(options.report, laterality=options.laterality)
        if refusal:
            print(f"{PROGRAM}: the report is not used: {refusal}; masks are those without a report", file=sys.stderr)
    failed = 0
    for record in predict_to_folder(
        predictor, requests, options.out, laterality=options.laterality,
        probability=options.probability, overlay=options.overlay, workers=options.workers,
    ):  # fmt: skip
        failed += "error" in record
        if options.json:
            print(json.dumps(record))
        elif "error" in record:
            print(f"{record['image']}: {record['error']}", file=sys.stderr)
        else:
            pixels = record["height"] * record["width"]
            areas = (f"{100 * area / pixels:.2f} % {name}" for name, area in record["area_per_class"].items())
            sure = record["expected_dice"]
            said = (
                "" if sure is None else f"; expected Dice {sure:.2f}{'' if record['calibrated'] else ', uncalibrated'}"
            )
            print(f"{Path(options.out) / record['mask']}: {', '.join(areas)} of the picture{said}")
            for remark in (record["reading"] or {}).get("remarks", ()):
                print(f"  {remark}")
            for reason in (record["film"] or {}).get("reasons", ()):
                print(f"{record['image']}: not to be relied on: {reason}", file=sys.stderr)
    if failed:
        print(f"{PROGRAM}: {failed} of {len(requests)} films could not be predicted", file=sys.stderr)
    return 1 if failed else 0


def run_describe(options: argparse.Namespace) -> int:
    """Run `c2fvl describe`; return its exit status."""
    from c2fvl.predict import Predictor, collect

    predictor = Predictor(options.model, device=options.device)
    failed = 0
    for request in collect(options.films):
        try:
            found = predictor.describe(request.image)
        except (OSError, ValueError) as error:
            failed += 1
            print(f"{request.image}: {str(error).removeprefix(f'{request.image}: ')}", file=sys.stderr)
            continue
        reading, look = found.reading, found.look
        assert reading is not None
        if options.json:
            record = {"image": str(request.image), "film": None if look is None else look.as_dict()}
            print(json.dumps(record | reading.as_dict(options.laterality)))
            continue
        report, *figures = reading.lines(options.laterality)
        print(f"{request.image}: {report}")
        for line in figures:
            print(f"  {line}")
        for reason in () if look is None else look.reasons:
            print(f"  not to be relied on: {reason}")
    return 1 if failed else 0


def run_check(options: argparse.Namespace) -> int:
    """Run `c2fvl check`; return its exit status."""
    from c2fvl.check import check
    from c2fvl.progress import counting

    deep = _deep_options(options)
    with counting("Checking", quiet=options.json) as progress:
        report = check(
            options.root,
            table=options.table,
            mask=options.mask,
            workers=options.workers,
            progress=progress,
            deep=deep,
        )
    print(json.dumps(report.as_dict(), indent=2) if options.json else "\n".join(report.lines()))
    return 1 if report.errors else 0


def _deep_options(options: argparse.Namespace) -> Any:
    from c2fvl.deep_check import DeepOptions

    if not options.deep:
        if options.out is not None or options.write_splits is not None:
            raise ValueError("--out and --write-splits belong to the deep check; give --deep too")
        return None
    try:
        shares = tuple(int(share) for share in options.shares.split(","))
    except ValueError as error:
        raise ValueError(f"--shares is {options.shares!r}; expected three whole numbers such as 80,10,10") from error
    folder, csv = (None if given is None else Path(given) for given in (options.out, options.write_splits))
    return DeepOptions(pictures=folder, splits=csv, shares=shares, seed=options.seed)


def run_captions(options: argparse.Namespace) -> int:
    """Run `c2fvl captions`; return its exit status."""
    from c2fvl.captions import write_captions
    from c2fvl.progress import counting

    with counting("Describing") as progress:
        count = write_captions(
            options.root,
            options.table,
            split=options.split,
            modality=options.modality,
            form=options.form,
            progress=progress,
        )
    print(f"{options.table}: {count} captions, made from the masks they describe")
    return 0


def run_phantom(options: argparse.Namespace) -> int:
    """Run `c2fvl phantom`; return its exit status."""
    from c2fvl.phantom import write_phantom

    counts = write_phantom(Path(options.out), num_cases=options.num_cases, seed=options.seed, size=options.size)
    print(f"{options.out}: " + ", ".join(f"{count} films to {split}" for split, count in counts.items()))
    return 0


def run_convert(options: argparse.Namespace) -> int:
    """Run `c2fvl convert`; return its exit status."""
    from c2fvl.config import load_config, nearest_names
    from c2fvl.official_names import OFFICIAL_NAMES
    from c2fvl.reference import convert

    if options.model not in OFFICIAL_NAMES:
        raise ValueError(f"there is no network {options.model!r}{nearest_names(options.model, OFFICIAL_NAMES)}")
    config = load_config(options.preset or f"{options.model}_qata_paper")
    network = convert(options.file, options.out, name=options.model, config=config)
    print(
        f"{options.out}: {sum(parameter.numel() for parameter in network.parameters()):,} parameters of {options.model}"
    )
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Run `c2fvl export`; return its exit status."""
    import dataclasses

    from c2fvl.checkpoint import load_model
    from c2fvl.export import export

    found = export(
        load_model(options.model), options.out, dtype=options.dtype, opset=options.opset,
        calibration=options.calibration, table=options.table,
        progress=lambda message: print(f"{PROGRAM}: {message}", file=sys.stderr),
    )  # fmt: skip
    if options.json:
        print(json.dumps(dataclasses.asdict(found) | {"path": str(found.path)}))
        return 0
    print(f"{found.path}: {found.dtype}, opset {found.opset}, {found.path.stat().st_size / 2**20:.1f} MiB")
    print(f"Largest difference to PyTorch in probability: {found.difference:.1e}")
    if found.dice_before is not None and found.dice_after is not None:
        before, after = 100 * found.dice_before, 100 * found.dice_after
        print(
            f"Dice per image on {found.num_scored} films: {before:.2f} before, {after:.2f} after; {before - after:.2f} "
            "lost"
        )
    return 0


def run_bench(options: argparse.Namespace) -> int:
    """Run `c2fvl bench`; return its exit status."""
    import dataclasses

    from c2fvl import storage
    from c2fvl.bench import PARTS, bench, to_markdown
    from c2fvl.profiling import Conditions

    out = None if options.out is None else storage.check_folder(options.out, what="figures")
    found = bench(
        options.models, conditions=Conditions(options.device, options.dtype, options.batch, options.repeats),
        root=options.root, parts=options.only or PARTS,
        progress=lambda message: print(f"{PROGRAM}: measuring {message}", file=sys.stderr),
    )  # fmt: skip
    figures = dataclasses.asdict(found) | {"command": sys.argv}
    if out is not None:
        storage.write_text(out / "bench.md", to_markdown(found))
        storage.write_json(out / "bench.json", figures)
    print(json.dumps(figures) if options.json else to_markdown(found), end="\n" if options.json else "")
    return 0


def run_pack(options: argparse.Namespace) -> int:
    """Run `c2fvl pack`; return its exit status."""
    from c2fvl.packing import pack

    found = pack(options.model, options.out)
    kept = [name for name, there in (("calibration", found.has_calibration), ("card", found.has_card)) if there]
    print(f"{found.folder}: {found.num_bytes / 1e6:.1f} MB of weights, with {' and '.join(kept) or 'no card'}")
    print(f"Largest difference of a weight by rounding: {found.largest_difference:.2g}, in {found.tensor}")
    return 0


def run_pull(options: argparse.Namespace) -> int:
    """Run `c2fvl pull`; return its exit status."""
    from c2fvl.hub import pull

    print(f"{pull(options.repository, revision=options.revision)}: use it as --model {options.repository}")
    return 0


def run_push(options: argparse.Namespace) -> int:
    """Run `c2fvl push`; return its exit status."""
    from c2fvl.hub import push

    print(push(options.folder, options.repository, private=options.private))
    return 0


def run_models(options: argparse.Namespace) -> int:
    """Run `c2fvl models`; return its exit status."""
    from c2fvl.catalogue import CATALOGUE, arguments_of

    if options.summary or options.arguments or options.size:
        return _summarise_network(options)
    if options.name is not None:
        for line in arguments_of(options.name):
            print(line)
        return 0
    rows = [("name", "paper", "year", "text that it reads", "parameters")]
    rows += [
        (name, entry.paper, str(entry.year), entry.reads, f"{entry.parameters / 1e6:.1f} M")
        for name, entry in CATALOGUE.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, last in rows:
        left = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        print(f"{left}  {last.rjust(widths[-1])}")
    print()
    _print_trained()
    return 0


def _print_trained() -> None:
    from c2fvl.model_folders import DEFAULT, SHIPPED, named_models

    found = named_models()
    if not found:
        print(f"No trained model is at hand: none came with the package ({SHIPPED}), none was pulled.")
        return
    rows = [("trained model", "place", "network", "size", "")]
    rows += [
        (f"{model.name} ({ALIAS})" if model.name == DEFAULT else model.name, model.place, model.network,
         f"{model.num_bytes / 1e6:.1f} MB", model.words)
        for model in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _summarise_network(options: argparse.Namespace) -> int:
    from c2fvl.profiling import as_rows, build_empty, example_settings, stages
    from c2fvl.progress import table

    if options.name is None:
        raise ValueError("name a network to summarise, such as `c2fvl models c2fvl --summary`")
    config = example_settings(options.name, options.arguments, options.size)
    found = stages(*build_empty(config))
    if options.json:
        print(json.dumps({"image_size": config.data.image_size, "stages": as_rows(found)}))
        return 0
    rows = [
        [stage.name or "whole network", stage.kind, stage.output, f"{stage.parameters:,}", f"{stage.flops / 1e9:.3f}"]
        for stage in found
    ]
    print(table(["stage", "kind", "output", "parameters", "GFLOP"], rows, numbers=3))
    side = config.data.image_size
    print(f"One film of {side} × {side}; 2 operations for each multiplication with its addition.")
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """Run `c2fvl compare`; return its exit status."""
    from c2fvl.compare import compare
    from c2fvl.comparison_tables import DIFFERENCE_HEADER, difference_rows, header, rows, to_json, write
    from c2fvl.progress import table

    if options.published is not None:
        return _read_published(options)
    found = compare(
        options.models, options.root, split=options.split, table=options.table, text=options.text, seed=options.seed,
        text_model=options.text_model, device=options.device, batch_size=options.batch, workers=options.workers,
        speed=not options.no_speed, fresh=options.fresh,
        progress=lambda message: print(f"{PROGRAM}: {message}", file=sys.stderr),
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

    from c2fvl.statistics import read_published

    if options.models:
        raise ValueError("--published reads one pair of figures and compares no models; leave them out")
    dice, iou = options.published
    found = read_published(dice, iou)
    if options.json:
        print(json.dumps({"dice": dice, "iou": iou, **dataclasses.asdict(found)}))
    else:
        print(f"Dice {dice}, IoU {iou}: {found.words}")
    return 1 if found.kind == "impossible" else 0


def run_presets(options: argparse.Namespace) -> int:
    """Run `c2fvl presets`; return its exit status."""
    from c2fvl.config import PRESETS, load_config, preset_names, to_toml

    if options.name is not None:
        print(to_toml(load_config(options.name)), end="")
        return 0
    width = max(len(name) for name in preset_names())
    for name in preset_names():
        first = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0]
        print(f"{name:{width}}  {first.removeprefix('# ')}")
    return 0


def run_settings(options: argparse.Namespace) -> int:
    """Run `c2fvl settings`; return its exit status."""
    from c2fvl.config import describe_settings

    for name, default, meaning in describe_settings():
        print(f"{name} = {default}\n    {meaning}")
    return 0


def _loaded(options: argparse.Namespace) -> Any:
    """Return the model that the options name, its language model where they say it is."""
    from c2fvl.checkpoint import load_model

    model = load_model(options.model, device=options.device)
    if options.text_model is not None:
        model = model.with_text_model(options.text_model)
    return model if options.trust is None else model.with_trust(options.trust)
