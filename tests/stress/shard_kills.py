"""Writers of shards that are killed at any moment: the next one goes on, and ends with the same bytes."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

from outcome import Outcome, Stage

from c2fvl.data.scan import scan
from c2fvl.data.shard_writer import ShardCase, cases_of, write_shards

SIZE = 20_000
MAX_STARTS = 200


def kill_shard_writers(stage: Stage, root: Path) -> Outcome:
    """Write the data set `root` as shards again and again, each time killed at random moments."""
    outcome = Outcome("shard writers")
    cases = cases_of(root)
    write_shards(cases, stage.folder / "shards-whole", size=SIZE)
    expected = _content(stage.folder / "shards-whole")
    for number, draw in stage.rounds():
        out = stage.folder / f"shards-{number}"
        outcome.tried["kills"] += _write_until_finished(cases, out, draw)
        found = _content(out)
        if found != expected:
            differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            outcome.fail(f"{out}: {differ} differ from what nobody interrupted")
            continue
        outcome.tried["folders finished as if nothing had killed their writers"] += 1
        shutil.rmtree(out)
    return outcome


def _write_until_finished(cases: list[ShardCase], out: Path, draw: random.Random) -> int:
    """Return how many writers were killed before one came to its end."""
    longest = 0.02
    for kills in range(MAX_STARTS):
        child = os.fork()
        if not child:
            status = 1
            try:
                write_shards(cases, out, size=SIZE)
                status = 0
            finally:
                os._exit(status)
        end = time.monotonic() + draw.uniform(0, longest)
        while time.monotonic() < end and not (done := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.001)
        if time.monotonic() < end:
            if done[1]:
                raise ValueError(f"{out}: a writer ended with the status {done[1]}")
            return kills
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            return kills
        _check_refused(out)
        longest *= 1.1
    raise ValueError(f"{out}: not finished after {MAX_STARTS} starts")


def _check_refused(out: Path) -> None:
    """What is not complete must not be read as if it were."""
    if not any(out.glob("*.tar")):
        return
    try:
        scan(out, "train")
    except ValueError:
        return
    if not (out / "manifest.json").is_file() or b'"complete": true' not in (out / "manifest.json").read_bytes():
        raise ValueError(f"{out} was read though its writing was interrupted")


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
