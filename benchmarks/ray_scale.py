"""Prediction with actors of Ray: what the start costs, how the rest scales, and that memory does not grow.

    python benchmarks/ray_scale.py [--images 1000] [--many 20000] [--repeats 2]

Every row is a call of `c2fvl predict` in a process of its own, with the model of the package and one thread for each
actor, on synthetic films of 64 × 64. Calls with one process, one actor and two actors take turns. The last call
predicts many films; memory is that of the command and of each actor, from their first films on. Times depend on what
else runs: the load of the machine is printed with them.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from c2fvl.data.phantom.draw import draw_case
from c2fvl.serve.answers import png

SIDE, NUM_DRAWN = 64, 200
CALLS = {"one process": (), "one actor": ("--actors", "1"), "two actors": ("--actors", "2")}
SETTLED = 0.25
"""After this fraction of the films an actor has made what it keeps."""


@dataclass(frozen=True)
class Call:
    """What one call took."""

    start: float
    """Seconds until the first film was done."""
    rate: float
    """Films per second from then on."""
    memory: dict[str, tuple[int, int]]
    """Of the command and of each actor: MiB when a quarter of the films was done, and at the end."""


def write_films(folder: Path, count: int) -> None:
    """Write films, `NUM_DRAWN` different ones, each under many names."""
    folder.mkdir()
    drawn = [png(draw_case(11, number, size=SIDE).image) for number in range(min(count, NUM_DRAWN))]
    for number in range(count):
        (folder / f"{number:06}.png").write_bytes(drawn[number % len(drawn)])


def call(folder: Path, out: Path, count: int, *options: str, watch: bool = False) -> Call:
    """Predict the films of a folder, and measure."""
    engine = ("--engine", "ray") if options else ()
    command = [sys.executable, "-m", "c2fvl", "predict", str(folder), "--out", str(out), "--threads", "1"]
    memory: dict[str, tuple[int, int]] = {}
    began = time.monotonic()
    first, done = 0.0, 0
    with subprocess.Popen(
        [*command, *engine, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if ".png: " not in line:
                continue
            done += 1
            first = first or time.monotonic()
            if watch and done >= SETTLED * count and done % 200 == 0:
                for name, size in sizes(process.pid).items():
                    memory[name] = (memory.get(name, (size, 0))[0], size)
        ended = time.monotonic()
    shutil.rmtree(out)
    if done != count:
        sys.exit(f"{done} of {count} films were predicted")
    return Call(first - began, (count - 1) / (ended - first), memory)


def sizes(pid: int) -> dict[str, int]:
    """Return the resident memory in MiB of a command and of its actors."""
    found = {"command": resident(pid)}
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        number, _, name = line.strip().partition(" ")
        if "MapWorker" in name:
            found[f"actor {number}"] = resident(int(number))
    return found


def resident(pid: int) -> int:
    """Return the resident memory of a process in MiB; 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def main() -> None:
    """Print what was measured."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--many", type=int, default=20_000)
    options.add_argument("--repeats", type=int, default=2)
    given = options.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_films(folder / "films", given.images)
        found: dict[str, list[Call]] = {name: [] for name in CALLS}
        for _ in range(given.repeats):
            for name, arguments in CALLS.items():
                found[name].append(call(folder / "films", folder / "out", given.images, *arguments))
        base = statistics.median(one.rate for one in found["one process"])
        print(f"{given.images} films, median of {given.repeats}; load {os.getloadavg()[0]:.1f}")
        for name, calls in found.items():
            start, rate = (statistics.median(getattr(one, what) for one in calls) for what in ("start", "rate"))
            share = start / (start + given.images / rate)
            print(
                f"{name:12} start {start:5.1f} s ({100 * share:.0f} % of the call), then {rate / base:.2f} times the "
                f"films per second ({rate:.1f})"
            )
        if given.many:
            write_films(folder / "many", given.many)
            one = call(folder / "many", folder / "out", given.many, *CALLS["two actors"], watch=True)
            print(f"{given.many} films with two actors: {one.rate:.1f} per second; load {os.getloadavg()[0]:.1f}")
            for name, (early, late) in one.memory.items():
                print(f"{name:14} {early} MiB after {SETTLED:.0%} of the films, {late} MiB at the end")


if __name__ == "__main__":
    main()
