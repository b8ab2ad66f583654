"""Look through a whole data set before anything is trained on it: every file, every pair, every caption.

Every picture is unpacked once, in threads. What keeps the data from being used, or makes a score on it worthless, is
an error: files that cannot be read, pairs that do not fit, captions that contradict their mask, films or patients
that two splits share. Oddities that do no harm are warnings, the rest is counted.
"""

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import STRAY_FRACTION, Case, Modality, Problem, Scan, modality_of
from c2fvl.data.check.caption_tables import caption_tables, inspect_table
from c2fvl.data.check.deep import CheckedCase, DeepOptions, check_options, look_deeper
from c2fvl.data.check.near_duplicates import sketch
from c2fvl.data.check.summary import DeepSummary
from c2fvl.data.scan import find_splits, inspect
from c2fvl.files.images import read_mask_as, read_pixels
from c2fvl.messages import listed
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.from_mask import report_from_mask
from c2fvl.reports.report import Report
from c2fvl.reports.zones import ZONES, hands_of


@dataclass(frozen=True)
class SplitSummary:
    """The figures of one split; `sizes` counts images by "width x height".

    `agreement` compares captions with what their masks show: the share of `num_compared` captions with the same
    side, number of areas, each zone, and all zones together. The rules that read a mask are approximate, so the
    shares tell about the split as a whole, not about a film.
    """

    split: str
    layout: str  # "folders", "csv", or "table" for captions without films
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


@dataclass(frozen=True)
class CheckSummary:
    """What `check` found: figures per split, all problems, and the seconds it took; `deep` is None if not asked for."""

    root: str
    splits: tuple[SplitSummary, ...]
    problems: tuple[Problem, ...]
    seconds: float
    deep: DeepSummary | None = None

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make the data unusable or its scores worthless."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

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
        """Return the report as lines of text; of each kind of problem at most `max_problems` are listed."""
        lines = [line for split in self.splits for line in _split_lines(split)]
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


@dataclass(frozen=True)
class _Look:
    """What one look at a case's files gave."""

    problems: tuple[Problem, ...]
    size: tuple[int, int] | None = None  # (H, W)
    fingerprint: str | None = None
    empty: bool = False
    described: Report | None = None  # only where there is a caption to compare with
    film: CheckedCase | None = None  # only for the deep check


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
    """Check the data set `root`: all splits found or those named, with the caption table `table` as in `scan`.

    `modality` ("film" or "ct") says how captions name the zones of a mask; by default MosMedData+ is told by its
    file names and everything else counts as film. `mask` says what masks hold, as the setting data.mask; captions are
    compared with all classes together. `progress` counts cases.

    With `deep` films are compared with each other as well, and captions with what is known of their faults; `root`
    may then also be a caption table, or a folder of caption tables without films. `progress` then counts pairs.

    Raises `FileNotFoundError` where `root` holds no data set; everything else is among the problems. What `deep` cannot
    write raises as `check_options`.
    """
    if modality not in (None, "film", "ct"):
        raise ValueError(f"there is no modality {modality!r}; expected film or ct")
    start = time.monotonic()
    root = Path(root)
    scans, problems = _scan(root, splits, table, tables_alone=deep is not None)
    cases = [(scan.split, case) for scan in scans for case in scan.cases]
    tables_alone = any(scan.layout == "table" for scan in scans)
    if deep is not None:
        check_options(deep, [] if tables_alone else [case for _, case in cases])
    looks: list[_Look] = [_Look((), film=CheckedCase(*entry)) for entry in cases] if tables_alone else []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for look in pool.map(
            lambda entry: _look(entry[0], entry[1], modality, mask, deep=deep is not None), cases[len(looks) :]
        ):
            looks.append(look)
            progress.advance(len(looks), len(cases))
    problems += [problem for look in looks for problem in look.problems]
    problems += _find_duplicates(cases, looks)
    problems += _find_shared_groups(list({(split, case.id): (split, case) for split, case in cases}.values()))
    deeper = None
    if deep is not None:
        progress.stage("comparing images with each other")
        images = [look.film for look in looks if look.film is not None]
        deeper = look_deeper(images, deep, workers=workers, progress=progress)
        problems += deeper.problems
    rest = iter(looks)
    summaries = tuple(_summarise(scan, list(islice(rest, len(scan.cases)))) for scan in scans)
    unique = tuple(dict.fromkeys(problems))  # what is wrong with a table is met once per split
    return CheckSummary(str(root), summaries, unique, time.monotonic() - start, deeper)


def _scan(
    root: Path, splits: Sequence[str] | None, table: str | Path | None, *, tables_alone: bool
) -> tuple[list[Scan], list[Problem]]:
    """Return what is found of each split, or of each caption table where `root` has no films, and all problems."""
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
        except (ValueError, FileNotFoundError) as error:
            problems.append(Problem.from_error("layout", root, error))
    return scans, problems


def _look(split: str, case: Case, modality: Modality | None, kind: str, *, deep: bool) -> _Look:
    problems: list[Problem] = []
    pixels = mask = None
    try:
        pixels = read_pixels(case.image)
    except (ValueError, OSError) as error:
        problems.append(Problem.from_error("image", case.image, error))
    try:
        mask = (read_mask_as(case.mask, kind) > 0).astype(np.uint8) if case.mask is not None else None
    except (ValueError, OSError) as error:
        problems.append(Problem.from_error("mask", case.mask or "", error))
    if pixels is not None and mask is not None and pixels.shape[:2] != mask.shape:
        what = f"the mask is {_size_text(mask.shape)} pixels, its image {case.image} is {_size_text(pixels.shape)}"
        problems.append(Problem("size", str(case.mask), what, "find the mask that was drawn on this image"))
    if case.report is not None and case.report.has_attributes and case.report.unread:
        what = f"of its caption {case.report.text!r} this was not read: {'; '.join(case.report.unread)}"
        problems.append(Problem("caption read in part", str(case.image), what, "correct the caption", "warning"))
    described = None
    if mask is not None and case.report is not None and case.report.has_attributes:
        for contradiction in case.report.contradictions():
            what = f"its caption contradicts itself: {contradiction} ({case.report})"
            problems.append(Problem("caption", str(case.image), what, "correct the caption", "warning"))
        described = report_from_mask(mask, modality=modality or modality_of(case))
        opposed = _contradiction(case.report, mask)
        if opposed:
            what = f"{opposed} (caption: {case.report})"
            problems.append(Problem("contradiction", str(case.mask), what, "correct the caption or the mask"))
    empty = mask is not None and not mask.any()
    fingerprint = _fingerprint(pixels) if pixels is not None else None
    film = _film(split, case, fingerprint, pixels, mask) if deep else None
    size = pixels.shape[:2] if pixels is not None else None
    return _Look(tuple(problems), size, fingerprint, empty, described, film)


def _film(
    split: str, case: Case, fingerprint: str | None, pixels: NDArray[Any] | None, mask: NDArray[np.uint8] | None
) -> CheckedCase:
    sketched = sketch(pixels) if pixels is not None else None
    if mask is None:
        return CheckedCase(split, case, fingerprint, sketched)
    left = int(mask[:, : mask.shape[1] // 2].sum())
    return CheckedCase(split, case, fingerprint, sketched, mask.size, int(mask.sum()), left)


def _size_text(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _fingerprint(pixels: NDArray[Any]) -> str:
    """Return a checksum of what is seen, the same for a copy in another file format or grey stored as colour."""
    if pixels.ndim == 3 and (pixels[:, :, :1] == pixels[:, :, 1:]).all():
        pixels = pixels[:, :, 0]
    described = f"{pixels.shape} {pixels.dtype}".encode()
    return hashlib.sha256(described + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _contradiction(caption: Report, mask: NDArray[np.uint8]) -> str | None:
    """Return in words what a caption and its mask cannot both mean, None where they get along."""
    if not mask.any():
        return None if caption.side == "none" else "the mask is empty, the caption tells of an infection"
    if caption.side == "none":
        return "the mask shows a lesion, the caption says there is no infection"
    said = hands_of(caption.zones)
    left = mask[:, : mask.shape[1] // 2].sum() / mask.sum()
    if said == {"left"} and left < STRAY_FRACTION:
        return "the lesions are on the right of the picture, the caption says left"
    if said == {"right"} and left > 1 - STRAY_FRACTION:
        return "the lesions are on the left of the picture, the caption says right"
    return None


def _find_duplicates(cases: Sequence[tuple[str, Case]], looks: Sequence[_Look]) -> list[Problem]:
    same: dict[str, list[tuple[str, Case]]] = defaultdict(list)
    for entry, look in zip(cases, looks, strict=True):
        if look.fingerprint is not None:
            same[look.fingerprint].append(entry)
    problems = []
    for entries in same.values():
        if len(entries) < 2:
            continue
        others = ", ".join(f"{case.image} ({split})" for split, case in entries[1:])
        across = len({split for split, _ in entries}) > 1
        where, what = str(entries[0][1].image), f"({entries[0][0]}) shows the same picture as {others}"
        if across:
            problems.append(Problem("duplicate across splits", where, what, "keep it in one split"))
        else:
            problems.append(Problem("duplicate", where, what, "keep one of them", "warning"))
    return problems


def _find_shared_groups(cases: Sequence[tuple[str, Case]]) -> list[Problem]:
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


def _summarise(scan: Scan, looks: Sequence[_Look]) -> SplitSummary:
    cases = scan.cases
    pairs = [
        (case.report, look.described)
        for case, look in zip(cases, looks, strict=True)
        if case.report is not None and look.described is not None
    ]
    groups = {case.group for case in cases if case.group is not None}
    sizes = Counter(_size_text(look.size) for look in looks if look.size is not None)
    num_free_texts = sum(case.report is not None and not case.report.has_attributes for case in cases)
    return SplitSummary(
        split=scan.split,
        layout=scan.layout,
        pairing=scan.pairing,
        table=str(scan.table) if scan.table is not None else None,
        num_cases=len(cases),
        num_masks=sum(case.mask is not None for case in cases),
        num_empty_masks=sum(look.empty for look in looks),
        num_reports=sum(case.report is not None for case in cases),
        num_free_texts=num_free_texts,
        num_groups=len(groups),
        num_without_group=sum(case.group is None for case in cases),
        sizes=dict(sizes.most_common()),
        num_compared=len(pairs),
        agreement=_agreement(pairs),
    )


def _agreement(pairs: Sequence[tuple[Report, Report]]) -> dict[str, float]:
    if not pairs:
        return {}
    same = {
        "side": [caption.side == shown.side for caption, shown in pairs],
        "number": [caption.number == shown.number for caption, shown in pairs],
        **{zone: [(zone in caption.zones) == (zone in shown.zones) for caption, shown in pairs] for zone in ZONES},
        "zones": [caption.zones == shown.zones for caption, shown in pairs],
    }
    return {name: round(sum(values) / len(values), 4) for name, values in same.items()}


def _split_lines(split: SplitSummary) -> list[str]:
    if split.layout == "table":
        return [
            f"{split.split}: {split.num_cases} captions, {split.num_free_texts} of them free text, from {split.table}",
            f"  groups: {split.num_groups}, {split.num_without_group} captions without; no films beside the table",
        ]
    sizes = list(split.sizes.items())
    shown = ", ".join(f"{size} ({count})" for size, count in sizes[:3])
    more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
    lines = [
        f"{split.split}: {split.num_cases} images, {split.num_masks} masks (named {split.pairing}), "
        f"{split.num_empty_masks} of them empty",
        f"  sizes: {shown or 'none'}{more}",
        f"  captions: {split.num_reports}, {split.num_free_texts} of them free text, from {split.table or 'no table'}",
        f"  groups: {split.num_groups}, {split.num_without_group} images without",
    ]
    if split.agreement:
        fractions = ", ".join(f"{name} {fraction:.1%}" for name, fraction in split.agreement.items())
        lines.append(
            f"  captions like those the approximate rules read off masks ({split.num_compared} compared): {fractions}"
        )
    return lines
