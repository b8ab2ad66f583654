"""`prepare`: a download of QaTa-COV19, MosMedData+ or MoNuSeg becomes a data set, whole or not at all."""

import functools
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from c2fvl.data.cases import SPLITS
from c2fvl.data.check.summary import CheckSummary
from c2fvl.data.prepare.download import Download, open_download, shown_as
from c2fvl.data.prepare.plan import Plan, divided, find_faulty, make_plan, with_captions
from c2fvl.data.prepare.published_sets import PUBLISHED_SETS
from c2fvl.data.prepare.write import (
    check_space,
    checked,
    on_disk,
    place,
    words_of_links,
    write_captions,
)
from c2fvl.files import storage
from c2fvl.progress import SILENT, Progress
from c2fvl.version import __version__

RECORD = "prepared.json"
"""What was prepared, from what and how: beside the folders of the splits."""
_UNPACKED = "unpacked"
_SHOWN = 3
"""Problems of each kind that are listed; the published captions alone have dozens."""


@dataclass(frozen=True)
class _Choices:
    """What `prepare` was asked for, by its arguments."""

    captions_from_masks: bool
    copy: bool
    skip_faulty: bool
    seed: int
    workers: int


@dataclass(frozen=True)
class Prepared:
    """What was written, or would be."""

    out: Path
    title: str
    counts: Mapping[str, int]
    """Images by split; empty in a dry run where they would be divided by patient."""
    published: Mapping[str, int]
    num_images: int
    is_divided: bool
    """Whether the splits are made here, by patient, and not those of folders and tables."""
    captions: str
    """In words."""
    left_over: tuple[str, ...]
    files: str = ""
    """How the files came there, in words."""
    check: CheckSummary | None = None
    """None in a dry run."""

    @property
    def division(self) -> str:
        """Return in words what made the splits."""
        if self.is_divided:
            return "new splits, no patient in two; they are not the published ones, say so with every score"
        return "splits of the folders and tables"

    @property
    def differences(self) -> list[str]:
        """Return in words where the counts are not the published ones."""
        if not self.counts or self.is_divided:
            total = sum(self.published.values())
            return [] if self.num_images == total else [f"{self.num_images} images in all, published {total}"]
        return [
            f"{split}: {self.counts.get(split, 0)} images, published {number}"
            for split, number in self.published.items()
            if self.counts.get(split, 0) != number
        ]

    def lines(self) -> list[str]:
        """Return everything as lines of text."""
        counts = ", ".join(f"{number} in {split}" for split, number in self.counts.items())
        lines = [f"{self.title}: {self.num_images} images{f' ({counts})' if counts else ''}; {self.division}"]
        lines.append(self.captions)
        lines += [f"other than published: {difference}" for difference in self.differences] or [
            "the numbers of images are the published ones"
        ]
        lines += [f"left over: {words}" for words in self.left_over]
        if self.check is None:
            return [*lines, f"{self.out} was not written, because this is a dry run"]
        return [
            *lines,
            f"{self.out}: {self.files}",
            *self.check.lines(max_problems=_SHOWN),
            f"`c2fvl check {self.out}` lists all",
        ]


def prepare(
    name: str,
    download: Path | str,
    out: Path | str,
    *,
    tables: Sequence[Path | str] = (),
    by_patient: bool = False,
    captions_from_masks: bool = False,
    copy: bool = False,
    skip_faulty: bool = False,
    dry_run: bool = False,
    seed: int = 0,
    workers: int = 2,
    progress: Progress = SILENT,
) -> Prepared:
    """Write the data set `name` ("qata", "mosmed" or "monuseg"), downloaded as folder or zip, to the new folder `out`.

    `tables` are the authors' tables, or folders of them; without any, those inside the download are taken. Train, val
    and test are those of the tables; with `by_patient`, or without tables, images are divided so that no patient is in
    two splits. `captions_from_masks` writes captions of the masks, marked as such. Files are hard links where that can
    be, unless `copy`. `skip_faulty` leaves out images whose files are damaged or do not fit, instead of an error.

    Raises `FileExistsError` where `out` is there and not empty, `FileNotFoundError`, and `ValueError` for a download
    that is not of this form or is not complete, for tables that contradict it or each other, and for files that
    `check` finds damaged. After an error nothing is written.
    """
    published = PUBLISHED_SETS[name]
    out = Path(out)
    if captions_from_masks and name == "monuseg":
        raise ValueError(
            "captions made from masks describe lungs, MoNuSeg shows nuclei; leave out --captions-from-masks"
        )
    storage.check_new_folder(out)
    storage.check_folder(out, what="data set", replaced=True)
    choices = _Choices(captions_from_masks, copy, skip_faulty, seed, workers)
    with open_download(Path(download)) as opened:
        progress.stage("reading names and tables")
        make = functools.partial(
            make_plan, opened, published, tables, by_patient=by_patient, captions=not captions_from_masks
        )
        plan = make()
        if dry_run:
            return _prepared(out, plan, captions_from_masks=captions_from_masks)
        check_space(opened, plan, out, copy=copy)
        with storage.new_folder(out.resolve()) as building:
            with shown_as({building / _UNPACKED: opened.path, building: out}):
                plan, found = _fill(building, out, opened, plan, make, choices=choices, progress=progress)
            storage.write_json(building / RECORD, _record(name, opened, plan, found))
    return found


def _fill(
    building: Path, out: Path, opened: Download, plan: Plan, make: Callable[..., Plan], *, choices: _Choices,
    progress: Progress,
) -> tuple[Plan, Prepared]:  # fmt: skip
    """Fill the folder that will be `out`; `make` makes the plan again without faulty images."""
    workers = choices.workers
    files = on_disk(opened, plan, building / _UNPACKED, progress)
    faulty = find_faulty(plan, files, workers=workers, progress=progress) if choices.skip_faulty else {}
    if faulty:
        kept = [str(pair.image.name) not in faulty for pair in plan.pairs]
        plan, files = make(faulty=faulty), list(itertools.compress(files, kept))
    if plan.splits is None:
        plan = divided(plan, files, seed=choices.seed, workers=workers, progress=progress)
        plan = plan if choices.captions_from_masks else with_captions(plan)
    placed = place(plan, files, building, copy=choices.copy and opened.archive is None, progress=progress)
    if opened.archive is not None:
        shutil.rmtree(building / _UNPACKED)
    write_captions(plan, building, from_masks=choices.captions_from_masks, progress=progress)
    summary = checked(building, out, placed, workers=workers, progress=progress)
    found = replace(
        _prepared(out, plan, captions_from_masks=choices.captions_from_masks),
        files="files unpacked from the archive" if opened.archive else words_of_links(placed),
        check=summary,
    )
    return plan, found


def _prepared(out: Path, plan: Plan, *, captions_from_masks: bool) -> Prepared:
    """Return what a plan comes to, in numbers and words."""
    counts = Counter((plan.splits or {}).values())
    if captions_from_masks:
        captions = "captions made from the masks"
    elif plan.captions is None:
        captions = "captions of the tables" if any(table.has_captions for table in plan.tables) else "no captions"
    else:
        with_captions = [split for split in SPLITS if split in plan.captions.columns]
        captions = f"captions of the tables in {' and '.join(with_captions)}" if with_captions else "no captions"
    return Prepared(
        out=out,
        title=plan.published.title,
        counts={split: counts[split] for split in SPLITS if split in counts},
        published=plan.published.counts,
        num_images=len(plan.pairs if plan.splits is None else plan.splits),
        is_divided=plan.splits is None or plan.is_divided,
        captions=captions,
        left_over=tuple(plan.left_over),
    )


def _record(name: str, download: Download, plan: Plan, prepared: Prepared) -> dict[str, Any]:
    """Return the content of `prepared.json`."""
    return {
        "data_set": name,
        "title": prepared.title,
        "c2fvl": __version__,
        "download": str(download.path),
        "tables": [table.path.name for table in plan.tables],
        "images": dict(prepared.counts),
        "published": dict(prepared.published),
        "splits": prepared.division,
        "captions": prepared.captions,
        "files": prepared.files,
        "left_over": list(prepared.left_over),
    }
