"""Ctrl-C and SIGTERM as a request to stop, which the training loop follows at its next step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignals:
    """Within this context the first SIGINT or SIGTERM is only noted; a second one acts as it would without it.

    Outside the main thread, where Python sets no handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the signal, once there was one."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._restore()
            signal.raise_signal(number)
        else:
            self.received = signal.Signals(number).name
