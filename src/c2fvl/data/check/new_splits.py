"""A new partition of a data set into train, val and test in which no patient and no picture is in two parts.

What belongs together stays together: films of one group, near duplicates, and all that hang together through either.
Each such bundle goes, the largest first, to the part that lacks most films of its kind; a kind is one or two infected
sides, and a lesion above or below the median.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import SPLITS, STRAY_FRACTION, Case
from c2fvl.files.tables import write_cells

_COLUMNS = ("image", "mask", "text", "group", "split", "orientation")


@dataclass(frozen=True)
class Member:
    """One film to be assigned: its case, the lesion's share of the picture, and how much of the lesion is left."""

    case: Case
    lesion: float | None  # None without a mask
    left: float | None  # share of the lesion in the left half of the picture, None without a lesion


@dataclass(frozen=True)
class NewSplits:
    """What was written: films and bundles of each part, and the films that were left out as they cannot be read."""

    path: str
    num_images: dict[str, int]
    num_bundles: dict[str, int]
    num_one_sided: dict[str, int]
    num_left_out: int
    orientation: str

    def lines(self) -> list[str]:
        """Return the counts in words."""
        parts = [
            f"{count} films in {split} ({self.num_bundles[split]} bundles, {self.num_one_sided[split]} one-sided)"
            for split, count in self.num_images.items()
        ]
        left_out = f"; {self.num_left_out} films that cannot be read are left out" if self.num_left_out else ""
        return [f"{self.path}: {', '.join(parts)}{left_out}"]


def check_new_splits(path: Path, fractions: Sequence[int], cases: Sequence[Case]) -> None:
    """Raise where `write_new_splits` could not write, so that nobody waits for a long look in vain.

    Raises `FileExistsError` for a file that is there, `ValueError` for another ending, for shares that are not three
    whole numbers of 0 or more that sum to 100, and for a place above which films lie.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already and nothing is overwritten; name another file")
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{path}: new splits are written as a csv; give the name the ending .csv")
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or sum(fractions) != 100:
        raise ValueError(f"the shares are {fractions}; expected three numbers for train, val and test that sum to 100")
    folder = path.parent.resolve()
    outside = [case.image for case in cases if not case.image.resolve().is_relative_to(folder)]
    if outside:
        raise ValueError(
            f"{path}: the film {outside[0]} is not in {folder} or below, as it must be for a csv to name it; write the "
            f"csv into a folder above all films"
        )


def bundles(members: Sequence[Member], pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the number of each member's bundle; `pairs` are places of members that belong together."""
    from scipy.sparse import coo_array  # takes longer to load than most commands to run
    from scipy.sparse.csgraph import connected_components

    first = [place for place, _ in pairs]
    second = [place for _, place in pairs]
    leaders: dict[str, int] = {}
    for place, member in enumerate(members):
        if member.case.group is not None:
            first.append(leaders.setdefault(member.case.group, place))
            second.append(place)
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(members), len(members)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def assign(
    members: Sequence[Member], labels: NDArray[np.int64], fractions: Sequence[int], *, seed: int = 0
) -> NDArray[np.int64]:
    """Return the place in `SPLITS` of each member, the same for all of a bundle, by its number in `labels` (N,).

    Parts whose share is 0 stay empty. Raises `ValueError` where another one would: there are too few bundles.
    """
    kinds = _kinds(members)
    content = np.zeros((labels.max(initial=-1) + 1, kinds.max(initial=0) + 1))  # films of each kind in a bundle
    np.add.at(content, (labels, kinds), 1)
    lacking = np.outer(np.asarray(fractions) / 100, content.sum(axis=0))
    lacking[np.asarray(fractions) == 0] = -np.inf
    order = np.random.default_rng(seed).permutation(len(content))
    order = order[np.argsort(-content.sum(axis=1)[order], kind="stable")]
    chosen = np.empty(len(content), np.int64)
    for bundle in order:
        weights = content[bundle] > 0
        need = (lacking[:, weights] * content[bundle, weights]).sum(axis=1)
        chosen[bundle] = int(need.argmax())
        lacking[chosen[bundle]] -= content[bundle]
    empty = [split for place, split in enumerate(SPLITS) if fractions[place] and place not in chosen]
    if empty:
        raise ValueError(
            f"{len(content)} bundles of films that belong together leave nothing for {' and '.join(empty)}; "
            f"give fewer parts a share, or more films"
        )
    return chosen[labels]


def write_new_splits(
    path: Path,
    members: Sequence[Member],
    pairs: Sequence[tuple[int, int]],
    *,
    fractions: Sequence[int],
    seed: int,
    orientation: str = "image",
    num_left_out: int = 0,
) -> NewSplits:
    """Write the csv of a data set, which `scan` reads, and return its counts; `frame` is what its captions mean."""
    labels = bundles(members, pairs)
    places = assign(members, labels, fractions, seed=seed)
    names: dict[int, str] = {}
    for member, label in zip(members, labels.tolist(), strict=True):
        group = member.case.group or f"film {member.case.id}"
        # a bundle has the name of a patient where it knows one
        if label not in names or (member.case.group is not None and names[label].startswith("film ")):
            names[label] = group
    rows = [
        _row(path, member.case, names[label], SPLITS[place], orientation)
        for member, label, place in zip(members, labels.tolist(), places.tolist(), strict=True)
    ]
    write_cells(path, [_COLUMNS, *rows])
    one_sided = np.array([_is_one_sided(member) for member in members])
    parts = {split: places == place for place, split in enumerate(SPLITS) if fractions[place]}
    return NewSplits(
        path=str(path),
        num_images={split: int(inside.sum()) for split, inside in parts.items()},
        num_bundles={split: len(np.unique(labels[inside])) for split, inside in parts.items()},
        num_one_sided={split: int((inside & one_sided).sum()) for split, inside in parts.items()},
        num_left_out=num_left_out,
        orientation=orientation,
    )


def _row(path: Path, case: Case, group: str, split: str, orientation: str) -> list[str]:
    text = "" if case.report is None else case.report.text or str(case.report)
    return [_relative(case.image, path), _relative(case.mask, path), text, group, split, orientation if text else ""]


def _relative(file: Path | None, path: Path) -> str:
    if file is None:
        return ""
    return Path(os.path.relpath(file.resolve(), path.parent.resolve())).as_posix()


def _is_one_sided(member: Member) -> bool:
    return member.left is not None and not STRAY_FRACTION <= member.left <= 1 - STRAY_FRACTION


def _kinds(members: Sequence[Member]) -> NDArray[np.int64]:
    """Return a number for each film: no mask, no lesion, or one or two sides with a small or large lesion."""
    median = float(np.median([member.lesion for member in members if member.lesion] or [0.0]))
    kinds = np.zeros(len(members), np.int64)
    for place, member in enumerate(members):
        if member.lesion is not None:
            infected = 2 + 2 * _is_one_sided(member) + (member.lesion > median)
            kinds[place] = infected if member.lesion > 0 else 1
    return kinds
