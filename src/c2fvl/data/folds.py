"""Folds for cross-validation: each case is in one fold, and no patient and no image is in two.

Patients are known by the names of files or a column of the table. Where they are not, images that are near duplicates
of each other are kept together, as `c2fvl check --deep` finds them. No torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from c2fvl.data.cases import Case
from c2fvl.data.check.check import check_case
from c2fvl.data.check.deep import member_of
from c2fvl.data.check.near_duplicates import find_duplicates
from c2fvl.data.check.new_splits import assign, bundles
from c2fvl.files.tables import read_csv, write_cells
from c2fvl.messages import listed
from c2fvl.progress import SILENT, Progress

_COLUMNS = ("id", "fold")


def make_folds(
    cases: Sequence[Case],
    num_folds: int,
    *,
    seed: int = 0,
    mask: str = "lesion",
    workers: int = 2,
    progress: Progress = SILENT,
) -> dict[str, int]:
    """Return the fold of each case, from 1 on, by id; folds have about as many images, and lesions of each kind.

    `mask` says what masks hold, as the setting data.mask. Raises `ValueError` for files that cannot be read, and for
    fewer patients than folds.
    """
    if num_folds < 2:
        raise ValueError(f"{num_folds} folds: expected at least 2")
    fractions = {f"fold {number}": 100 / num_folds for number in range(1, num_folds + 1)}
    divided = divide_by_patient(cases, fractions, seed=seed, mask=mask, workers=workers, progress=progress)
    return {name: int(fold.removeprefix("fold ")) for name, fold in divided.items()}


def divide_by_patient(
    cases: Sequence[Case],
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    mask: str = "lesion",
    workers: int = 2,
    progress: Progress = SILENT,
) -> dict[str, str]:
    """Return id of each case → name of its share; `fractions` are percent of the images, by name.

    No patient and no image is in two shares, and each has about as many lesions of each kind. Raises as `make_folds`.
    """
    progress.stage("reading images")
    checked = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in pool.map(lambda case: check_case("all", case, None, mask, with_sketch=True), cases):
            errors = [problem for problem in result.problems if problem.severity == "error"]
            if result.checked.sketch is None or result.checked.lesion is None:
                raise ValueError(f"{result.checked.case.id}: {errors[0] if errors else 'it has no mask'}")
            checked.append(result.checked)
            progress.advance(len(checked), len(cases))
    progress.stage("comparing images with each other")
    sketches = np.stack([case.sketch for case in checked if case.sketch is not None])
    pairs = find_duplicates(sketches, workers=workers, progress=progress).pairs
    members = [member_of(case) for case in checked]
    labels = bundles(members, [(pair.first, pair.second) for pair in pairs])
    names = list(fractions)
    shares = assign(members, labels, [fractions[name] for name in names], names=names, seed=seed)
    return {case.id: names[share] for case, share in zip(cases, shares, strict=True)}


def write_folds(path: Path, folds: Mapping[str, int]) -> None:
    """Write folds as a csv with the columns id and fold."""
    write_cells(path, [_COLUMNS, *sorted(folds.items())])


def read_folds(path: Path | str) -> dict[str, int]:
    """Return the fold of each id in a csv with the columns id and fold.

    Raises `ValueError` for other columns, folds that are not numbers from 1 on without a gap, and ids named twice.
    """
    header, rows = read_csv(path)
    if not set(_COLUMNS) <= set(header):
        raise ValueError(f"{path}: expected the columns id and fold, found {', '.join(header)}")
    folds: dict[str, int] = {}
    for line, row in rows:
        name, fold = row["id"], row["fold"].strip()
        if not (fold.isascii() and fold.isdigit() and int(fold) >= 1):
            raise ValueError(f"{path}, line {line}: the fold is {fold!r}; expected a number from 1 on")
        if name in folds:
            raise ValueError(f"{path}, line {line}: {name} is there twice; expected each id once")
        folds[name] = int(fold)
    sizes = Counter(folds.values())
    missing = sorted(set(range(1, max(sizes, default=0) + 1)) - set(sizes))
    if missing or len(sizes) < 2:
        raise ValueError(f"{path}: it has the folds {sorted(sizes)}; expected 1, 2, … without a gap, at least two")
    return folds


def split_by_fold(cases: Sequence[Case], folds: Mapping[str, int], fold: int) -> tuple[list[Case], list[Case]]:
    """Return the cases of all other folds, and those of `fold`. Raises `ValueError` for cases without a fold."""
    unknown = [case.id for case in cases if case.id not in folds]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(cases)} cases have no fold: {listed(unknown, 5)}; make the folds again, from all "
            "cases that are trained on"
        )
    held_out = [case for case in cases if folds[case.id] == fold]
    if not held_out or len(held_out) == len(cases):
        raise ValueError(f"fold {fold} has {len(held_out)} of {len(cases)} cases; expected some in it and some not")
    return [case for case in cases if folds[case.id] != fold], held_out
