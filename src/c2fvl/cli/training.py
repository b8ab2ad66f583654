"""Commands that train a network or fit something to it."""

import argparse
import json
from typing import Any

from c2fvl.checkpoints.folders import CALIBRATION, OOD_DETECTOR, TRUST_CURVE
from c2fvl.cli.exit_status import DONE, TIME_IS_UP, status_of_signal
from c2fvl.cli.layout import described, paragraph, table
from c2fvl.cli.options import (
    PROGRAM,
    ROOT,
    Commands,
    add_compute,
    add_copy,
    add_device,
    add_json,
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
    commands.add("train", run_train, "Train a network from a preset, or resume a run.", _train_options)
    commands.add(
        "crossval", run_crossval, "Train on all folds but one, score the images left out, for each fold.", _fold_options
    )
    commands.add("calibrate", run_calibrate, "Fit temperature and offset of the probabilities.", _calibrate_options)
    commands.add(
        "fit-trust",
        run_fit_trust,
        "Choose the default trust by benefit and harm of reports.",
        _fit_trust_options,
    )
    commands.add("fit-ood", run_fit_ood, "Fit the out-of-distribution check on the training images.", _fit_ood_options)
    commands.add("presets", run_presets, "List the presets, or print one.", _presets_options)
    commands.add("settings", run_settings, "List every setting with its default and meaning.", lambda sub: None)


def _train_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("preset", nargs="?", help="name of a preset (see `c2fvl presets`) or path of a TOML file")
    sub.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings to change, for example train.epochs=20"
    )
    sub.add_argument("--resume", metavar="RUN", help="run folder to resume")
    sub.add_argument(
        "--out", default="runs", help="parent of the run folder, which is OUT/<preset>/<time> (default: %(default)s)"
    )
    sub.add_argument("--run-dir", dest="run_folder", metavar="DIR", help="run folder itself, instead of --out")


def run_train(options: argparse.Namespace) -> int:
    """Run `c2fvl train`; return its exit status."""
    from c2fvl.config_files import load_config

    overrides = list(options.overrides)
    if options.resume is not None and options.preset is not None:
        if "=" not in options.preset:
            raise ValueError(f"--resume uses the settings of the run; leave out the preset {options.preset!r}")
        overrides.insert(0, options.preset)
        options.preset = None
    if options.resume is None and options.preset is None:
        raise ValueError("give a preset, for example `c2fvl train debug`, or a run with --resume")
    config = None if options.preset is None else load_config(options.preset, overrides)

    from c2fvl.cli.terminal import TerminalObserver
    from c2fvl.training.loop import train
    from c2fvl.training.processes import end_processes

    with TerminalObserver() as observer:
        result = train(
            config, out=options.out, run=options.run_folder, resume=options.resume,
            overrides=tuple(overrides) if options.resume else (), observer=observer,
        )  # fmt: skip
    end_processes()
    if not observer.is_main:
        return 0
    say(f"{'Finished' if result.finished else 'Stopped and saved'}: {result.reason}")
    if result.best_dice is not None:
        best = result.run / "best"
        say(f"Best validation Dice per image {result.best_dice:.4f} in epoch {result.best_epoch}: {best}")
    if not result.finished:
        say(f"Resume with: {PROGRAM} train --resume {result.run}")
    if result.finished:
        return DONE
    return TIME_IS_UP if result.signal is None else status_of_signal(result.signal)


def _fold_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("preset", help="name of a preset (see `c2fvl presets`) or path of a TOML file")
    sub.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings to change, for example train.epochs=20"
    )
    sub.add_argument(
        "--out", required=True, metavar="DIR", help="folder for folds, runs and scores; the same command goes on there"
    )
    add_number(sub, "--folds", 5, "number of folds", minimum=2)
    sub.add_argument(
        "--split", default="train,val", help="splits whose cases are divided into folds (default: %(default)s)"
    )
    add_seed(sub)
    add_json(sub, "the scores")


def run_crossval(options: argparse.Namespace) -> int:
    """Run `c2fvl crossval`; return its exit status."""
    from pathlib import Path

    from c2fvl.cli.terminal import TerminalObserver, TerminalProgress
    from c2fvl.config_files import load_config
    from c2fvl.evaluation.crossval import crossval

    config = load_config(options.preset, [f'data.train_split="{options.split}"', *options.overrides])
    with TerminalObserver() as observer, TerminalProgress("Cross-validation", quiet=options.json) as progress:
        found = crossval(
            config, Path(options.out), num_folds=options.folds, seed=options.seed, observer=observer, progress=progress
        )  # fmt: skip
    if found.summary is None:
        say_lines(f"Stopped and saved: {found.reason}\nGo on with the same command.")
        return TIME_IS_UP if found.signal is None else status_of_signal(found.signal)
    if options.json:
        say_lines(json.dumps(found.summary))
        return 0
    rows = []
    for name, scores in found.summary["reports"].items():
        mean, best = scores["dice_per_image"], scores["best_threshold"]
        interval = "–" if mean["low"] is None else f"{100 * mean['low']:.2f} to {100 * mean['high']:.2f}"
        at_best = f"{100 * scores['dice_by_threshold'][str(best)]:.2f}"
        temperature = "–" if scores["temperature"] is None else f"{scores['temperature']:.3f}"
        given = name.replace("_", " ")
        rows.append([given, f"{100 * mean['value']:.2f}", interval, f"{best:g}", at_best, temperature])
    say_lines(table(["report", "Dice, %", "95 % interval", "best threshold", "Dice there, %", "temperature"], rows))
    say_lines(
        paragraph(
            f"Each image scored by a network that was not trained on it or its patient: {found.summary['intervals']}"
        )
    )
    say(f"Scores: {options.out}/summary.json and cases.csv; models: {options.out}/fold-*/best")
    return 0


def _calibrate_options(sub: argparse.ArgumentParser) -> None:
    add_model_and_part(sub)
    add_report(sub)
    add_text_model(sub)
    add_trust(sub)
    add_compute(sub)
    add_copy(sub)
    add_json(sub, "the calibration")


def run_calibrate(options: argparse.Namespace) -> int:
    """Run `c2fvl calibrate`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.training.fit_temperature import calibrate

    with TerminalProgress("Calibrating", quiet=options.json) as progress:
        model = load_named_model(options, replacing=[CALIBRATION])
        found = calibrate(model, part_of(options), compute_of(options), out=options.out, progress=progress)
    if options.json:
        say_lines(json.dumps(found))
        return 0
    names = {"nll": "negative log-likelihood per pixel", "ece": "expected calibration error", "brier": "Brier score"}
    alone = found["without_offset"] or {}
    rows = [
        ["temperature", "1", f"{alone['temperature']:.4f}" if alone else "–", f"{found['temperature']:.4f}"],
        ["offset", "0", "0", f"{found['offset']:.4f}"],
    ]
    for key, name in names.items():
        middle = f"{alone[key]:.5f}" if alone else "–"
        rows.append([name, f"{found[f'{key}_before']:.5f}", middle, f"{found[f'{key}_after']:.5f}"])
    say_lines(table(["", "before", "temperature only", "saved"], rows))
    fitted = found["fitted_on"]
    say(f"Fitted on {fitted['num_cases']} images of the {fitted['split']} split; report: {fitted['given']}")
    return 0


def _fit_trust_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help="model folder or run folder of a filmfirst network")
    sub.add_argument("root", help=ROOT)
    add_split(sub)
    add_seed(sub)
    sub.add_argument("--keep", action="store_true", help="save the default and the curve in the model folder")
    add_device(sub)
    add_number(sub, "--batch-size", 8, "images per batch")
    add_copy(sub)
    add_json(sub, "the curve")


def run_fit_trust(options: argparse.Namespace) -> int:
    """Run `c2fvl fit-trust`; return its exit status."""
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.training.fit_trust import fit_trust

    with TerminalProgress("Measuring", quiet=options.json) as progress:
        found = fit_trust(
            load_model(options.model, device=device_of(options), replacing=[TRUST_CURVE] if options.keep else []),
            part_of(options), keep=options.keep, out=options.out,
            batch_size=options.batch_size, progress=progress,
        )  # fmt: skip
    if options.json:
        say_lines(json.dumps(found))
    else:
        _print_trust(found, is_saved=options.keep or options.out is not None)
    return 0


def _print_trust(found: dict[str, Any], *, is_saved: bool) -> None:
    from c2fvl.training.fit_trust import WRONG

    names = [name.replace("_", " ") for name in WRONG]
    rows = [
        [
            f"{point['trust']:g}",
            *(f"{100 * point[name]['value']:.2f}" for name in ("right", *WRONG)),
            _percent(point["benefit_kept"]),
            "yes" if point["within_bounds"] else "no",
        ]
        for point in found["points"]
    ]
    say_lines(table(["trust", "right", *names, "benefit kept, %", "within bounds"], rows))
    saved = "saved in the model folder" if is_saved else "not saved, add --keep to save it"
    words = (
        f"The table shows Dice per image in %; without a report it is {100 * found['none']['value']:.2f}. "
        f"Default trust: {found['default']:g} ({saved})"
    )
    say_lines(paragraph(words))
    held_out = found["held_out"]
    if held_out is not None:
        harms = ", ".join(
            f"{name} {100 * held_out['harm'][key]['value']:.2f}" for key, name in zip(WRONG, names, strict=True)
        )
        defaults = " and ".join(f"{trust:g}" for trust in held_out["defaults"])
        right, kept = f"{100 * held_out['right']['value']:.2f}", _percent(held_out["benefit_kept"])
        words = (
            f"Chosen on one half of the patients ({defaults}), scored on the other: right report {right}, benefit kept "
            f"{kept} %, harm in points: {harms}"
        )
        say_lines(paragraph(words))


def _percent(number: float | None) -> str:
    return "–" if number is None else f"{100 * number:.0f}"


def _fit_ood_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help="model folder or run folder")
    sub.add_argument("root", help=ROOT)
    add_split(sub, "train")
    sub.add_argument(
        "--check-split", default="val", help="split on which false alarms are counted (default: %(default)s)"
    )
    add_copy(sub)
    add_json(sub, "the result")


def run_fit_ood(options: argparse.Namespace) -> int:
    """Run `c2fvl fit-ood`; return its exit status."""
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.training.fit_ood import fit_ood

    with TerminalProgress("Reading images", quiet=options.json) as progress:
        model = load_model(options.model, replacing=[OOD_DETECTOR])
        found = fit_ood(model, part_of(options), check_split=options.check_split, out=options.out, progress=progress)
    if options.json:
        say_lines(json.dumps(found))
        return 0
    rows = [[name, f"{100 * fraction:.1f}"] for name, fraction in found["flagged"].items()]
    say_lines(table([f"{found['num_checked']} images of {found['checked_on']}", "flagged, %"], rows))
    return 0


def _presets_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", nargs="?", help="preset to print with all settings")


def run_presets(options: argparse.Namespace) -> int:
    """Run `c2fvl presets`; return its exit status."""
    from c2fvl.config_files import PRESETS, load_config, preset_names, to_toml

    if options.name is not None:
        say_lines(to_toml(load_config(options.name)).rstrip("\n"))
        return 0
    firsts = {
        name: (PRESETS / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        for name in preset_names()
    }
    say_lines(described(firsts))
    return 0


def run_settings(options: argparse.Namespace) -> int:
    """Run `c2fvl settings`; return its exit status."""
    from c2fvl.config_files import settings_table

    for name, default, meaning in settings_table():
        say_lines(f"{name} = {default}")
        say_lines(paragraph(meaning, indent="    "))
    return 0
