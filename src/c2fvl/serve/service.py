"""What the routes share: models, queue, counters, and the way from an image in memory to its prediction. No torch."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request

from c2fvl.files.read_picture import read_picture
from c2fvl.inference.prediction import Prepared
from c2fvl.inference.predictor import Predictor
from c2fvl.serve.answers import Answer, Done
from c2fvl.serve.forms import HeldBytes, PredictForm
from c2fvl.serve.metrics import Metrics
from c2fvl.serve.networks import NetworkThread, ServedModels
from c2fvl.serve.problems import ProblemError
from c2fvl.serve.sessions import Sessions
from c2fvl.serve.settings import Limits
from c2fvl.serve.volumes import Volumes

_T = TypeVar("_T")
_POOL_THREADS = 2
_SWEEP_SECONDS = 30.0


class Queue:
    """The places of requests that wait or are computed."""

    def __init__(self, places: int) -> None:
        self.places, self.taken = places, 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place within this context; raises `ProblemError` 503 where none is free."""
        if self.taken >= self.places:
            raise ProblemError(503, f"{self.taken} requests wait already. Try again soon.", retry_after=1)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Service:
    """What the routes share: the models, the network's thread, the queue, the sessions and the counters."""

    def __init__(self, models: ServedModels, limits: Limits, paths: tuple[str, ...]) -> None:
        self.models, self.limits = models, limits
        self.network = NetworkThread(limits.prepared)
        self.volumes = Volumes()
        self.queue = Queue(limits.queue)
        self.held = HeldBytes(limits.held_bytes)
        self.sessions = Sessions(limits)
        self.metrics = Metrics(paths)
        self.pool = ThreadPoolExecutor(_POOL_THREADS, "c2fvl-images")
        self._prepared = asyncio.Semaphore(limits.prepared)

    async def predict(self, form: PredictForm, answer: Callable[[Done], Answer]) -> Answer:
        """Return the answer to a request that has a place."""
        model = self.models.find(form.model)
        predictor = model.predictor(trust=form.trust, threshold=form.threshold)
        async with self._prepared:
            prepared = await self.in_pool(functools.partial(_prepare, predictor, form, self.limits))
            computed = await self.network.compute(model, prepared)

            def finish() -> Answer:
                return answer(Done(predictor.finish(prepared, computed), computed, model.name, self.limits.view_side))

            return await self.in_pool(finish)

    async def in_pool(self, work: Callable[[], _T]) -> _T:
        """Return the result of work that is done beside the answering of other requests."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    @contextlib.asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        """Compute within this context."""
        self.network.start()
        sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            self.volumes.stop()
            self.network.stop()
            self.pool.shutdown(cancel_futures=True)

    async def _sweep(self) -> None:
        """Drop images of sessions that have expired, also while nobody asks."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.sessions.drop_expired()


def _prepare(predictor: Predictor, form: PredictForm, limits: Limits) -> Prepared:
    """Decode the image and read the report; what cannot be read is the client's error."""
    with client_errors():
        picture = read_picture(form.image, max_pixels=limits.pixels)
        return predictor.prepare(picture, form.report, orientation=form.orientation)


@contextlib.contextmanager
def client_errors() -> Iterator[None]:
    """Turn what cannot be read within this context into a `ProblemError` 422."""
    try:
        yield
    except ValueError as error:
        raise ProblemError(422, str(error)) from error
    except (RecursionError, MemoryError) as error:
        raise ProblemError(422, "The image is nested too deeply or too large to be read.", field="image") from error


async def while_connected(request: Request, work: Awaitable[_T], seconds: float) -> _T:
    """Return the result of the work, or end it because the client has gone or the time is up."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if leaving.done():
            raise ClientDisconnect
        raise ProblemError(504, f"The answer took more than {seconds:.0f} s.", retry_after=5)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
