"""The loaded models of a server, and the one thread that runs their networks on batches of what waits. No torch."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from c2fvl.inference.engine import Computed, Engine
from c2fvl.inference.masks import THRESHOLD
from c2fvl.inference.prediction import Prepared
from c2fvl.inference.predictor import Predictor
from c2fvl.messages import listed
from c2fvl.serve.problems import ProblemError
from c2fvl.version import __version__


class ServedModel:
    """A loaded model under the name that requests call it by."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name, self.engine = name, engine
        self.plain = Predictor(engine)

    def predictor(self, *, trust: float | None = None, threshold: float | None = None) -> Predictor:
        """Return a predictor for one request; it shares the network and nothing else, so no report stays in it.

        Raises `ProblemError` for a trust or a threshold that this network cannot have.
        """
        try:
            return Predictor(self.engine, trust=trust, threshold=THRESHOLD if threshold is None else threshold)
        except ValueError as error:
            raise ProblemError(422, str(error)) from error

    def about(self) -> dict[str, Any]:
        """Return what a client should know of the model."""
        by = self.plain.model
        return {
            "name": self.name,
            "network": by.name,
            "preset": by.preset,
            "classes": list(by.classes),
            "reads_images": by.reads_images,
            "reads_reports": self.plain.encoder is not None,
            "needs_report": self.plain.encoder is not None and not by.reads_images,
            "trust": by.trust,
            "threshold": by.threshold,
            "calibrated": by.is_calibrated,
            "precision": by.precision,
            "image_size": self.engine.config.data.image_size,
            "weights_sha256": by.weights_sha256,
        }


class ServedModels:
    """The models of a server; the first is the default."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        if not models:
            raise ValueError("a server needs at least one model")
        self.by_name = {model.name: model for model in models}
        if len(self.by_name) != len(models):
            raise ValueError("a model is named twice; name each once")
        self.default = models[0]

    def find(self, name: str | None) -> ServedModel:
        """Return the model of that name, the default for None; raises `ProblemError` for an unknown one."""
        if name is None:
            return self.default
        if name not in self.by_name:
            known = listed(list(self.by_name))
            raise ProblemError(404, f"The server has no model of this name. It has: {known}.", field="model")
        return self.by_name[name]

    def about(self) -> dict[str, Any]:
        """Return the models for clients."""
        return {
            "version": __version__,
            "default": self.default.name,
            "models": [model.about() for model in self.by_name.values()],
        }


@dataclass
class _Job:
    model: ServedModel
    prepared: Prepared
    future: "Future[Computed]"


class NetworkThread:
    """The one thread that computes. It takes what waits for the same model, up to `batch_size`, at once."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.num_batches = self.num_images = 0
        self._is_stopped = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="c2fvl-network", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, then end the thread."""
        self._is_stopped = True
        self._jobs.put(None)
        self._thread.join(timeout=30)
        with contextlib.suppress(queue.Empty):
            while True:  # what came too late is told so
                if (late := self._jobs.get_nowait()) is not None:
                    late.future.cancel()

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread computes."""
        return self._thread.is_alive()

    async def compute(self, model: ServedModel, prepared: Prepared) -> Computed:
        """Return what the network of a model makes of one image."""
        return await asyncio.wrap_future(self.submit(model, prepared))

    def submit(self, model: ServedModel, prepared: Prepared) -> "Future[Computed]":
        """Return what the network of a model will make of one image; for threads other than the one that answers."""
        job = _Job(model, prepared, Future())
        self._jobs.put(job)
        if self._is_stopped and not self.is_alive:
            job.future.cancel()
        return job.future

    def _run(self) -> None:
        is_last = False
        while not is_last:
            jobs, is_last = self._waiting()
            wanted = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            for model in {job.model.name: job.model for job in wanted}.values():
                self._compute([job for job in wanted if job.model is model])

    def _waiting(self) -> tuple[list[_Job], bool]:
        """Return the jobs that wait, at least one, and whether the thread shall end after them."""
        first = self._jobs.get()
        jobs = [] if first is None else [first]
        while first is not None and len(jobs) < self.batch_size:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, first is None

    def _compute(self, jobs: list[_Job]) -> None:
        try:
            found = jobs[0].model.plain.run([job.prepared for job in jobs])
        except Exception as error:  # every waiting request is told, and the thread goes on
            for job in jobs:
                job.future.set_exception(error)
            return
        self.num_batches += 1
        self.num_images += len(jobs)
        for job, computed in zip(jobs, found, strict=True):
            job.future.set_result(computed)
