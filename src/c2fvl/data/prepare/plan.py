"""What will be written: which image with which mask and caption goes to which split."""

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from c2fvl.data.cases import Case
from c2fvl.data.check.check import check_case
from c2fvl.data.file_names import group_from_name
from c2fvl.data.folds import divide_by_patient
from c2fvl.data.prepare.download import Download, Pair, aliases, find_pairs, shown_as
from c2fvl.data.prepare.published_sets import PublishedSet
from c2fvl.data.prepare.tables import (
    AuthorsTable,
    Captions,
    check_belong,
    find_captions,
    find_tables,
    is_table,
    read_authors_table,
    splits_by_tables,
)
from c2fvl.messages import listed
from c2fvl.progress import Progress


@dataclass(frozen=True)
class Plan:
    """What will be written."""

    published: PublishedSet
    pairs: list[Pair]
    splits: dict[int, str] | None
    """Index of a pair → its split; None while the images are not divided."""
    captions: Captions | None
    """None while the images are not divided, and where captions are made from the masks."""
    tables: list[AuthorsTable]
    left_over: list[str]
    is_divided: bool = False
    """Whether the splits were made here."""


def make_plan(
    download: Download, published: PublishedSet, tables: Sequence[Path | str], *, by_patient: bool, captions: bool,
    faulty: Mapping[str, str] = MappingProxyType({}),
) -> Plan:  # fmt: skip
    """Return what will be written of a download; with `captions`, those of the tables.

    The images that `faulty` names, with what is wrong with them, are left out.

    Raises as `find_pairs`, `read_authors_table`, `splits_by_tables` and `find_captions`.
    """
    pairs, left_over = find_pairs(download, published)
    pairs = [pair for pair in pairs if str(pair.image.name) not in faulty]
    left_over += [f"{name}: {what}" for name, what in faulty.items()]
    found = _read_tables(download, tables)
    names = _names(pairs)
    if tables:
        check_belong(found, pairs, names)
    if by_patient and all(len(pair.splits) == 1 for pair in pairs):
        raise ValueError(f"{download.path}: its folders divide the images already; leave out --by-patient")
    splits = splits_by_tables(pairs, names, [] if by_patient else found)
    if splits is None:
        return Plan(published, pairs, None, None, found, left_over)
    unnamed = [str(pair.image.name) for index, pair in enumerate(pairs) if index not in splits]
    if unnamed:
        left_over = [*left_over, f"{len(unnamed)} images are in no table: {listed(unnamed, 3)}"]
    plan = Plan(published, pairs, splits, None, found, left_over)
    return with_captions(plan) if captions else plan


def _names(pairs: list[Pair]) -> dict[str, Mapping[str, Pair | None]]:
    """Return the names of the images of each subset."""
    subsets = dict.fromkeys(pair.subset for pair in pairs)
    return {subset: aliases([pair for pair in pairs if pair.subset == subset]) for subset in subsets}


def with_captions(plan: Plan) -> Plan:
    """Return a plan whose images are divided, with the captions of its tables. Raises as `find_captions`."""
    assert plan.splits is not None
    captions, left_over = find_captions(plan.pairs, plan.splits, _names(plan.pairs), plan.tables)
    return replace(plan, captions=captions, left_over=[*plan.left_over, *left_over])


def _read_tables(download: Download, given: Sequence[Path | str]) -> list[AuthorsTable]:
    """Return the tables that were given, else those in the download. A given table must be of the expected form."""
    if given:
        found = []
        for path in find_tables(given):
            table = read_authors_table(path)
            if table is None:
                raise ValueError(f"{path}: it has no column Image with the names of files; leave it out")
            found.append(table)
        return found
    inside = [file for file in download.files if is_table(file.name.name)]
    read = []
    with tempfile.TemporaryDirectory() as temporary, shown_as({Path(temporary): download.path}):
        for file in inside:
            table = read_authors_table(download.to_disk(file, Path(temporary) / file.name))
            read += [] if table is None else [replace(table, path=download.path / file.name)]
    return read


def find_faulty(
    plan: Plan, files: list[tuple[Path, Path | None]], *, workers: int, progress: Progress
) -> dict[str, str]:
    """Return the name of each image that cannot be read, or whose mask does not fit it → what is wrong."""
    progress.stage("reading images")
    found: dict[str, str] = {}
    cases = [Case(pair.image.stem, *own, None, None) for pair, own in zip(plan.pairs, files, strict=True)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = pool.map(lambda case: check_case("all", case, None, "lesion", with_sketch=False), cases)
        for number, (pair, case, result) in enumerate(zip(plan.pairs, cases, results, strict=True), start=1):
            errors = [problem for problem in result.problems if problem.severity == "error"]
            if errors:
                what = errors[0].what.removeprefix(f"{errors[0].where}: ")
                found[str(pair.image.name)] = f"left out, {what.replace(str(case.image), 'it')}"
            progress.advance(number, len(cases))
    return found


def divided(plan: Plan, files: list[tuple[Path, Path | None]], *, seed: int, workers: int, progress: Progress) -> Plan:
    """Return a plan in which the images that may be in several splits are divided, so that no patient is in two.

    `files` are image and mask of each pair on the disk. Raises as `divide_by_patient`.
    """
    splits = {index: pair.splits[0] for index, pair in enumerate(plan.pairs) if len(pair.splits) == 1}
    cases = {
        index: Case(pair.image.stem, *files[index], None, group_from_name(pair.image.name.name))
        for index, pair in enumerate(plan.pairs)
        if index not in splits
    }
    shares = divide_by_patient(
        list(cases.values()), plan.published.fractions, seed=seed, workers=workers, progress=progress
    )
    splits |= {index: shares[case.id] for index, case in cases.items()}
    return replace(plan, splits=splits, is_divided=True)
