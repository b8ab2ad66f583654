"""Does the suite notice? `make sabotage` puts small faults into a copy of the sources and runs their tests.

Each fault of `patches.py`, one at a time, must make one of its tests fail. It prints those that no test caught. The
exit status is 1 if there are any, if a fault's text is no longer in its file exactly once, or if a test fails without
any fault.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sabotage.patches import PATCHES, Patch

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
AT_ONCE = 2
SECONDS = 600
"""After which a run of tests counts as caught: a fault may make them wait for ever."""
PASSED, FAILED = 0, 1
"""Exit statuses of pytest; any other one says that the tests were not run."""


class Copy:
    """A copy of the sources, in which a fault takes the place of a text and is taken back."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(SOURCE, folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
        (folder / "weights").symlink_to(ROOT / "weights")
        self.source = folder / "src"

    def run(self, tests: Sequence[str]) -> tuple[int, str]:
        """Run tests of the checkout on this copy; return the exit status of pytest and its last lines."""
        environment = {
            **os.environ, "PYTHONPATH": str(self.source), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self.source.parent / "hypothesis"),
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        command += [f"tests/{name}" for name in tests]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return FAILED, f"no end after {SECONDS} s"
        return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-15:])

    def run_with(self, patch: Patch) -> tuple[int, str]:
        """Run the tests of a fault on this copy with the fault in it."""
        path = self.source / "c2fvl" / patch.file
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
        try:
            return self.run(patch.tests.split())
        finally:
            path.write_text(text, encoding="utf-8")


def missing_texts(patches: Sequence[Patch]) -> list[str]:
    """Return in words the patches whose text is not in its file exactly once, or that change nothing."""
    found = []
    for patch in patches:
        path = SOURCE / "c2fvl" / patch.file
        count = path.read_text(encoding="utf-8").count(patch.old) if path.is_file() else 0
        if count != 1 or patch.old == patch.new:
            found.append(f"{patch.file} contains this text {count} times, expected once:\n{patch.old}")
    return found


def main() -> int:
    """Try every fault; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", help="words; only faults whose file or text contains one are tried")
    words = parser.parse_args().only
    patches = [patch for patch in PATCHES if not words or any(word in f"{patch.file} {patch.old}" for word in words)]
    began = time.monotonic()
    problems = missing_texts(patches)
    copies: dict[int, Copy] = {}
    with tempfile.TemporaryDirectory(prefix="c2fvl-sabotage-") as folder:

        def copy() -> Copy:
            number = threading.get_ident()
            if number not in copies:
                copies[number] = Copy(Path(folder) / str(number))
            return copies[number]

        def attempt(patch: Patch) -> str:
            status, output = copy().run_with(patch)
            if status == FAILED:
                return ""
            what = "not caught" if status == PASSED else f"its tests were not run (pytest ended with {status})"
            return f"{what}: {patch.file}\n- {patch.old}\n+ {patch.new}\n  by {patch.tests}\n{output}"

        with ThreadPoolExecutor(AT_ONCE) as pool:
            sound = [pool.submit(lambda tests=tests: copy().run(tests)) for tests in _groups(patches)]
            attempts = [pool.submit(attempt, patch) for patch in patches if not problems]
            ends = [one.result() for one in sound]
            problems += [f"these tests fail without any fault:\n{output}" for status, output in ends if status]
            problems += [found for found in (one.result() for one in attempts) if found]
    print("\n\n".join(problems))
    seconds = time.monotonic() - began
    print(f"sabotage: {len(patches)} faults tried in {seconds:.0f} s; {len(problems)} problems")
    return 1 if problems else 0


def _groups(patches: Sequence[Patch]) -> list[list[str]]:
    """Return the tests of all patches, each once, in two halves."""
    tests = list(dict.fromkeys(name for patch in patches for name in patch.tests.split()))
    half = (len(tests) + 1) // 2
    return [group for group in (tests[:half], tests[half:]) if group]


if __name__ == "__main__":
    sys.exit(main())
