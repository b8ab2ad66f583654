"""Damaged files through every public reader: each is read, or refused with a ValueError or an OSError."""

import contextlib
import random
import shutil
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from kinds import Kind
from outcome import Outcome, Stage, in_child, peak, resident

BATCH = 40
"""Files a child reads; a crash or a loop costs one batch."""
MAX_SECONDS = 20.0
"""That one file may take; a busy machine is allowed for."""
MAX_GROWTH, MAX_PEAK = 100 * 2**20, 2 * 2**30
"""Bytes that a child may have grown by after its files, and while it read them."""


def damage_files(stage: Stage, kinds: list[Kind]) -> Outcome:
    """Read damaged files of every kind in turn until the time is over."""
    outcome = Outcome("readers")
    for number, _ in stage.rounds():
        kind = kinds[number % len(kinds)]
        numbers = range(number * BATCH, (number + 1) * BATCH)
        folder = stage.folder / f"{kind.name.replace(' ', '-').replace(':', '')}-{number}"
        result, error = in_child(
            lambda kind=kind, numbers=numbers, folder=folder: read_damaged(kind, numbers, stage.seed, folder),
            seconds=BATCH * MAX_SECONDS,
        )
        if error:
            outcome.fail(f"{kind.name}: {error}; the file that was read then is in {folder}")
            continue
        counts, failures = result
        outcome.tried += counts
        for failure in failures:
            outcome.fail(f"{kind.name}: {failure}")
        if not failures:
            shutil.rmtree(folder)
    return outcome


def read_damaged(kind: Kind, numbers: range, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Read some damaged files and return how many were read and refused, and what else happened."""
    warnings.simplefilter("ignore")
    if kind.folder is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(kind.folder, folder)
    target = folder / kind.file
    counts: Counter[str] = Counter()
    failures: list[str] = []
    target.write_bytes(kind.samples[0])
    with contextlib.suppress(ValueError, OSError):  # a part alone, such as a header, may be refused
        kind.read(target if kind.folder is None else folder)
    begin = resident()  # what a whole file loads at its first use, libraries above all, is not growth
    for number in numbers:
        draw = random.Random(f"{seed} {kind.name} {number}")
        data = kind.change(draw.choice(kind.samples), draw)
        target.write_bytes(data)
        began = time.monotonic()
        try:
            kind.read(target if kind.folder is None else folder)
            result = "read"
        except (ValueError, OSError):
            result = "refused"
        except BaseException:
            result = "failed"
            failures.append(_kept(target, number, traceback.format_exc()))
        counts[f"{kind.name}, {result}"] += 1
        if time.monotonic() - began > MAX_SECONDS:
            failures.append(_kept(target, number, f"{time.monotonic() - began:.0f} s"))
        if peak() - begin > MAX_PEAK:
            failures.append(_kept(target, number, f"{(peak() - begin) >> 20} MiB of memory were needed"))
            break
    if resident() - begin > MAX_GROWTH:
        failures.append(f"{(resident() - begin) >> 20} MiB more after {len(numbers)} files, in {folder}")
    return counts, failures


def _kept(target: Path, number: int, what: str) -> str:
    """Keep the file and return what happened to it."""
    kept = target.with_name(f"failed-{number}-{target.name}")
    shutil.copy(target, kept)
    return f"{what.strip()}\n  on reading {kept}"
