"""What a stage tried and what failed, and children that may crash without taking the whole with them."""

import contextlib
import ctypes
import os
import pickle
import random
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Outcome:
    """Counts and failures of one stage."""

    name: str
    tried: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        """Keep a failure and say it at once."""
        self.failed.append(what)
        print(f"FAILED {self.name}: {what}", flush=True)


@dataclass(frozen=True)
class Stage:
    """What a stage needs to know."""

    seconds: float
    seed: int
    folder: Path
    """For its files; those of failures stay."""
    began: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        """Tell whether the time of the stage is spent."""
        return time.monotonic() - self.began > self.seconds

    def rounds(self) -> Iterator[tuple[int, random.Random]]:
        """Yield numbers and generators until the time is over, at least once."""
        number = 0
        while not number or not self.is_over:
            yield number, random.Random(f"{self.seed} {number}")
            number += 1


def resident() -> int:
    """Return the bytes of memory that this process holds, without what it could give back."""
    with contextlib.suppress(AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Return the most bytes of memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_child(act: Callable[[], Any], *, seconds: float) -> tuple[Any, str]:
    """Return what `act` returns in a forked process, and what went wrong there, empty if nothing."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(read_end)
        silence = os.open(os.devnull, os.O_WRONLY)  # decoders complain of each damaged file
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            content = pickle.dumps((act(), ""))
        except BaseException:
            content = pickle.dumps((None, traceback.format_exc()))
        with os.fdopen(write_end, "wb") as file:
            file.write(content)
        os._exit(0)
    os.close(write_end)
    end = time.monotonic() + seconds
    with os.fdopen(read_end, "rb") as file:
        os.set_blocking(file.fileno(), False)
        content = b""
        while True:
            found = file.read()
            if found == b"":
                break
            content += found or b""
            if time.monotonic() > end:
                os.kill(child, 9)
                os.waitpid(child, 0)
                return None, f"no end after {seconds:.0f} s"
            if found is None:
                time.sleep(0.005)
    _, status = os.waitpid(child, 0)
    if not content:
        return None, f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended without a word"
    result, error = pickle.loads(content)
    return result, error
