"""What a data set hides: whose left its captions mean, faults of their sentences, patients and films in two splits."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import STRAY_FRACTION, Case, Problem
from c2fvl.data.check.near_duplicates import find_duplicates
from c2fvl.data.check.new_splits import Member, check_new_splits, write_new_splits
from c2fvl.data.check.summary import DeepSummary, NearDuplicate, OrientationEvidence, SharedGroups
from c2fvl.data.pictures import side_by_side
from c2fvl.files import storage
from c2fvl.files.images import read_pixels, write_image
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.caption_faults import find_faults, has_empty_slot
from c2fvl.reports.report import Report
from c2fvl.reports.zones import hands_of

MAX_PICTURES = 200

_MIN_IMAGES = 10
"""One-sided captions with a mask from which the frame is told."""
_CLEAR_FRACTION = 0.8
"""Of these films, the share that must agree for a frame to be named."""


@dataclass(frozen=True)
class DeepOptions:
    """What the deep check writes, nothing by default, and how it divides."""

    pictures: Path | None = None
    """Folder for a picture of each pair of near duplicates; it must not be there, or be empty."""
    splits: Path | None = None
    """The csv for a new partition."""
    fractions: tuple[int, ...] = (80, 10, 10)
    """Percent of the films for train, val and test."""
    seed: int = 0


@dataclass(frozen=True)
class CheckedCase:
    """What one look at a film has left for the deep check; None where there was nothing to see."""

    split: str
    case: Case
    fingerprint: str | None = None
    sketch: NDArray[np.int8] | None = None
    size: int = 0
    """Pixels of the mask."""
    lesion: int | None = None
    """Pixels of the lesion, and of that part of it in the left half of the picture."""
    left: int = 0


def check_options(options: DeepOptions, cases: Sequence[Case]) -> None:
    """Raise where what is to be written could not be: `FileExistsError` or `ValueError`, before any film is read."""
    folder = options.pictures
    if folder is not None and (folder.is_file() or (folder.is_dir() and any(folder.iterdir()))):
        raise FileExistsError(f"{folder} exists already and is not empty; name a new folder for the pictures")
    if options.splits is not None:
        if not cases:
            raise ValueError(f"{options.splits}: there are no films to divide; give a data set with its films")
        check_new_splits(options.splits, options.fractions, cases)


def look_deeper(
    images: Sequence[CheckedCase],
    options: DeepOptions,
    *,
    workers: int = 2,
    progress: Progress = SILENT,
) -> DeepSummary:
    """Compare films with each other and captions with masks, and write what `options` ask for.

    `progress` counts pairs. What keeps a data set from telling anything, such as films
    without masks or captions, is no error: there is then nothing to report.
    """
    seen = [film for film in images if film.sketch is not None]
    sketches = np.stack([film.sketch for film in seen if film.sketch is not None]) if seen else None
    search = find_duplicates(
        sketches if sketches is not None else np.zeros((0, 64, 64), np.int8), workers=workers, progress=progress
    )
    found = [(seen[pair.first], seen[pair.second], pair) for pair in search.pairs]
    pairs = [
        (_named(first, second, correlation=pair.correlation, mirrored=pair.mirrored), first, second)
        for first, second, pair in found
        if pair.mirrored or first.fingerprint != second.fingerprint  # the same pixels are reported as duplicates
    ]
    orientation = find_orientation(images)
    captions = [(film.case.image.name, film.case.report) for film in images]
    captions = captions if any(report is not None for _, report in captions) else []
    slots = [on_named / lesion for report, lesion, on_named in _one_sided(images) if has_empty_slot(report)]
    num_pictures = None
    if options.pictures is not None:
        num_pictures = _write_pictures(options.pictures, pairs)
    new_splits = None
    if options.splits is not None:
        new_splits = write_new_splits(
            options.splits,
            [_member(film) for film in seen],
            [(pair.first, pair.second) for pair in search.pairs],
            fractions=options.fractions,
            seed=options.seed,
            orientation="patient" if orientation.verdict == "patient" else "image",
            num_left_out=len(images) - len(seen),
        )
    return DeepSummary(
        orientation=orientation,
        faults=find_faults(captions),
        num_captions=len(captions),
        num_slots=len(slots),
        num_slots_confirmed=sum(fraction > 1 - STRAY_FRACTION for fraction in slots),
        num_images=len(seen),
        shared=find_shared_groups(images),
        pairs=tuple(pair for pair, _, _ in pairs),
        num_compared=search.num_candidates,
        max_distance=search.max_distance,
        num_pictures=num_pictures,
        new_splits=new_splits,
        problems=(*_orientation_problems(orientation), *_pair_problems([pair for pair, _, _ in pairs])),
    )


def find_orientation(images: Sequence[CheckedCase]) -> OrientationEvidence:
    """Tell whose left the one-sided captions mean by where their lesions are."""
    on_side = pixels = 0
    fractions = []
    for _, lesion, on_named in _one_sided(images):
        fractions.append(on_named / lesion)
        on_side, pixels = on_side + on_named, pixels + lesion
    if not fractions:
        return OrientationEvidence("undecided", 0, None, None)
    agreeing = sum(fraction > 0.5 for fraction in fractions) / len(fractions)
    verdict = "undecided"
    if len(fractions) >= _MIN_IMAGES:
        verdict = (
            "image" if agreeing >= _CLEAR_FRACTION else "patient" if agreeing <= 1 - _CLEAR_FRACTION else "undecided"
        )
    return OrientationEvidence(verdict, len(fractions), round(agreeing, 4), round(on_side / pixels, 4))


def _one_sided(images: Sequence[CheckedCase]) -> Iterator[tuple[Report, int, int]]:
    """Yield the captions with zones in one lung: their lesion's pixels, in all and on the side that they name."""
    for image in images:
        report = image.case.report
        hands = hands_of(report.zones) if report is not None else set()
        if report is not None and image.lesion and len(hands) == 1:
            yield report, image.lesion, image.left if hands == {"left"} else image.lesion - image.left


def find_shared_groups(images: Sequence[CheckedCase]) -> tuple[SharedGroups, ...]:
    """Return for each two splits how much of the second is of groups that the first has too."""
    groups: dict[str, dict[str, str | None]] = defaultdict(dict)
    for image in images:
        groups[image.split][image.case.id] = image.case.group
    found = []
    for first, second in combinations(groups, 2):
        here = set(groups[first].values()) - {None}
        there = set(groups[second].values()) - {None}
        num_shared = sum(group in here for group in groups[second].values())
        found.append(
            SharedGroups(first, second, len(there), len(here & there), len(groups[second]), num_shared),
        )
    return tuple(found)


def _named(first: CheckedCase, second: CheckedCase, *, correlation: float, mirrored: bool) -> NearDuplicate:
    group = first.case.group if first.case.group == second.case.group else None
    return NearDuplicate(
        str(first.case.image), first.split, str(second.case.image), second.split, correlation, mirrored, group
    )


def _member(image: CheckedCase) -> Member:
    lesion = None if image.lesion is None else image.lesion / max(image.size, 1)
    return Member(image.case, lesion, image.left / image.lesion if image.lesion else None)


def _orientation_problems(orientation: OrientationEvidence) -> list[Problem]:
    if orientation.verdict != "patient":
        return []
    what = str(orientation)
    remedy = "list the films in a csv whose column frame says patient, as --write-splits does"
    return [Problem("frame of the captions", "captions", what, remedy)]


def _pair_problems(pairs: Sequence[NearDuplicate]) -> list[Problem]:
    """Pairs across splits are errors; within one, films of a group may well look alike, though not mirrored."""
    problems = []
    for pair in pairs:
        if pair.across:
            remedy = "keep both in one split, for example by --write-splits"
            problems.append(Problem("near duplicate across splits", pair.first, str(pair), remedy))
        elif pair.group is None or pair.mirrored:
            remedy = "find out whose left is right" if pair.mirrored else "keep one of them, or both in one group"
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
