"""What the deep check found, in words and as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from c2fvl.data.cases import Problem
from c2fvl.data.check.new_splits import NewSplits
from c2fvl.reports.caption_faults import Fault


@dataclass(frozen=True)
class OrientationEvidence:
    """Whose left the captions mean, told by their masks: "image", "patient" or "undecided".

    `fraction_of_images` counts the one-sided captions most of whose lesion is on the side of the picture that they name,
    `fraction_of_pixels` all their lesions' pixels together.
    """

    verdict: str
    num_images: int
    fraction_of_images: float | None
    fraction_of_pixels: float | None

    def __str__(self) -> str:
        if self.fraction_of_images is None:
            return "frame of the captions: undecided, there are no one-sided captions with a lesion in their mask"
        figures = (
            f"in {self.fraction_of_images:.1%} of {self.num_images} one-sided films the side named is that of the picture "
            f"({self.fraction_of_pixels:.1%} of the lesions' pixels)"
        )
        if self.verdict == "image":
            return (
                f"captions are in the viewer's frame: {figures}, so that in films in standard orientation a "
                f"radiologist's left is the caption's right"
            )
        if self.verdict == "patient":
            return f"captions are in the patient's frame, or the films are mirrored: {figures}"
        return f"frame of the captions: undecided, {figures}"


@dataclass(frozen=True)
class SharedGroups:
    """How much of one split is of patients or studies that another one, named first, has too."""

    first: str
    second: str
    num_groups: int
    num_shared: int
    num_images: int
    num_images_shared: int


@dataclass(frozen=True)
class NearDuplicate:
    """Two films that are near duplicates; `group` is theirs where they have it in common."""

    first: str
    first_split: str
    second: str
    second_split: str
    correlation: float
    mirrored: bool
    group: str | None

    @property
    def across(self) -> bool:
        """Whether two splits share the film."""
        return self.first_split != self.second_split

    def __str__(self) -> str:
        image = "the mirror image of" if self.mirrored else "nearly the same as"
        patient = f", both of {self.group}" if self.group is not None else ""
        return (
            f"({self.first_split}) is {image} {self.second} ({self.second_split}), "
            f"correlation {self.correlation:.3f}{patient}"
        )


@dataclass(frozen=True)
class DeepSummary:
    """What the deep check found; `pairs` come with the best correlation first."""

    orientation: OrientationEvidence
    faults: tuple[Fault, ...]
    num_captions: int
    num_slots: int
    """Captions with an empty slot, zones in the other lung, and a lesion in the mask; and how many of these masks have
    the lesion in that other lung alone, so that the slot means nothing."""
    num_slots_confirmed: int
    num_images: int
    """Films that could be read and were compared."""
    shared: tuple[SharedGroups, ...]
    pairs: tuple[NearDuplicate, ...]
    num_compared: int
    """Pairs of films whose hashes were like enough for a closer look, and the bits in which these could differ."""
    max_distance: int
    num_pictures: int | None
    """Written; None where none were asked for."""
    new_splits: NewSplits | None
    problems: tuple[Problem, ...] = field(repr=False, default=())

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the problems, ready for JSON."""
        values = asdict(self)
        del values["problems"]
        return values

    def lines(self) -> list[str]:
        """Return the findings as lines of text."""
        lines = ["what the data hides:", f"  {self.orientation}"]
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
                f"{shared.num_images_shared} of {shared.num_images} images ({fraction:.1%})"
            )
        lines.append(f"  {self._pairs_text()}")
        if self.num_pictures is not None:
            left_out = len(self.pairs) - self.num_pictures
            lines.append(f"  pictures of pairs: {self.num_pictures} written, {left_out} left out")
        lines += [f"  new splits, {line}" for line in (self.new_splits.lines() if self.new_splits else [])]
        return lines

    def _pairs_text(self) -> str:
        if not self.num_images:
            return "near duplicates: there are no films to compare"
        across = sum(pair.across for pair in self.pairs)
        one_group = sum(pair.group is not None for pair in self.pairs)
        mirrored = sum(pair.mirrored for pair in self.pairs)
        return (
            f"near duplicates among {self.num_images} films: {across} pairs across splits, "
            f"{len(self.pairs) - across} within one; {one_group} of one group, {mirrored} mirrored "
            f"({self.num_compared} pairs whose hashes differ in at most {self.max_distance} bits were compared)"
        )
