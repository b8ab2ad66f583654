"""Whether two runs are the same, to the bit."""

import json

import torch
from safetensors.torch import load_file
from support.tiny_runs import TIMES

from c2fvl.training.resume_state import load_state


def log_of(run):
    """Return the lines of a run's log without what they say of time."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same_run(run, other):
    """Two runs are equal to the bit: log, weights, optimizer, averages, generators and best model."""
    assert log_of(run) == log_of(other)
    first, second = load_state(run / "last"), load_state(other / "last")
    assert first.weights.keys() == second.weights.keys()
    for name, value in first.weights.items():
        assert torch.equal(value, second.weights[name]), name
    for number, entry in first.optimizer["state"].items():
        for name, value in entry.items():
            assert torch.equal(value, second.optimizer["state"][number][name]), (number, name)
    assert first.optimizer["param_groups"] == second.optimizer["param_groups"]
    assert (first.average is None) == (second.average is None)
    for name, value in (first.average or {}).items():
        assert torch.equal(value, second.average[name]), name
    for name, value in first.generators.items():
        assert torch.equal(value.nan_to_num(), second.generators[name].nan_to_num()), name
    best, other_best = load_file(run / "best" / "model.safetensors"), load_file(other / "best" / "model.safetensors")
    for name, value in best.items():
        assert torch.equal(value, other_best[name]), name
