"""New splits train, val and test of a data set, such that no patient and no image is in two of them.

Images of one group, near duplicates, and everything linked by either form a bundle. Bundles are assigned one by one,
the largest first, to the split that lacks most images of their kind: with one or two affected sides, and with a lesion
above or below the median size.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import SPLITS, STRAY_FRACTION, Case
from c2fvl.files.shards import find_member
from c2fvl.files.tables import write_cells

_COLUMNS = ("image", "mask", "text", "group", "split", "orientation")


@dataclass(frozen=True)
class Member:
    """A case to be assigned to a split."""

    case: Case
    lesion: float | None
    """The lesion's fraction of the image; None without a mask."""
    left: float | None
    """The fraction of the lesion in the left half of the image; None without a lesion."""


@dataclass(frozen=True)
class NewSplits:
    """What was written: images and bundles of each split, and the images left out because they cannot be read."""

    path: str
    num_images: dict[str, int]
    num_bundles: dict[str, int]
    num_one_sided: dict[str, int]
    num_left_out: int
    orientation: str

    def lines(self) -> list[str]:
        """Return the counts in words."""
        splits = [
            f"{count} images in {split} ({self.num_bundles[split]} bundles, {self.num_one_sided[split]} one-sided)"
            for split, count in self.num_images.items()
        ]
        left_out = f"; {self.num_left_out} images that cannot be read are left out" if self.num_left_out else ""
        return [f"{self.path}: {', '.join(splits)}{left_out}"]


def check_new_splits(path: Path, fractions: Sequence[int], cases: Sequence[Case]) -> None:
    """Raise if `write_new_splits` could not write, before the long search for duplicates.

    Raises `FileExistsError` for a file that exists, `ValueError` for another ending, for fractions that are not three
    whole numbers of 0 or more with the sum 100, and if an image is not in the csv's folder or below.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already and nothing is overwritten; name another file")
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{path}: new splits are written as a csv; give the name the ending .csv")
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or sum(fractions) != 100:
        raise ValueError(
            f"the fractions are {fractions}; expected three numbers for train, val and test that sum to 100 percent"
        )
    folder = path.parent.resolve()
    sharded = next((case.image for case in cases if find_member(case.image) is not None), None)
    if sharded is not None:
        raise ValueError(
            f"{path}: {sharded} lies in a shard, and the splits of shards are those they were written with; write new "
            "splits of the data set that the shards are from, then write shards of the csv"
        )
    outside = [case.image for case in cases if not case.image.resolve().is_relative_to(folder)]
    if outside:
        raise ValueError(
            f"{path}: the image {outside[0]} is not in {folder} or below, where a csv can name it; write the csv into "
            f"a folder above all images"
        )


def bundles(members: Sequence[Member], pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the bundle (N,) of each member, from 0 on; `pairs` are indices of members that belong together."""
    above = list(range(len(members)))  # each leads to an earlier member of its bundle, the first to itself

    def first_of(index: int) -> int:
        while above[index] != index:
            above[index] = above[above[index]]
            index = above[index]
        return index

    leaders: dict[str, int] = {}
    links = list(pairs)
    for index, member in enumerate(members):
        if member.case.group is not None:
            links.append((leaders.setdefault(member.case.group, index), index))
    for one, other in links:
        low, high = sorted((first_of(one), first_of(other)))
        above[high] = low
    numbers: dict[int, int] = {}
    found = [numbers.setdefault(first_of(index), len(numbers)) for index in range(len(members))]
    return np.array(found, np.int64)


def assign(
    members: Sequence[Member],
    labels: NDArray[np.int64],
    fractions: Sequence[float],
    *,
    names: Sequence[str] = SPLITS,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Return the index in `names` of each member, the same for all of a bundle; `labels` (N,) are the bundles.

    `fractions` are percent. Names with the fraction 0 stay empty. Raises `ValueError` if another one would: there are
    too few bundles.
    """
    kinds = _kinds(members)
    content = np.zeros((labels.max(initial=-1) + 1, kinds.max(initial=0) + 1))  # images of each kind in a bundle
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
    empty = [name for index, name in enumerate(names) if fractions[index] and index not in chosen]
    if empty:
        raise ValueError(
            f"{len(content)} bundles of images that belong together leave nothing for {' and '.join(empty)}; "
            f"set fewer fractions above 0, or add images"
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
    """Write the csv of a data set, as `scan` reads it, and return its counts; `orientation` is that of the captions."""
    labels = bundles(members, pairs)
    splits = assign(members, labels, fractions, seed=seed)
    names: dict[int, str] = {}
    for member, label in zip(members, labels.tolist(), strict=True):
        group = member.case.group or f"case {member.case.id}"
        # a bundle is named after a patient if it has a known one
        if label not in names or (member.case.group is not None and names[label].startswith("case ")):
            names[label] = group
    rows = [
        _row(path, member.case, names[label], SPLITS[split], orientation)
        for member, label, split in zip(members, labels.tolist(), splits.tolist(), strict=True)
    ]
    write_cells(path, [_COLUMNS, *rows])
    one_sided = np.array([_is_one_sided(member) for member in members])
    inside = {split: splits == index for index, split in enumerate(SPLITS) if fractions[index]}
    return NewSplits(
        path=str(path),
        num_images={split: int(chosen.sum()) for split, chosen in inside.items()},
        num_bundles={split: len(np.unique(labels[chosen])) for split, chosen in inside.items()},
        num_one_sided={split: int((chosen & one_sided).sum()) for split, chosen in inside.items()},
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
    """Return the kind of each member: no mask, no lesion, or one or two sides with a small or large lesion."""
    median = float(np.median([member.lesion for member in members if member.lesion] or [0.0]))
    kinds = np.zeros(len(members), np.int64)
    for index, member in enumerate(members):
        if member.lesion is not None:
            affected = 2 + 2 * _is_one_sided(member) + (member.lesion > median)
            kinds[index] = affected if member.lesion > 0 else 1
    return kinds
