"""Prediction on Ray whose actors and command are killed: each film is predicted once, as by one process."""

import csv
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from outcome import Outcome, Stage

COUNT, MAX_SECONDS = 120, 900.0
IGNORED = {"predictions.csv", "predictions.parquet"}
"""They say which films an earlier call predicted."""


def kill_ray(stage: Stage, model: Path, images: Path) -> Outcome:
    """Predict films on Ray, kill an actor and then the command at random moments, and start it again."""
    outcome = Outcome("films on Ray")
    if importlib.util.find_spec("ray") is None:
        print("Ray is not installed; nothing is killed on it")
        return outcome
    folder = stage.folder / "ray"
    damaged = _write_films(folder / "films", images, random.Random(stage.seed))
    expected = _finished(_command(model, folder, "process", "--threads", "1"))
    if expected != 1:
        outcome.fail(f"one process ended with {expected}")
        return outcome
    for number, draw in stage.rounds():
        out = f"ray-{number}"
        try:
            _kill_and_go_on(_command(model, folder, out, "--engine", "ray"), folder / out, draw)
            _compare(folder / "process", folder / out, damaged)
        except ValueError as error:
            outcome.fail(f"{folder / out}: {error}")
        else:
            outcome.tried["films predicted once, with an actor and the command killed"] += COUNT
            shutil.rmtree(folder / out)
    return outcome


def _write_films(folder: Path, images: Path, draw: random.Random) -> set[str]:
    folder.mkdir(parents=True)
    found = sorted(images.rglob("img/*.png"))
    damaged = set()
    for number in range(COUNT):
        data = found[number % len(found)].read_bytes()
        if draw.random() < 0.05 or not number:
            damaged.add(f"{number:04}.png")
            data = data[: draw.randrange(1, 200)]
        (folder / f"{number:04}.png").write_bytes(data)
    return damaged


def _command(model: Path, folder: Path, out: str, *options: str) -> list[str]:
    call = ["predict", str(folder / "films"), "--model", str(model), "--out", str(folder / out)]
    return [sys.executable, "-m", "c2fvl", *call, *options]


def _finished(command: list[str]) -> int:
    return subprocess.run(command, capture_output=True, check=False, timeout=MAX_SECONDS).returncode


def _kill_and_go_on(command: list[str], out: Path, draw: random.Random) -> None:
    first, second = sorted(draw.sample(range(5, COUNT - 15), 2))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait_for(process, out, first)
        for actor in _actors(process.pid)[:1]:
            os.kill(actor, signal.SIGKILL)
        _wait_for(process, out, second)
        process.kill()
    status = _finished([*command, "--skip-existing"])
    if status != 1:
        raise ValueError(f"after the kills the command ended with {status}, expected 1 for the damaged films")


def _wait_for(process: subprocess.Popen[bytes], out: Path, count: int) -> None:
    until = time.monotonic() + MAX_SECONDS
    while process.poll() is None and len(list(out.glob("*.json"))) < count:
        if time.monotonic() > until:
            process.kill()
            raise ValueError(f"no film more in {MAX_SECONDS:.0f} s")
        time.sleep(0.05)


def _actors(command: int) -> list[int]:
    """Return the actors below a process."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below = {command}
    for _ in range(4):  # the command, its raylet, the actors
        below |= {int(pid) for pid, parent, _ in rows if int(parent) in below}
    return [int(pid) for pid, _, name in rows if int(pid) in below and "MapWorker" in name]


def _compare(expected: Path, found: Path, damaged: set[str]) -> None:
    """Raise `ValueError` unless both folders have the same masks and records, and each film one row."""
    folders = [
        {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in IGNORED}
        for folder in (expected, found)
    ]
    if folders[0] != folders[1]:
        names = sorted(name for name in {*folders[0], *folders[1]} if folders[0].get(name) != folders[1].get(name))
        raise ValueError(f"these files differ from those of one process: {', '.join(names[:5])}")
    with (found / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if [Path(row["image"]).name for row in rows] != [f"{number:04}.png" for number in range(COUNT)]:
        raise ValueError("predictions.csv has not each film once, in order")
    failed = {Path(row["image"]).name for row in rows if row["status"] == "failed"}
    if failed != damaged:
        raise ValueError(f"failed are {sorted(failed)}, damaged are {sorted(damaged)}")
