"""The order of warm-up, check, capture and replay, with a stand-in for the GPU: what fails there must not end a run."""

import contextlib
import types

import pytest
import torch

from c2fvl.training import cuda_graph
from c2fvl.training.cuda_graph import StepGraph


class Stream:
    def wait_stream(self, other):
        pass


class FakeCuda:
    """As much of `torch.cuda` as `StepGraph` uses; `events` says what was done."""

    def __init__(self):
        self.events, self.mode, self.capturing, self.generator = [], 0, False, "used"
        self.Stream, self.default = lambda device: Stream(), Stream()
        self.recorded = None
        outer = self

        class Graph:
            def replay(self):
                outer.events.append("replay")

        self.CUDAGraph = Graph
        self.default_generators = [types.SimpleNamespace(graphsafe_set_state=self._set_generator)]

    def _set_generator(self, state):
        self.generator = state

    def current_stream(self, device):
        return self.default

    def current_device(self):
        return 0

    def set_stream(self, stream):
        self.events.append("stream reset")

    def synchronize(self, device):
        pass

    def get_rng_state(self, device):
        return torch.get_rng_state()

    def get_sync_debug_mode(self):
        return self.mode

    def set_sync_debug_mode(self, mode):
        self.mode = mode

    @contextlib.contextmanager
    def stream(self, stream):
        yield

    @contextlib.contextmanager
    def graph(self, graph, *, stream, capture_error_mode):
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(cuda_graph.torch, "cuda", fake)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    generator = types.SimpleNamespace(set_state=lambda state: None, graphsafe_get_state=lambda: "fresh")
    monkeypatch.setattr(cuda_graph.torch, "Generator", lambda device: generator)
    return fake


def graph_of(cuda, *, waits=False, refuses=False):
    """Return a graph of steps that note how they were taken."""

    def compute():
        cuda.events.append("capture" if cuda.capturing else "step")
        if waits and cuda.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nmore lines")
        if refuses and cuda.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.zeros(1, 2)

    return StepGraph(compute, torch.device("cuda"))


def test_a_step_is_captured_after_ordinary_ones(cuda):
    graph = graph_of(cuda)
    for _ in range(7):
        assert graph.step().shape == (1, 2)
    assert cuda.events == ["step"] * 4 + ["capture"] + ["replay"] * 3
    assert not graph.failure
    assert cuda.mode == 0


def test_a_step_that_waits_for_the_gpu_is_found_before_it_is_captured(cuda):
    graph = graph_of(cuda, waits=True)
    for _ in range(6):
        assert graph.step().shape == (1, 2)
    assert graph.failure == "called a synchronizing CUDA operation"
    assert cuda.events == ["step"] * 3 + ["step", "step"] + ["step"] * 2  # the fourth is taken again
    assert cuda.mode == 0


def test_a_capture_that_fails_leaves_an_ordinary_step_and_a_usable_generator(cuda):
    graph = graph_of(cuda, refuses=True)
    for _ in range(6):
        assert graph.step().shape == (1, 2)
    assert "not permitted" in graph.failure
    assert cuda.events == ["step"] * 4 + ["capture", "stream reset", "step", "step"]
    assert cuda.generator == "fresh"
