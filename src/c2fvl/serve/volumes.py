"""CT volumes on a server: one after another, slice by slice between the images of other requests. No torch."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from c2fvl.inference.engine import Computed
from c2fvl.inference.masks import THRESHOLD
from c2fvl.inference.prediction import Prepared
from c2fvl.inference.predictor import Predictor
from c2fvl.serve.networks import NetworkThread, ServedModel
from c2fvl.serve.problems import ProblemError

_T = TypeVar("_T")
_BATCH_SECONDS = 300.0


class Volumes:
    """The one thread that takes volumes apart; the network's thread computes their slices."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "c2fvl-volumes")
        self._stopping = threading.Event()

    async def run(self, work: Callable[["Ending"], _T]) -> _T:
        """Return the result of work on a volume; it is ended at the next batch of slices when nobody waits for it."""
        ending = Ending(self._stopping)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, ending)
        finally:
            ending.is_wanted = False

    def stop(self) -> None:
        """End what runs at its next batch of slices, and begin nothing."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)


class Ending:
    """A `Progress` that ends the work when nobody waits for it."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping, self.is_wanted = stopping, True

    def stage(self, text: str) -> None:
        """End the work if nobody waits for it."""
        self.advance(0, 0)

    def advance(self, done: int, total: int) -> None:
        """End the work if nobody waits for it."""
        if self._stopping.is_set() or not self.is_wanted:
            raise ProblemError(503, "The server stops.", retry_after=30)


class SlicePredictor(Predictor):
    """A predictor whose network runs in the network's thread, together with the images of other requests."""

    def __init__(
        self, model: ServedModel, network: NetworkThread, *, trust: float | None, threshold: float | None
    ) -> None:
        threshold = THRESHOLD if threshold is None else threshold
        super().__init__(model.engine, trust=trust, threshold=threshold, batch_size=network.batch_size)
        self._served, self._network = model, network

    def run(self, prepared: Sequence[Prepared]) -> list[Computed]:
        """Return the output for several slices, at the network's resolution and not calibrated."""
        waiting = [self._network.submit(self._served, one) for one in prepared]
        return [future.result(_BATCH_SECONDS) for future in waiting]
