"""What the check of a data set found, as values, as lines of text and as JSON."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from c2fvl.data.check.new_splits import NewSplits
from c2fvl.data.problems import Problem
from c2fvl.messages import listed
from c2fvl.reports.caption_faults import Fault


@dataclass(frozen=True)
class SplitSummary:
    """The numbers of one split; `sizes` counts images by "width x height".

    `agreement` compares captions with their masks: the fraction of `num_compared` captions with the same side, number
    of lesions, each zone, and all zones together. The rules that make a report from a mask are approximate, so the
    fractions describe the split as a whole, not single cases.
    """

    split: str
    layout: str
    """"folders", "csv", or "table" for captions without images."""
    pairing: str
    table: str | None
    num_cases: int
    num_masks: int
    num_empty_masks: int
    num_reports: int
    num_free_texts: int
    num_groups: int
    num_without_group: int
    sizes: dict[str, int]
    num_compared: int
    agreement: dict[str, float]

    def lines(self) -> list[str]:
        """Return the numbers as lines of text."""
        source = self.table or ("the shards" if self.layout == "shards" else "no table")
        if self.layout == "table":
            return [
                f"{self.split}: {self.num_cases} captions, {self.num_free_texts} of them free text, from {self.table}",
                f"  groups: {self.num_groups}, {self.num_without_group} captions without; the table has no images",
            ]
        sizes = list(self.sizes.items())
        shown = ", ".join(f"{size} ({count})" for size, count in sizes[:3])
        more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
        lines = [
            f"{self.split}: {self.num_cases} images, {self.num_masks} masks (named {self.pairing}), "
            f"{self.num_empty_masks} of them empty",
            f"  sizes: {shown or 'none'}{more}",
            f"  captions: {self.num_reports}, {self.num_free_texts} of them free text, from {source}",
            f"  groups: {self.num_groups}, {self.num_without_group} images without",
        ]
        if self.agreement:
            fractions = ", ".join(f"{name} {100 * fraction:.1f} %" for name, fraction in self.agreement.items())
            lines.append(
                f"  captions that agree with their masks ({self.num_compared} compared; zones follow from masks by the "
                f"rule of QaTa-COV19 and MosMedData+, so those of synthetic and other data agree less): {fractions}"
            )
        return lines


@dataclass(frozen=True)
class OrientationEvidence:
    """Whose left the captions mean, judged by their masks: "image", "patient" or "undecided".

    `fraction_of_images` counts the one-sided captions that name the side of the image with most of their lesion;
    `fraction_of_pixels` counts the pixels of all their lesions together.
    """

    verdict: str
    num_images: int
    fraction_of_images: float | None
    fraction_of_pixels: float | None

    def __str__(self) -> str:
        if self.fraction_of_images is None or self.fraction_of_pixels is None:
            return "orientation of the captions: undecided, there are no one-sided captions with a lesion in their mask"
        numbers = (
            f"in {100 * self.fraction_of_images:.1f} % of {self.num_images} one-sided cases, the side named is that of "
            f"the image ({100 * self.fraction_of_pixels:.1f} % of the lesion pixels)"
        )
        if self.verdict == "image":
            return (
                f"orientation of the captions: image, {numbers}; for images in standard orientation, a radiologist's "
                "left is therefore the captions' right"
            )
        if self.verdict == "patient":
            return f"orientation of the captions: patient, or the images are mirrored: {numbers}"
        return f"orientation of the captions: undecided, {numbers}"


@dataclass(frozen=True)
class SharedGroups:
    """How much of the second split belongs to patients or studies that the first one holds too."""

    first: str
    second: str
    num_groups: int
    num_shared: int
    num_images: int
    num_images_shared: int


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that are near duplicates; `group` is that of both, None if they differ."""

    first: str
    first_split: str
    second: str
    second_split: str
    correlation: float
    mirrored: bool
    group: str | None

    @property
    def across(self) -> bool:
        """Whether the images are in two splits."""
        return self.first_split != self.second_split

    def __str__(self) -> str:
        relation = "the mirror image of" if self.mirrored else "nearly the same as"
        patient = f", both of {self.group}" if self.group is not None else ""
        return (
            f"({self.first_split}) is {relation} {self.second} ({self.second_split}), "
            f"correlation {self.correlation:.3f}{patient}"
        )


@dataclass(frozen=True)
class DeepSummary:
    """What the deep check found; `pairs` are sorted by correlation, highest first."""

    orientation: OrientationEvidence
    faults: tuple[Fault, ...]
    num_captions: int
    num_slots: int
    """Captions with an empty slot, zones in the other lung, and a lesion in the mask."""
    num_slots_confirmed: int
    """How many of their masks have the lesion in that other lung alone, so that the slot means nothing."""
    num_images: int
    """Images that could be read and were compared."""
    shared: tuple[SharedGroups, ...]
    pairs: tuple[NearDuplicate, ...]
    num_compared: int
    """Pairs of images whose hashes were similar enough for a closer comparison."""
    max_distance: int
    """Bits in which their hashes could differ."""
    num_pictures: int | None
    """Pictures of pairs that were written; None if none were asked for."""
    new_splits: NewSplits | None
    problems: tuple[Problem, ...] = field(repr=False, default=())

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the problems, ready for JSON."""
        values = asdict(self)
        del values["problems"]
        return values

    def lines(self) -> list[str]:
        """Return the findings as lines of text."""
        lines = ["deep check:", f"  {self.orientation}"]
        lines.append(f"  faults of {self.num_captions} captions:{'' if self.faults else ' none'}")
        for fault in self.faults:
            example = f"; {fault.examples[0]}" if fault.examples else ""
            lines.append(f"    {fault.kind}: {fault.count}{example}")
        if self.num_slots:
            lines.append(
                f"    in {self.num_slots_confirmed} of {self.num_slots} masks of captions with an empty slot, the "
                f"lesion is in the other lung alone"
            )
        for shared in self.shared:
            fraction = shared.num_images_shared / max(shared.num_images, 1)
            lines.append(
                f"  groups of {shared.second} that {shared.first} has too: {shared.num_shared} of {shared.num_groups}, "
                f"{shared.num_images_shared} of {shared.num_images} images ({100 * fraction:.1f} %)"
            )
        lines.append(f"  {self._pairs_text()}")
        if self.num_pictures is not None:
            left_out = len(self.pairs) - self.num_pictures
            lines.append(f"  pictures of pairs: {self.num_pictures} written, {left_out} left out")
        lines += [f"  new splits, {line}" for line in (self.new_splits.lines() if self.new_splits else [])]
        return lines

    def _pairs_text(self) -> str:
        if not self.num_images:
            return "near duplicates: there are no images to compare"
        across = sum(pair.across for pair in self.pairs)
        one_group = sum(pair.group is not None for pair in self.pairs)
        mirrored = sum(pair.mirrored for pair in self.pairs)
        return (
            f"near duplicates among {self.num_images} images: {across} pairs across splits, "
            f"{len(self.pairs) - across} within one; {one_group} of one group, {mirrored} mirrored "
            f"({self.num_compared} pairs whose hashes differ in at most {self.max_distance} bits were compared)"
        )


@dataclass(frozen=True)
class CheckSummary:
    """What `check` found: numbers of each split, all problems and the seconds it took; `deep` is None if not run."""

    root: str
    splits: tuple[SplitSummary, ...]
    problems: tuple[Problem, ...]
    seconds: float
    deep: DeepSummary | None = None

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make the data unusable or its scores worthless."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    def accepting(self, kinds: Collection[str]) -> "CheckSummary":
        """Return the summary with errors of these kinds as warnings; `ValueError` for a kind that was not found."""
        found = {problem.kind for problem in self.errors}
        for kind in kinds:
            if kind not in found:
                raise ValueError(f"no error is of the kind {kind!r}; there are {listed(sorted(found)) or 'none'}")
        problems = (
            replace(problem, severity="warning") if problem.severity == "error" and problem.kind in kinds else problem
            for problem in self.problems
        )
        return replace(self, problems=tuple(problems))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, dictionaries, strings and numbers, ready for JSON."""
        return {
            "root": self.root,
            "seconds": round(self.seconds, 2),
            "splits": [asdict(split) for split in self.splits],
            **({} if self.deep is None else {"deep": self.deep.as_dict()}),
            "problems": [asdict(problem) for problem in self.problems],
        }

    def lines(self, *, max_problems: int = 20) -> list[str]:
        """Return the summary as lines of text; of each kind of problem at most `max_problems` are listed."""
        lines = [line for split in self.splits for line in split.lines()]
        lines += self.deep.lines() if self.deep is not None else []
        by_kind: dict[tuple[str, str], list[Problem]] = defaultdict(list)
        for problem in self.problems:
            by_kind[problem.severity, problem.kind].append(problem)
        for (severity, kind), problems in sorted(by_kind.items()):
            lines.append(f"{severity}: {kind} ({len(problems)})")
            lines += [f"  {line}" for line in listed([*map(str, problems)], max_problems, separator="\n").split("\n")]
        num_warnings = len(self.problems) - len(self.errors)
        lines.append(f"{len(self.errors)} errors, {num_warnings} warnings, {self.seconds:.1f} s")
        return lines
