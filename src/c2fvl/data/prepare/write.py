"""Write what a plan says into a folder that is being filled, and check it there."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from c2fvl.data.cases import SPLITS
from c2fvl.data.check.check import check
from c2fvl.data.check.summary import CheckSummary
from c2fvl.data.file_names import modality_from_name
from c2fvl.data.prepare.download import Download, Pair
from c2fvl.data.prepare.plan import Plan
from c2fvl.files import storage
from c2fvl.files.images import read_mask
from c2fvl.files.tables import write_cells
from c2fvl.messages import LinesError
from c2fvl.progress import Progress
from c2fvl.reports.from_mask import report_from_mask

FROM_MASK = "made from the mask by c2fvl"
"""The cell `Source` of a caption that is no caption of the authors."""
_OF_THE_DATA = ("contradiction", "duplicate across splits", "group across splits")
"""Errors of `check` that published sets have themselves. All others mean a damaged or mixed-up download."""
Placed = Mapping[Path, tuple[Path, bool]]
"""New path of a file → the file that it is of, and whether it is a link to it."""


def check_space(download: Download, plan: Plan, out: Path, *, copy: bool) -> None:
    """Raise `ValueError` where files that cannot be links would not fit on the disk."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if download.archive is None and not copy and parent.stat().st_dev == download.path.stat().st_dev:
        return
    needed = sum(file.size for pair in plan.pairs for file in (pair.image, pair.mask) if file is not None)
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise ValueError(
            f"{out}: {needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free; make room, or name "
            "another folder"
        )


def on_disk(download: Download, plan: Plan, unpacked: Path, progress: Progress) -> list[tuple[Path, Path | None]]:
    """Return where image and mask of each pair lie; those of an archive are unpacked."""
    progress.stage("unpacking" if download.archive else "reading the folder")
    found = []
    for number, pair in enumerate(plan.pairs, start=1):
        image, mask = (
            None if file is None else download.to_disk(file, unpacked / file.name) for file in (pair.image, pair.mask)
        )
        assert image is not None
        found.append((image, mask))
        progress.advance(number, len(plan.pairs))
    return found


def place(
    plan: Plan, files: list[tuple[Path, Path | None]], building: Path, *, copy: bool, progress: Progress
) -> Placed:
    """Link or copy images and masks into the folders of their splits.

    Return the new path of each → the file that it is of, and whether it is a link.
    """
    progress.stage("copying" if copy else "linking")
    assert plan.splits is not None
    placed: dict[Path, tuple[Path, bool]] = {}
    for number, (index, split) in enumerate(plan.splits.items(), start=1):
        pair, (image, mask) = plan.pairs[index], files[index]
        folder = building / _folder_of(split)
        targets = {folder / "img" / (pair.image.stem + pair.image.suffix): image}
        if mask is not None:
            targets[folder / "labelcol" / _mask_name(plan, pair)] = mask
        for target, source in targets.items():
            if copy:
                storage.write_bytes(target, source.read_bytes(), durable=False)
            placed[target] = source, not copy and storage.link_or_copy(source, target)
        progress.advance(number, len(plan.splits))
    return placed


def words_of_links(placed: Placed) -> str:
    """Return how many files are links and how many are copies."""
    links = sum(is_link for _, is_link in placed.values())
    parts = [f"{links} hard links to the download"] if links else []
    copies = len(placed) - links
    return " and ".join(parts + ([f"{copies} copies"] if copies else []))


def write_captions(plan: Plan, building: Path, *, from_masks: bool, progress: Progress) -> None:
    """Write the caption table of each split that has captions."""
    assert plan.splits is not None
    if from_masks:
        progress.stage("writing captions of the masks")
    for split in SPLITS:
        indices = sorted(
            (index for index in plan.splits if plan.splits[index] == split),
            key=lambda index: plan.pairs[index].image.stem,
        )
        folder = building / _folder_of(split)
        if from_masks:
            columns: tuple[str, ...] = ("Description", "Source")
            rows: list[list[object]] = []
            for number, index in enumerate(indices, start=1):
                pair = plan.pairs[index]
                if pair.mask is not None:
                    mask = read_mask(folder / "labelcol" / _mask_name(plan, pair))
                    report = report_from_mask(mask, modality=modality_from_name(pair.image.stem))
                    rows.append([_mask_name(plan, pair), str(report), FROM_MASK])
                progress.advance(number, len(indices))
        else:
            assert plan.captions is not None
            columns = plan.captions.columns.get(split, ())
            empty = (None,) * len(columns)
            rows = [
                [_mask_name(plan, plan.pairs[index]), *plan.captions.cells.get(index, empty)]
                for index in indices
                if columns
            ]
        if rows:
            write_cells(folder / f"{split.capitalize()}_text.xlsx", [["Image", *columns], *rows])


def checked(building: Path, out: Path, placed: Placed, *, workers: int, progress: Progress) -> CheckSummary:
    """Check what was written, under the name that it will have.

    Raises `ValueError` with the files of the download for errors that published data sets do not have.
    """
    progress.stage("checking")
    summary = check(building, workers=workers, progress=progress)
    origins = {str(target): str(source) for target, (source, _) in placed.items()}
    wrong = [problem for problem in summary.errors if problem.kind not in _OF_THE_DATA]
    if wrong:
        shown = [replace(problem, where=origins.get(problem.where, problem.where)) for problem in wrong[:20]]
        rest = [f"- and {len(wrong) - 20} more"] if len(wrong) > 20 else []
        lines = [f"- {problem}" for problem in shown]
        raise LinesError(
            f"{len(wrong)} problems with the files, so {out} was not written; download them again, mend "
            "them, or leave them out with --skip-faulty",
            *lines,
            *rest,
        )

    def named(text: str) -> str:
        return text.replace(str(building), str(out))

    return replace(
        summary,
        root=str(out),
        splits=tuple(replace(one, table=None if one.table is None else named(one.table)) for one in summary.splits),
        problems=tuple(
            replace(one, where=named(one.where), what=named(one.what), remedy=named(one.remedy))
            for one in summary.problems
        ),
    )


def _folder_of(split: str) -> Path:
    return Path(f"{split.capitalize()}_Folder")


def _mask_name(plan: Plan, pair: Pair) -> str:
    """Return the name that a mask gets, with the ending that it has."""
    suffix = ".png" if pair.mask is None else pair.mask.suffix
    return plan.published.mask_name.format(name=pair.image.stem) + suffix
