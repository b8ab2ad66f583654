"""Score masks that another tool or a second reader has drawn, as those of a model are scored.

A mask belongs to the case whose id, or whose true mask, has its name; `mask_NAME` and `NAME_mask` are understood too.
Nothing is guessed: a name that fits two cases, a case with two masks or none, another size, and values that do not say
which pixels are lesion are errors.
"""

import logging
import time
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from c2fvl.checkpoints.provenance import provenance
from c2fvl.data.cases import Case
from c2fvl.data.file_names import NOT_YET_SUFFIXES, split_name
from c2fvl.data.folder_layout import PAIRING_RULES
from c2fvl.data.part import Part
from c2fvl.data.scan import fingerprint, mask_fingerprint
from c2fvl.evaluation.evaluate import (
    OWN_TABLE,
    Evaluation,
    ScoredCases,
    protocol_scores,
    spacings_of,
    write_evaluation,
)
from c2fvl.evaluation.evaluation_folder import EvaluationFolder
from c2fvl.evaluation.scored_case import ScoredCase
from c2fvl.evaluation.statistics import as_columns, compute_statistics
from c2fvl.evaluation.summary import GivenReports, ScoredData, ScoredModel, Summary
from c2fvl.files import storage
from c2fvl.files.images import decode_pixels, read_image_bytes, read_mask
from c2fvl.files.shards import find_member
from c2fvl.inference.cases import ORIGINAL, CaseScore
from c2fvl.messages import LinesError, listed
from c2fvl.metrics.case_scores import TOLERANCES, score_case
from c2fvl.metrics.overlap import dice, overlap
from c2fvl.progress import SILENT, Progress

_SHOWN = 20
_TRUE_MASKS = "lesion"
"""How true masks are read, as the setting data.mask."""

logger = logging.getLogger(__name__)


def evaluate_masks(
    folder: Path | str,
    part: Part,
    *,
    out: Path | str | None = None,
    spacing: tuple[float, float] | None = None,
    tolerances: Sequence[float] = TOLERANCES,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score the masks in `folder` on a part of a data set and write an `EvaluationFolder` to `out`.

    Masks are grey images of the size of their images; 0 is background, and 1 or 255, one of them in a file, is lesion.
    `spacing` and `tolerances` as in `evaluate`. Without `out`, results go to scores/<folder>/evaluation-<split>/masks.

    Raises `FileNotFoundError` without the folder, and `ValueError` that names every mask that is missing, does not fit
    or cannot be read, and where the true masks themselves are in `folder`. After an error nothing is written.
    """
    folder, began = Path(folder), time.monotonic()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; name the folder that holds the masks to score")
    name = folder.resolve().name
    results = EvaluationFolder(Path("scores", name, f"evaluation-{part.split}", "masks") if out is None else Path(out))
    results.check()
    cases = part.with_text("none").cases()
    without = [case.id for case in cases if case.mask is None]
    if without:
        raise ValueError(f"{len(without)} of {len(cases)} cases have no true mask to be compared with: {without[0]}")
    files = _match(cases, folder)
    spacings, unit = spacings_of(cases, spacing)
    scored = _score_all(cases, files, spacings, tolerances, folder=folder, progress=progress)
    columns = as_columns([case.score.details for case in scored])
    summary = Summary(
        model=ScoredModel(name, "", str(folder), masks_sha256=_checksum(scored)),
        data=_describe(cases, part),
        text=GivenReports("unknown", "not known, the masks were drawn elsewhere"),
        scores=protocol_scores([case.score for case in scored]),
        unit=unit,
        statistics=compute_statistics(cases, columns, [[case.score.overlaps[ORIGINAL]] for case in scored]),
        threshold=None,
        class_names=("lesion",),
        software=provenance(torch.device("cpu")),
        seconds=round(time.monotonic() - began, 2),
    )
    return write_evaluation(ScoredCases(cases, scored, columns, summary, [], _TRUE_MASKS), results)


def _score_all(
    cases: Sequence[Case], files: Mapping[str, Path], spacings: Sequence[tuple[float, float]],
    tolerances: Sequence[float], *, folder: Path, progress: Progress,
) -> list[ScoredCase]:  # fmt: skip
    """Return the scores of every case; raise `ValueError` that names all masks that cannot be scored."""
    scored: list[ScoredCase] = []
    faults: list[str] = []
    num_inverted = 0
    for case, spacing in zip(cases, spacings, strict=True):
        try:
            predicted, target = _read_pair(case, files[case.id])
        except (ValueError, OSError) as error:
            faults.append(str(error))
        else:
            counts = overlap(predicted, target)
            num_inverted += dice(overlap(1 - predicted, target)) > dice(counts)
            details = score_case(predicted, target, spacing=spacing, tolerances=tolerances)
            score = CaseScore(case.id, ({ORIGINAL: counts},), None, (details,))
            scored.append(ScoredCase(score, None, None, predicted.shape, zlib.compress(predicted.tobytes(), 1)))
        progress.advance(len(scored) + len(faults), len(cases))
    if faults:
        raise _refused(folder, f"{len(faults)} of {len(cases)} masks cannot be scored", faults)
    if 2 * num_inverted > len(cases):
        logger.warning(
            "%s: in %d of %d masks the background fits the lesion better than the mask does; if black and white are "
            "exchanged, invert the masks and score them again", folder, num_inverted, len(cases),
        )  # fmt: skip
    if all(counts.intersection == counts.union for counts in (case.score.overlaps[ORIGINAL] for case in scored)):
        logger.warning("%s: every mask is equal to the true one; check that these are not the true masks", folder)
    return scored


def _checksum(scored: Sequence[ScoredCase]) -> str:
    """Return a checksum of all masks by case, whatever their files."""
    lines = [f"{case.score.id} {storage.checksum(case.labels.tobytes())}" for case in scored]
    return storage.checksum("\n".join(lines).encode())


def _match(cases: Sequence[Case], folder: Path) -> Mapping[str, Path]:
    """Return id of each case → its mask; raise `ValueError` that names all masks and cases that do not fit."""
    owners: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        assert case.mask is not None
        for name in (*(rule(case.id) for rule in PAIRING_RULES.values()), split_name(case.mask.name)[0]):
            owners[name].add(case.id)
    found: dict[str, list[Path]] = defaultdict(list)
    strangers, faults = [], []
    for path in sorted(folder.iterdir()):
        stem, suffix = split_name(path.name)
        if path.name.startswith(".") or not suffix or not path.is_file():
            continue
        fitting = sorted(owners.get(stem, ()))
        if len(fitting) > 1:
            faults.append(f"{path.name} can be the mask of {' and of '.join(fitting)}; rename it as the true mask is")
        elif not fitting:
            strangers.append(path.name)
        elif suffix in NOT_YET_SUFFIXES:
            faults.append(f"{path.name}: masks in {suffix} are not read here; save it as PNG with 0 and 255")
        else:
            found[fitting[0]].append(path)
    ambiguous = {name for names in owners.values() if len(names) > 1 for name in names}
    for case in cases:
        masks = found[case.id]
        if len(masks) > 1:
            faults.append(f"{case.id} has {len(masks)} masks: {listed([path.name for path in masks])}; keep one")
        elif not masks and not (faults and case.id in ambiguous):
            faults.append(f"{case.id} has no mask: expected {case.id}.png, empty where nothing was found")
    if faults:
        if strangers:
            faults.insert(0, f"{len(strangers)} images fit no case by their names: {listed(strangers, 5)}")
        raise _refused(folder, f"its masks do not fit the {len(cases)} cases", faults)
    if strangers:
        logger.warning("%s: %d images fit no case and are left out: %s", folder, len(strangers), listed(strangers, 3))
    return {name: paths[0] for name, paths in found.items() if paths}


def _refused(folder: Path, what: str, faults: Sequence[str]) -> LinesError:
    rest = [f"- and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    return LinesError(f"{folder}: {what}", *(f"- {fault}" for fault in faults[:_SHOWN]), *rest)


def _read_pair(case: Case, drawn: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the mask that was drawn and the true mask of a case, each (H, W) of 0 and 1."""
    assert case.mask is not None
    if find_member(case.mask) is None and drawn.samefile(case.mask):
        raise ValueError(f"{drawn} is the true mask itself; name the folder of the masks to score")
    predicted, target = _read_drawn(drawn), read_mask(case.mask, _TRUE_MASKS)
    if predicted.shape != target.shape:
        raise ValueError(
            f"{drawn}: the mask is {_size(predicted)} pixels, the true mask {case.mask} is {_size(target)}; save it at "
            "the original size of the image"
        )
    return predicted, target


def _read_drawn(path: Path) -> NDArray[np.uint8]:
    """Return a mask (H, W) of 0 and 1.

    Raises `ValueError` unless its values are 0 and 1, or 0 and 255, and for a tag that says that it is turned.
    """
    pixels, _, remarks = decode_pixels(read_image_bytes(path), path)
    if remarks:
        raise ValueError(f"{path}: {remarks[0]}")
    grey = pixels if pixels.ndim == 2 else pixels[:, :, 0]
    if pixels.ndim == 3 and (pixels != pixels[:, :, :1]).any():
        raise ValueError(f"{path}: the mask is a colour image; save it as grey PNG with 0 and 255")
    values = np.unique(grey).tolist()
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        shown = listed([f"{value:g}" for value in values], 6)
        raise ValueError(f"{path}: it holds the values {shown}; expected 0 and 1, or 0 and 255, as PNG")
    return (grey > 0).astype(np.uint8)


def _size(mask: NDArray[np.uint8]) -> str:
    return f"{mask.shape[1]} x {mask.shape[0]}"


def _describe(cases: list[Case], part: Part) -> ScoredData:
    return ScoredData(
        root=str(part.root),
        split=part.split,
        num_cases=len(cases),
        caption_table=part.captions() or OWN_TABLE,
        fingerprint=fingerprint(cases),
        masks=mask_fingerprint(cases),
        num_groups=len({case.group for case in cases if case.group}) or None,
        num_without_report=len(cases),
    )
