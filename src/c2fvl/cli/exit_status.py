"""The exit statuses of every command, and what Ctrl-C and SIGTERM do: the one place that says so.

The first signal ends a command: files are left whole or not at all, temporary ones are removed, and the status is 130
or 143. A training notes it, saves at its next step, and ends with the same status (`training/signals.py`). The second
signal ends any command at once.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

DONE = 0
PROBLEMS = 1
"""`check` found errors, or some images failed."""
WRONG_CALL = 2
"""A wrong call, input or setting, or a disk that cannot be written."""
TIME_IS_UP = 75
"""A training stopped and saved because the time of `train.max_hours` was up."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to stop."""

    def __init__(self, name: str) -> None:
        super().__init__(f"stopped by {name}")
        self.name = name


def status_of_signal(name: str) -> int:
    """Return the exit status of a command that this signal stopped: 130 of SIGINT, 143 of SIGTERM."""
    return 128 + signal.Signals[name]


@contextlib.contextmanager
def stop_by_signals() -> Iterator[None]:
    """Within this context the first SIGINT or SIGTERM raises `Stopped`; a second one ends the process at once.

    Outside the main thread, where Python sets no handlers, nothing is changed.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
