"""One training step as one CUDA graph: the GPU repeats the recorded kernels, and the CPU launches one thing a step.

A step is recorded after a few ordinary ones, on the same stream, so that the optimizer's state is there. What the
recorded step reads must stay where it is: parameters, gradients, the optimizer's state, the draws of the epoch, the
positions of the batch, the learning rate. Random numbers come from the default generator, which the graph registers.
"""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from c2fvl.messages import first_line
from c2fvl.training.setup import Run

_WARM_UP_STEPS = 3
"""Ordinary steps before the one that is checked and then recorded."""


def why_not_captured(run: Run) -> str:
    """Return why steps of a run are not captured, or nothing if it may be tried."""
    settings = run.config.train
    if settings.graph == "no":
        return "train.graph is no"
    if run.device.type != "cuda":
        return "CUDA graphs need a GPU"
    if run.world > 1:
        return "several processes exchange gradients, which is not captured"
    if settings.precision == "fp16":
        return "fp16 scales its gradients, which is not captured"
    return ""


class StepGraph:
    """Calls `compute`, which takes one training step and returns a tensor: a few times itself, then by replaying it.

    `failure` says why that cannot be, once it was tried; steps are then taken by `compute`.
    """

    def __init__(self, compute: Callable[[], Tensor], device: torch.device) -> None:
        self.compute, self.device = compute, device
        self.failure = ""
        self._stream = torch.cuda.Stream(device)
        self._num_steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def step(self) -> Tensor:
        """Take one step; return what `compute` does, as a copy that the next step leaves alone."""
        self._num_steps += 1
        if self._graph is None and not self.failure and self._num_steps > _WARM_UP_STEPS + 1:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
            return self._result.clone()
        if self.failure or self._num_steps <= _WARM_UP_STEPS:
            return self._on_stream(self.compute)
        return self._checked_step()

    def _on_stream(self, function: Callable[[], Tensor]) -> Tensor:
        """Return what a function computes on the stream that is recorded."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = function()
        current.wait_stream(self._stream)
        result.record_stream(current)
        return result

    def _checked_step(self) -> Tensor:
        """Take an ordinary step in which waiting for the GPU is an error: what waits cannot be recorded."""
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.synchronize(self.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return self._on_stream(self.compute)
        except RuntimeError as error:
            self.failure = first_line(error)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        return self._on_stream(self.compute)

    def _capture(self) -> None:
        """Record a step; it is not taken by that."""
        random, current = torch.cuda.get_rng_state(self.device), torch.cuda.current_stream(self.device)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the GPU meanwhile, so that only calls of this one are refused.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._result = self.compute()
        except Exception as error:  # whatever it is, training goes on without a graph
            self.failure = first_line(error)
            torch.cuda.set_stream(current)  # a failed capture may leave its own
            self._restore_generator(random)
        else:
            self._graph = graph

    def _restore_generator(self, state: Tensor) -> None:
        """Replace the default generator's state, which a failed capture leaves unusable."""
        with contextlib.suppress(RuntimeError):
            torch.cuda.synchronize(self.device)
        with contextlib.suppress(RuntimeError, AttributeError):
            fresh = torch.Generator(self.device)
            fresh.set_state(state)
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())
