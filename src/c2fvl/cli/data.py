"""Commands on data sets: check, prepare, captions, phantom, shards."""

import argparse
import json
import re
from pathlib import Path
from typing import Any, get_args

from c2fvl.cli.layout import paragraph
from c2fvl.cli.options import ROOT, Commands, add_choice, add_json, add_number, add_table, whole_number
from c2fvl.cli.output import say, say_lines

_UNITS = {"mb": 10**6, "gb": 10**9, "mib": 2**20, "gib": 2**30}


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    commands.add("check", run_check, "Check a data set; exit 1 on errors.", _check_options)
    commands.add("prepare", run_prepare, "Arrange a downloaded public data set for training.", _prepare_options)
    commands.add("captions", run_captions, "Write a caption table from the masks of a data set.", _captions_options)
    commands.add("phantom", run_phantom, "Write a synthetic data set: images, masks and reports.", _phantom_options)
    commands.add("shards", run_shards, "Write a data set as tar shards, to copy, train or predict.", _shards_options)


def _check_options(sub: argparse.ArgumentParser) -> None:
    from c2fvl.config import DataConfig

    sub.add_argument("root", help=ROOT)
    add_table(sub)
    add_choice(
        sub,
        "--mask",
        DataConfig.__dataclass_fields__["mask"].metadata["choices"],
        "lesion",
        "meaning of the pixel values of the masks, as in the setting data.mask",
    )
    add_number(sub, "--workers", 2, "threads that read files")
    sub.add_argument(
        "--deep",
        action="store_true",
        help="also look for near duplicates, faulty captions and their orientation; root may be a caption table",
    )
    sub.add_argument("--out", metavar="DIR", help="with --deep: new folder for a picture of each pair of duplicates")
    sub.add_argument("--write-splits", metavar="CSV", help="with --deep: new csv that splits the cases by group")
    sub.add_argument(
        "--fractions",
        default="80,10,10",
        metavar="PERCENT",
        help="train, val and test fractions of --write-splits (default: %(default)s)",
    )
    add_number(sub, "--seed", 0, "seed of --write-splits", minimum=0)
    sub.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="KIND",
        help="take errors of this kind, as the check names it, for warnings: known faults of a public data set; "
        "may be repeated",
    )
    add_json(sub, "the result")


def run_check(options: argparse.Namespace) -> int:
    """Run `c2fvl check`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.data.check.check import check

    deep = _deep_options(options)
    with TerminalProgress("Checking", quiet=options.json) as progress:
        found = check(
            options.root,
            table=options.table,
            mask=options.mask,
            workers=options.workers,
            progress=progress,
            deep=deep,
        ).accepting(options.accept)
    if options.json:
        say_lines(json.dumps(found.as_dict(), indent=2))
        return 1 if found.errors else 0
    for line in found.lines():
        say_lines(paragraph(line.lstrip(), indent=" " * (len(line) - len(line.lstrip()))))
    return 1 if found.errors else 0


def _deep_options(options: argparse.Namespace) -> Any:
    from c2fvl.data.check.deep import DeepOptions

    if not options.deep:
        if options.out is not None or options.write_splits is not None:
            raise ValueError("--out and --write-splits need the deep check; add --deep")
        return None
    try:
        fractions = tuple(int(number) for number in options.fractions.split(","))
    except ValueError as error:
        raise ValueError(
            f"--fractions must be three whole numbers such as 80,10,10, got {options.fractions}"
        ) from error
    folder, csv = (None if given is None else Path(given) for given in (options.out, options.write_splits))
    return DeepOptions(pictures=folder, splits=csv, fractions=fractions, seed=options.seed)


def _prepare_options(sub: argparse.ArgumentParser) -> None:
    from c2fvl.data.prepare.published_sets import PUBLISHED_SETS

    sub.add_argument("name", choices=tuple(PUBLISHED_SETS), help="QaTa-COV19, MosMedData+ or MoNuSeg")
    sub.add_argument("download", help="what was downloaded: a zip archive, or the folder that it unpacks to")
    sub.add_argument("out", help="new folder; it is the data set ROOT of all other commands")
    sub.add_argument(
        "--captions",
        nargs="+",
        default=[],
        metavar="TABLE",
        help="the authors' tables of captions and splits, or folders of them (default: those inside the download)",
    )
    sub.add_argument(
        "--by-patient",
        action="store_true",
        help="make new splits, no patient in two (default: only where no table gives the splits)",
    )
    sub.add_argument(
        "--captions-from-masks",
        action="store_true",
        help="write captions of the masks, marked as such; scores with them are oracle scores",
    )
    sub.add_argument("--copy", action="store_true", help="copy files (default: hard links where that is possible)")
    sub.add_argument(
        "--skip-faulty",
        action="store_true",
        help="leave out images whose files are damaged or do not fit, and name them (default: an error)",
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    add_number(sub, "--seed", 0, "seed of new splits", minimum=0)
    add_number(sub, "--workers", 2, "threads that read files")


def run_prepare(options: argparse.Namespace) -> int:
    """Run `c2fvl prepare`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.data.prepare.prepare import prepare

    with TerminalProgress("Preparing") as progress:
        found = prepare(
            options.name, options.download, options.out, tables=options.captions, by_patient=options.by_patient,
            captions_from_masks=options.captions_from_masks, copy=options.copy, skip_faulty=options.skip_faulty,
            dry_run=options.dry_run, seed=options.seed, workers=options.workers, progress=progress,
        )  # fmt: skip
    for line in found.lines():
        say(line)
    return 0


def _captions_options(sub: argparse.ArgumentParser) -> None:
    from c2fvl.data.captions import Form
    from c2fvl.data.file_names import Modality

    sub.add_argument("root", help="folder that contains Train_Folder, Val_Folder, …")
    sub.add_argument("table", help="table to write (.xlsx or .csv), for example ROOT/Train_Folder/Train_text.xlsx")
    sub.add_argument("--split", default="train", help="train, val or test (default: %(default)s)")
    add_choice(
        sub,
        "--modality",
        get_args(Modality),
        "film",
        "how lung zones are found: on chest films, or as thirds of a CT slice",
    )
    add_choice(sub, "--form", get_args(Form), "lvit", "sentences (lvit) or eight attributes (c2fvl)")


def run_captions(options: argparse.Namespace) -> int:
    """Run `c2fvl captions`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.data.captions import write_captions

    with TerminalProgress("Writing captions") as progress:
        count = write_captions(
            options.root,
            options.table,
            split=options.split,
            modality=options.modality,
            form=options.form,
            progress=progress,
        )
    say(f"{options.table}: {count} captions, made from the masks")
    return 0


def _phantom_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("out", help="new folder")
    add_number(sub, "--num-cases", 200, "cases in all splits together")
    add_number(sub, "--seed", 0, "seed", minimum=0)
    add_number(sub, "--size", 224, "height and width in pixels")


def run_phantom(options: argparse.Namespace) -> int:
    """Run `c2fvl phantom`; return its exit status."""
    from c2fvl.data.phantom.draw import write_phantom

    counts = write_phantom(Path(options.out), num_cases=options.num_cases, seed=options.seed, size=options.size)
    say(f"{options.out}: " + ", ".join(f"{count} cases in {split}" for split, count in counts.items()))
    return 0


def _shards_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("root", help=f"{ROOT}; or images to predict: a folder of them, with all folders below it")
    sub.add_argument("out", help="folder for the shards, or one in which this command was interrupted")
    add_table(sub)
    sub.add_argument("--split", action="append", help="write this split only; may be given several times")
    sub.add_argument(
        "--size",
        type=_file_size,
        default="256MB",
        metavar="256MB",
        help="size of a shard, at most, in MB, GB, MiB or GiB (default: %(default)s)",
    )
    sub.add_argument(
        "--jpeg-quality", type=whole_number(1), metavar="1..100",
        help="store images as JPEG, and masks as PNG of the same values (default: the files as they are)",
    )  # fmt: skip


def _file_size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})\s*(MB|GB|MiB|GiB)", text, re.IGNORECASE | re.ASCII)
    size = 0 if match is None else int(match[1]) * _UNITS[match[2].lower()]
    if not size:
        raise argparse.ArgumentTypeError(f"must be a size such as 256MB or 1GB, got {text}")
    return size


def run_shards(options: argparse.Namespace) -> int:
    """Run `c2fvl shards`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.data.shard_writer import write_shards
    from c2fvl.inference.shard_requests import cases_or_images

    with TerminalProgress("Writing shards") as progress:
        cases = cases_or_images(options.root, splits=options.split, table=options.table)
        found = write_shards(
            cases, options.out, size=options.size, jpeg_quality=options.jpeg_quality, table=options.table,
            progress=progress,
        )  # fmt: skip
    size = sum(shard["bytes"] for shard in found["shards"]) / 10**6
    counts = ", ".join(f"{count} cases in {split}" for split, count in found["num_cases"].items())
    say(f"{options.out}: {counts}; {len(found['shards'])} shards of {size:.1f} MB together")
    if options.jpeg_quality is not None:
        say(
            f"Error of the images: {found['mean_error_grey_levels']:.2f} of 255 grey levels on average, "
            f"{found['max_error_grey_levels']} at most."
        )
    return 0
