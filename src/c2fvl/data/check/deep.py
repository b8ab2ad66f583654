"""Faults that spoil scores though every file is sound: unclear orientation, faulty captions, cases in two splits."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import STRAY_FRACTION, Case
from c2fvl.data.check.near_duplicates import find_duplicates
from c2fvl.data.check.new_splits import Member, check_new_splits, write_new_splits
from c2fvl.data.check.summary import DeepSummary, NearDuplicate, OrientationEvidence, SharedGroups
from c2fvl.data.pictures import side_by_side
from c2fvl.data.problems import Problem
from c2fvl.files import storage
from c2fvl.files.images import read_pixels, write_image
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.caption_faults import find_faults, has_empty_slot
from c2fvl.reports.report import Report
from c2fvl.reports.zones import hands_of

MAX_PICTURES = 200

_MIN_IMAGES = 10
"""One-sided captions with a mask that are needed to decide the orientation."""
_CLEAR_FRACTION = 0.8
"""The fraction of them that must agree."""


@dataclass(frozen=True)
class DeepOptions:
    """What the deep check writes, nothing by default, and how it divides the data set."""

    pictures: Path | None = None
    """Folder for a picture of each pair of near duplicates; it must be new or empty."""
    splits: Path | None = None
    """The csv for new splits."""
    fractions: tuple[int, ...] = (80, 10, 10)
    """Percent of the images for train, val and test."""
    seed: int = 0


@dataclass(frozen=True)
class CheckedCase:
    """What the deep check needs of a case whose files were read; None for what it does not have."""

    split: str
    case: Case
    fingerprint: str | None = None
    sketch: NDArray[np.int8] | None = None
    size: int = 0
    """Pixels of the mask."""
    lesion: int | None = None
    """Pixels of the lesion."""
    left: int = 0
    """Pixels of the lesion in the left half of the image."""


def check_options(options: DeepOptions, cases: Sequence[Case]) -> None:
    """Raise `FileExistsError` or `ValueError`, before any image is read, if the outputs cannot be written."""
    folder = options.pictures
    if folder is not None and (folder.is_file() or (folder.is_dir() and any(folder.iterdir()))):
        raise FileExistsError(f"{folder} exists already and is not empty; name a new folder for the pictures")
    if options.splits is not None:
        if not cases:
            raise ValueError(f"{options.splits}: there are no images to divide; give a data set with its images")
        check_new_splits(options.splits, options.fractions, cases)


def deep_check(
    cases: Sequence[CheckedCase], options: DeepOptions, *, workers: int = 2, progress: Progress = SILENT
) -> DeepSummary:
    """Compare images with each other and captions with masks, and write what `options` ask for.

    `progress` counts pairs. Missing masks or captions are no error; there is then less to report.
    """
    readable = [case for case in cases if case.sketch is not None]
    sketches = [case.sketch for case in readable if case.sketch is not None]
    search = find_duplicates(
        np.stack(sketches) if sketches else np.zeros((0, 64, 64), np.int8), workers=workers, progress=progress
    )
    pairs = []
    for pair in search.pairs:
        first, second = readable[pair.first], readable[pair.second]
        if pair.mirrored or first.fingerprint != second.fingerprint:  # equal pixels are reported as duplicates
            pairs.append((_near_duplicate(first, second, pair.correlation, mirrored=pair.mirrored), first, second))
    orientation = find_orientation(cases)
    captions = [(case.case.image.name, case.case.report) for case in cases]
    captions = captions if any(report is not None for _, report in captions) else []
    slots = [on_named / lesion for report, lesion, on_named in _one_sided(cases) if has_empty_slot(report)]
    new_splits = None
    if options.splits is not None:
        new_splits = write_new_splits(
            options.splits,
            [member_of(case) for case in readable],
            [(pair.first, pair.second) for pair in search.pairs],
            fractions=options.fractions,
            seed=options.seed,
            orientation="patient" if orientation.verdict == "patient" else "image",
            num_left_out=len(cases) - len(readable),
        )
    return DeepSummary(
        orientation=orientation,
        faults=find_faults(captions),
        num_captions=len(captions),
        num_slots=len(slots),
        num_slots_confirmed=sum(fraction > 1 - STRAY_FRACTION for fraction in slots),
        num_images=len(readable),
        shared=find_shared_groups(cases),
        pairs=tuple(pair for pair, _, _ in pairs),
        num_compared=search.num_candidates,
        max_distance=search.max_distance,
        num_pictures=None if options.pictures is None else _write_pictures(options.pictures, pairs),
        new_splits=new_splits,
        problems=(*_orientation_problems(orientation), *_pair_problems([pair for pair, _, _ in pairs])),
    )


def find_orientation(cases: Sequence[CheckedCase]) -> OrientationEvidence:
    """Return whose left the one-sided captions mean, judged by where their lesions are."""
    on_side = pixels = 0
    fractions = []
    for _, lesion, on_named in _one_sided(cases):
        fractions.append(on_named / lesion)
        on_side, pixels = on_side + on_named, pixels + lesion
    if not fractions:
        return OrientationEvidence("undecided", 0, None, None)
    agreeing = sum(fraction > 0.5 for fraction in fractions) / len(fractions)
    verdict = "undecided"
    if len(fractions) >= _MIN_IMAGES and agreeing >= _CLEAR_FRACTION:
        verdict = "image"
    elif len(fractions) >= _MIN_IMAGES and agreeing <= 1 - _CLEAR_FRACTION:
        verdict = "patient"
    return OrientationEvidence(verdict, len(fractions), round(agreeing, 4), round(on_side / pixels, 4))


def _one_sided(cases: Sequence[CheckedCase]) -> Iterator[tuple[Report, int, int]]:
    """Yield each caption with zones in one lung, its lesion's pixels, and those on the side that it names."""
    for case in cases:
        report = case.case.report
        hands = hands_of(report.zones) if report is not None else set()
        if report is not None and case.lesion and len(hands) == 1:
            yield report, case.lesion, case.left if hands == {"left"} else case.lesion - case.left


def find_shared_groups(cases: Sequence[CheckedCase]) -> tuple[SharedGroups, ...]:
    """Return for each two splits how much of the second belongs to groups of the first."""
    groups: dict[str, dict[str, str | None]] = defaultdict(dict)
    for case in cases:
        groups[case.split][case.case.id] = case.case.group
    shared = []
    for first, second in combinations(groups, 2):
        of_first = set(groups[first].values()) - {None}
        of_second = set(groups[second].values()) - {None}
        num_images_shared = sum(group in of_first for group in groups[second].values())
        shared.append(
            SharedGroups(
                first, second, len(of_second), len(of_first & of_second), len(groups[second]), num_images_shared
            )
        )
    return tuple(shared)


def _near_duplicate(first: CheckedCase, second: CheckedCase, correlation: float, *, mirrored: bool) -> NearDuplicate:
    group = first.case.group if first.case.group == second.case.group else None
    return NearDuplicate(
        str(first.case.image), first.split, str(second.case.image), second.split, correlation, mirrored, group
    )


def member_of(case: CheckedCase) -> Member:
    """Return what the assignment to splits needs of a case."""
    lesion = None if case.lesion is None else case.lesion / max(case.size, 1)
    return Member(case.case, lesion, case.left / case.lesion if case.lesion else None)


def _orientation_problems(orientation: OrientationEvidence) -> list[Problem]:
    if orientation.verdict != "patient":
        return []
    remedy = "list the images in a csv whose column orientation says patient, as --write-splits does"
    return [Problem("orientation of the captions", "captions", str(orientation), remedy)]


def _pair_problems(pairs: Sequence[NearDuplicate]) -> list[Problem]:
    """Pairs across splits are errors; within one, images of a group may look alike, unless mirrored."""
    problems = []
    for pair in pairs:
        if pair.across:
            remedy = "keep both in one split, for example by --write-splits"
            problems.append(Problem("near duplicate across splits", pair.first, str(pair), remedy))
        elif pair.group is None or pair.mirrored:
            remedy = "find out which one is mirrored" if pair.mirrored else "keep one of them, or both in one group"
            problems.append(Problem("near duplicate", pair.first, str(pair), remedy, "warning"))
    return problems


def _write_pictures(folder: Path, pairs: Sequence[tuple[NearDuplicate, CheckedCase, CheckedCase]]) -> int:
    """Write a picture of each pair, those across splits first, at most `MAX_PICTURES`; return how many."""
    chosen = sorted(pairs, key=lambda entry: not entry[0].across)[:MAX_PICTURES]
    if not chosen:
        return 0
    with storage.new_folder(folder) as building:
        for number, (pair, first, second) in enumerate(chosen, start=1):
            picture = side_by_side(
                read_pixels(first.case.image),
                read_pixels(second.case.image),
                names=(f"{first.split}: {first.case.image.name}", f"{second.split}: {second.case.image.name}"),
                remark=f"correlation {pair.correlation:.3f}{', mirrored' if pair.mirrored else ''}"
                f"{f', both of {pair.group}' if pair.group is not None else ''}",
            )
            kind = "across" if pair.across else "within"
            write_image(building / f"{kind}-{number:03}.png", picture)
    return len(chosen)
