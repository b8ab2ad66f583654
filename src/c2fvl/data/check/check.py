"""Check a whole data set before training: every file, every image with its mask, every caption.

Every image is decoded once, in threads. Errors keep the data from being used or make scores on it worthless: files that
cannot be read, masks and captions that do not fit their image, images or patients in two splits. Warnings are oddities
without harm.
"""

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import STRAY_FRACTION, Case, Scan
from c2fvl.data.check.caption_tables import caption_tables, inspect_table
from c2fvl.data.check.deep import CheckedCase, DeepOptions, check_options, deep_check
from c2fvl.data.check.near_duplicates import sketch
from c2fvl.data.check.summary import CheckSummary, DeepSummary, SplitSummary
from c2fvl.data.file_names import Modality
from c2fvl.data.problems import Problem
from c2fvl.data.scan import find_splits, inspect
from c2fvl.data.shard_layout import find_shards, verify_shards
from c2fvl.files.images import read_mask, read_pixels_and_remarks
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.from_mask import report_from_mask
from c2fvl.reports.report import Report
from c2fvl.reports.zones import ZONES, hands_of


@dataclass(frozen=True)
class CheckResult:
    """What was found of one case."""

    checked: CheckedCase
    problems: tuple[Problem, ...] = ()
    size: tuple[int, ...] | None = None
    """(H, W) of the image."""
    from_mask: Report | None = None
    """Report made from the mask; only if there is a caption to compare it with."""


def check(
    root: Path | str,
    *,
    splits: Sequence[str] | None = None,
    table: str | Path | None = None,
    modality: Modality | None = None,
    mask: str = "lesion",
    workers: int = 2,
    progress: Progress = SILENT,
    deep: DeepOptions | None = None,
) -> CheckSummary:
    """Check the data set `root`: all its splits or the given ones, with the caption table `table` as in `scan`.

    `modality` ("film" or "ct") decides how captions divide the image into zones; None takes that of each case. `mask`
    says what masks hold, as the setting data.mask; captions are compared with all classes together. `progress` counts
    cases. With `deep` images are also compared with each other, and captions searched for known faults; `root` may then
    be a caption table, or a folder of caption tables without images. `progress` then counts pairs too.

    Raises `FileNotFoundError` if `root` holds no data set, and as `check_options` for what `deep` cannot write. All
    other faults are among the problems.
    """
    if modality not in (None, "film", "ct"):
        raise ValueError(f"there is no modality {modality!r}; expected film or ct")
    start = time.monotonic()
    root = Path(root)
    scans, problems = _scan_all(root, splits, table, tables_alone=deep is not None)
    cases = [(scan.split, case) for scan in scans for case in scan.cases]
    tables_alone = any(scan.layout == "table" for scan in scans)
    if deep is not None:
        check_options(deep, [] if tables_alone else [case for _, case in cases])
    results = [CheckResult(CheckedCase(*entry)) for entry in cases] if tables_alone else []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in pool.map(
            lambda entry: check_case(entry[0], entry[1], modality, mask, with_sketch=deep is not None),
            cases[len(results) :],
        ):
            results.append(result)
            progress.advance(len(results), len(cases))
    problems += [problem for result in results for problem in result.problems]
    problems += _duplicate_problems([result.checked for result in results])
    problems += _group_problems(list({(split, case.id): (split, case) for split, case in cases}.values()))
    deep_summary: DeepSummary | None = None
    if deep is not None:
        progress.stage("comparing images with each other")
        deep_summary = deep_check([result.checked for result in results], deep, workers=workers, progress=progress)
        problems += deep_summary.problems
    remaining = iter(results)
    summaries = tuple(_summarise(scan, list(islice(remaining, len(scan.cases)))) for scan in scans)
    unique = tuple(dict.fromkeys(problems))  # a faulty table has the same problems in each split
    return CheckSummary(str(root), summaries, unique, time.monotonic() - start, deep_summary)


def _scan_all(
    root: Path, splits: Sequence[str] | None, table: str | Path | None, *, tables_alone: bool
) -> tuple[list[Scan], list[Problem]]:
    """Return a scan of each split, or of each caption table if `root` has no images, and all problems."""
    scans: list[Scan] = []
    problems: list[Problem] = []
    tables = caption_tables(root) if tables_alone and root.is_file() else ()
    try:
        names = () if tables else splits or find_splits(root)
    except FileNotFoundError:
        tables = caption_tables(root) if tables_alone and root.is_dir() else ()
        if not tables:
            raise
        names = ()
    for path in tables:
        scans.append(inspect_table(path))
        problems += scans[-1].problems
    for split in names:
        try:
            scans.append(inspect(root, split, table=table))
            problems += scans[-1].problems
        except (ValueError, OSError) as error:
            problems.append(Problem.from_error("layout", root, error))
    problems += verify_shards(find_shards(root) or ())
    return scans, problems


def check_case(split: str, case: Case, modality: Modality | None, kind: str, *, with_sketch: bool) -> CheckResult:
    """Read and check the files of one case; `kind` says what masks hold, as the setting data.mask."""
    problems: list[Problem] = []
    pixels = mask = None
    try:
        pixels, remarks = read_pixels_and_remarks(case.image)
        for what, _, remedy in (remark.rpartition("; ") for remark in remarks):
            problems.append(Problem("odd image", str(case.image), what, remedy, "warning"))
    except (ValueError, OSError) as error:
        problems.append(Problem.from_error("image", case.image, error))
    try:
        mask = (read_mask(case.mask, kind) > 0).astype(np.uint8) if case.mask is not None else None
    except (ValueError, OSError) as error:
        problems.append(Problem.from_error("mask", case.mask or "", error))
    if pixels is not None and mask is not None and pixels.shape[:2] != mask.shape:
        what = f"the mask is {_size_text(mask.shape)} pixels, its image {case.image} is {_size_text(pixels.shape)}"
        problems.append(Problem("size", str(case.mask), what, "find the mask that was drawn on this image"))
    checked = CheckedCase(
        split,
        case,
        fingerprint=None if pixels is None else _fingerprint(pixels),
        sketch=sketch(pixels) if with_sketch and pixels is not None else None,
        size=0 if mask is None else mask.size,
        lesion=None if mask is None else int(mask.sum()),
        left=0 if mask is None else int(mask[:, : mask.shape[1] // 2].sum()),
    )
    from_mask = None
    if case.report is not None and case.report.has_attributes:
        problems += _caption_problems(case, case.report, checked)
        from_mask = None if mask is None else report_from_mask(mask, modality=modality or case.modality)
    elif case.report is not None and "infected area" in case.report.text.lower():
        what = f"its caption {case.report.text!r} has parts outside of the grammar: {'; '.join(case.report.unread)}"
        remedy = "correct the caption; as it is, it counts as free text"
        problems.append(Problem("caption not read", str(case.image), what, remedy, "warning"))
    return CheckResult(checked, tuple(problems), None if pixels is None else pixels.shape[:2], from_mask)


def _caption_problems(case: Case, caption: Report, checked: CheckedCase) -> list[Problem]:
    problems = []
    if caption.unread:
        what = f"parts of its caption {caption.text!r} were not read: {'; '.join(caption.unread)}"
        problems.append(Problem("caption read in part", str(case.image), what, "correct the caption", "warning"))
    if checked.lesion is None:
        return problems
    for contradiction in caption.contradictions():
        what = f"its caption contradicts itself: {contradiction} ({caption})"
        problems.append(Problem("caption", str(case.image), what, "correct the caption", "warning"))
    contradiction_of_mask = _contradiction(caption, checked.lesion, checked.left)
    if contradiction_of_mask:
        what = f"{contradiction_of_mask} (caption: {caption})"
        problems.append(Problem("contradiction", str(case.mask), what, "correct the caption or the mask"))
    return problems


def _contradiction(caption: Report, lesion: int, left: int) -> str | None:
    """Return in words how a caption contradicts its mask, by the lesion's pixels and those in the left half."""
    if not lesion:
        return None if caption.side == "none" else "the mask is empty, the caption reports an infection"
    if caption.side == "none":
        return "the mask shows a lesion, the caption says there is no infection"
    named = hands_of(caption.zones)
    if named == {"left"} and left / lesion < STRAY_FRACTION:
        return "the lesions are on the right of the image, the caption says left"
    if named == {"right"} and left / lesion > 1 - STRAY_FRACTION:
        return "the lesions are on the left of the image, the caption says right"
    return None


def _size_text(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _fingerprint(pixels: NDArray[Any]) -> str:
    """Return a checksum of the pixels, the same for a copy in another file format or for grey stored as colour."""
    if pixels.ndim == 3 and (pixels[:, :, :1] == pixels[:, :, 1:]).all():
        pixels = pixels[:, :, 0]
    described = f"{pixels.shape} {pixels.dtype}".encode()
    return hashlib.sha256(described + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _duplicate_problems(images: Sequence[CheckedCase]) -> list[Problem]:
    same: dict[str, list[CheckedCase]] = defaultdict(list)
    for image in images:
        if image.fingerprint is not None:
            same[image.fingerprint].append(image)
    problems = []
    for first, *others in same.values():
        if not others:
            continue
        names = ", ".join(f"{image.case.image} ({image.split})" for image in others)
        where, what = str(first.case.image), f"({first.split}) has the same pixels as {names}"
        if any(image.split != first.split for image in others):
            problems.append(Problem("duplicate across splits", where, what, "keep it in one split"))
        else:
            problems.append(Problem("duplicate", where, what, "keep one of them", "warning"))
    return problems


def _group_problems(cases: Sequence[tuple[str, Case]]) -> list[Problem]:
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for split, case in cases:
        if case.group is not None:
            members[case.group][split] += 1
    return [
        Problem(
            "group across splits",
            f"group {group}",
            "has " + " and ".join(f"{count} images in {split}" for split, count in counts.items()),
            "keep a patient or study in one split, or scores will be too good",
        )
        for group, counts in sorted(members.items())
        if len(counts) > 1
    ]


def _summarise(scan: Scan, results: Sequence[CheckResult]) -> SplitSummary:
    cases = scan.cases
    pairs = [
        (case.report, result.from_mask)
        for case, result in zip(cases, results, strict=True)
        if case.report is not None and result.from_mask is not None
    ]
    return SplitSummary(
        split=scan.split,
        layout=scan.layout,
        pairing=scan.pairing,
        table=str(scan.table) if scan.table is not None else None,
        num_cases=len(cases),
        num_masks=sum(case.mask is not None for case in cases),
        num_empty_masks=sum(result.checked.lesion == 0 for result in results),
        num_reports=sum(case.report is not None for case in cases),
        num_free_texts=sum(case.report is not None and not case.report.has_attributes for case in cases),
        num_groups=len({case.group for case in cases if case.group is not None}),
        num_without_group=sum(case.group is None for case in cases),
        sizes=dict(Counter(_size_text(result.size) for result in results if result.size is not None).most_common()),
        num_compared=len(pairs),
        agreement=_agreement(pairs),
    )


def _agreement(pairs: Sequence[tuple[Report, Report]]) -> dict[str, float]:
    """Return the fraction of captions that agree with the report of their mask, by finding."""
    if not pairs:
        return {}
    same = {
        "side": [caption.side == shown.side for caption, shown in pairs],
        "number": [caption.number == shown.number for caption, shown in pairs],
        **{zone: [(zone in caption.zones) == (zone in shown.zones) for caption, shown in pairs] for zone in ZONES},
        "zones": [caption.zones == shown.zones for caption, shown in pairs],
    }
    return {name: round(sum(values) / len(values), 4) for name, values in same.items()}
