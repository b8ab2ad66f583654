"""Commands that make or adjust a trained network."""

import argparse
import json

from c2fvl.cli.options import PROGRAM, compute_of, load_named_model, part_of

STOPPED = {"SIGINT": 130, "SIGTERM": 143}
"""Exit status of a training that was stopped and saved; 75 where its time was up."""


def run_train(options: argparse.Namespace) -> int:
    """Run `c2fvl train`; return its exit status."""
    from c2fvl.config_files import load_config

    overrides = list(options.overrides)
    if options.resume is not None and options.preset is not None:
        if "=" not in options.preset:
            raise ValueError(f"a run is resumed with its own settings; leave out the preset {options.preset!r}")
        overrides.insert(0, options.preset)
        options.preset = None
    if options.resume is None and options.preset is None:
        raise ValueError("give a preset, such as `c2fvl train debug`, or a run with --resume")
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
    print(f"{'Finished' if result.finished else 'Stopped and saved'}: {result.reason}")
    if result.best_dice is not None:
        print(
            f"Best validation Dice per image {result.best_dice:.4f} in epoch {result.best_epoch}: {result.run / 'best'}"
        )
    if not result.finished:
        print(f"Resume with: {PROGRAM} train --resume {result.run}")
    return 0 if result.finished else STOPPED.get(result.signal or "", 75)


def run_calibrate(options: argparse.Namespace) -> int:
    """Run `c2fvl calibrate`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress, table
    from c2fvl.training.fit_temperature import calibrate

    with TerminalProgress("Calibrating", quiet=options.json) as progress:
        found = calibrate(load_named_model(options), part_of(options), compute_of(options), progress=progress)
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


def run_fit_ood(options: argparse.Namespace) -> int:
    """Run `c2fvl fit-ood`; return its exit status."""
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.cli.terminal import TerminalProgress, table
    from c2fvl.training.fit_ood import fit_ood

    with TerminalProgress("Looking", quiet=options.json) as progress:
        found = fit_ood(
            load_model(options.model), part_of(options), check_split=options.check, progress=progress,
        )  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    rows = [[name, f"{100 * fraction:.1f}"] for name, fraction in found["flagged"].items()]
    print(table([f"{found['num_checked']} films of {found['checked_on']}", "flagged, %"], rows))
    return 0


def run_fit_trust(options: argparse.Namespace) -> int:
    """Run `c2fvl fit-trust`; return its exit status."""
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.cli.terminal import TerminalProgress, table
    from c2fvl.training.fit_trust import WRONG, fit_trust

    with TerminalProgress("Measuring", quiet=options.json) as progress:
        found = fit_trust(
            load_model(options.model, device=options.device), part_of(options), keep=options.keep,
            batch_size=options.batch, progress=progress,
        )  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    rows = [
        [
            f"{point['trust']:g}",
            *(f"{100 * point[name]['value']:.2f}" for name in ("right", *WRONG)),
            "–" if point["benefit_kept"] is None else f"{100 * point['benefit_kept']:.0f}",
            "yes" if point["within_bounds"] else "no",
        ]
        for point in found["points"]
    ]
    print(table(["fit-trust", "right", *(name.replace("_", " ") for name in WRONG), "gain kept, %", "in bounds"], rows))
    kept = ", kept in the model folder" if options.keep else "; --keep writes it to the model folder"
    print(
        f"Dice per image, %; without a report {100 * found['none']['value']:.2f}. Default: {found['default']:g}{kept}"
    )
    held_out = found["held_out"]
    if held_out is not None:
        costs = ", ".join(f"{name.replace('_', ' ')} {100 * held_out['harm'][name]['value']:.2f}" for name in WRONG)
        fraction = "–" if held_out["benefit_kept"] is None else f"{100 * held_out['benefit_kept']:.0f}"
        print(
            f"Chosen on half of the patients ({' and '.join(f'{trust:g}' for trust in held_out['defaults'])}) and "
            f"scored on the other: right {100 * held_out['right']['value']:.2f}, gain kept {fraction} %; below no "
            f"report: {costs}"
        )
    return 0


def run_presets(options: argparse.Namespace) -> int:
    """Run `c2fvl presets`; return its exit status."""
    from c2fvl.config_files import PRESETS, load_config, preset_names, to_toml

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
    from c2fvl.config_files import settings_table

    for name, default, meaning in settings_table():
        print(f"{name} = {default}\n    {meaning}")
    return 0
