"""Commands on data sets."""

import argparse
import json
from pathlib import Path
from typing import Any


def run_check(options: argparse.Namespace) -> int:
    """Run `c2fvl check`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.data.check.check import check

    deep = _deep_options(options)
    with TerminalProgress("Checking", quiet=options.json) as progress:
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
    from c2fvl.data.check.deep import DeepOptions

    if not options.deep:
        if options.out is not None or options.write_splits is not None:
            raise ValueError("--out and --write-splits belong to the deep check; give --deep too")
        return None
    try:
        fractions = tuple(int(fraction) for fraction in options.fractions.split(","))
    except ValueError as error:
        raise ValueError(
            f"--fractions is {options.fractions!r}; expected three whole numbers such as 80,10,10"
        ) from error
    folder, csv = (None if given is None else Path(given) for given in (options.out, options.write_splits))
    return DeepOptions(pictures=folder, splits=csv, fractions=fractions, seed=options.seed)


def run_captions(options: argparse.Namespace) -> int:
    """Run `c2fvl captions`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.data.captions import write_captions

    with TerminalProgress("Describing") as progress:
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
    from c2fvl.data.phantom.draw import write_phantom

    counts = write_phantom(Path(options.out), num_cases=options.num_cases, seed=options.seed, size=options.size)
    print(f"{options.out}: " + ", ".join(f"{count} films to {split}" for split, count in counts.items()))
    return 0
