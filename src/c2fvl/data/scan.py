"""Data sets on disk → lists of cases, from the folder layout of C2FVL and LViT, from a csv or from tar shards.

Images, masks and captions are matched by name, never by the order of a listing; whatever has no counterpart is reported
as a problem. No image is opened.
"""

import logging
from pathlib import Path

from c2fvl.data.cases import SPLITS, Case, Scan
from c2fvl.data.csv_layout import inspect_csv, splits_of_csv
from c2fvl.data.folder_layout import inspect_folders, splits_of_folders
from c2fvl.data.shard_layout import find_shards, inspect_shards, splits_of_shards
from c2fvl.files import shards, storage
from c2fvl.messages import LinesError, listed

MAX_SHOWN = 10

_logger = logging.getLogger(__name__)


def scan(root: Path | str, split: str = "train", *, table: str | Path | None = None) -> list[Case]:
    """Return the cases of one split, sorted by id.

    `root` is a folder that holds `Train_Folder`, `Val_Folder` or `Test_Folder`, or a csv file with the column image and
    optionally mask, text, group, split, orientation and modality, or tar shards: their folder, or a pattern such as
    `OUT/{train,val}-*.tar`. `split` is "train", "val" or "test", or "all" for a whole csv. `table` chooses another
    caption table: a name such as "{split}_text_revised.xlsx", looked for in the split's folder and in `root`, or a
    path; {split} stands for Train, Val or Test. Several splits are joined by commas.

    Raises `FileNotFoundError` if root, split or table is missing, and `ValueError` with the first problems if images,
    masks and captions do not match, or if two splits have a case of the same id. Warnings are logged.
    """
    if "," in split:
        return _scan_several(root, [name.strip() for name in split.split(",")], table)
    result = inspect(root, split, table=table)
    errors = result.errors
    if errors:
        rest = len(errors) - MAX_SHOWN
        more = [f"and {rest} more; `c2fvl check {root}` lists them all"] if rest > 0 else []
        noun = "problem" if len(errors) == 1 else "problems"
        head = f"{result.root} ({result.split}): {len(errors)} {noun} with the data"
        raise LinesError(head, *(f"- {problem}" for problem in errors[:MAX_SHOWN]), *more)
    for kind in dict.fromkeys(problem.kind for problem in result.problems):
        first, *others = (problem for problem in result.problems if problem.kind == kind)
        also = f". So {len(others)} more: {listed([problem.where for problem in others], 2)}" if others else ""
        _logger.warning("%s (%s): %s%s", kind, result.split, first, also)
    return list(result.cases)


def _scan_several(root: Path | str, splits: list[str], table: str | Path | None) -> list[Case]:
    """Return the cases of several splits, sorted by id."""
    cases: dict[str, Case] = {}
    for split in splits:
        for case in scan(root, split, table=table):
            if case.id in cases:
                raise ValueError(
                    f"{root}: two of the splits {', '.join(splits)} have a case {case.id}: {cases[case.id].image} and "
                    f"{case.image}; rename one of them, or name each split once"
                )
            cases[case.id] = case
    return [cases[name] for name in sorted(cases)]


def inspect(root: Path | str, split: str = "train", *, table: str | Path | None = None) -> Scan:
    """Return everything found of one split, problems included; `scan` raises on them instead."""
    root = Path(root)
    split = split.lower()
    if split not in (*SPLITS, "all"):
        raise ValueError(f"there is no split {split!r}; expected train, val, test, or all for a csv")
    found = find_shards(root)
    if found is not None:
        return inspect_shards(root, found, split, table)
    if not root.exists():
        raise FileNotFoundError(f"{root}: neither a folder nor a csv file exists there; check the name")
    if root.is_dir():
        return inspect_folders(root, split, table)
    if root.suffix.lower() != ".csv":
        raise ValueError(f"{root}: expected a folder that holds Train_Folder, or a csv file")
    if table is not None:
        raise ValueError(f"{root}: a csv holds its captions in its column text; leave out the table {table}")
    return inspect_csv(root, split)


def find_splits(root: Path | str) -> tuple[str, ...]:
    """Return the splits in `root`, in the order train, val, test; ("all",) for a csv without splits.

    Raises `FileNotFoundError` for a root that is missing or holds none, `ValueError` for a file of another kind.
    """
    root = Path(root)
    found = find_shards(root)
    if found is not None:
        return splits_of_shards(found)
    if not root.is_file():
        return splits_of_folders(root)
    if root.suffix.lower() != ".csv":
        raise ValueError(
            f"{root} is no data set; expected a folder that contains Train_Folder, or a csv file. `c2fvl check --deep` "
            "also takes a caption table, .xlsx or .csv"
        )
    return splits_of_csv(root)


def fingerprint(*splits: list[Case]) -> str:
    """Return a checksum of the images by name and size, of their reports and masks, wherever the data is stored."""
    lines = [
        f"{case.id} {shards.file_size(case.image)} {case.report} {_mask_checksum(case)}"
        for cases in splits
        for case in cases
    ]
    return storage.checksum("\n".join(lines).encode())


def mask_fingerprint(cases: list[Case]) -> str:
    """Return a checksum of the masks by case; it does not depend on the reports."""
    return storage.checksum("\n".join(f"{case.id} {_mask_checksum(case)}" for case in cases).encode())


def _mask_checksum(case: Case) -> str:
    return "none" if case.mask is None else storage.checksum(shards.read_bytes(case.mask))
