"""The suites themselves: slow tests do not stand alone, and `make stress` finds the readers that it attacks."""

import importlib
from pathlib import Path

import pytest

from c2fvl.cli.main import main


def test_every_slow_test_has_a_fast_one_that_asks_the_same(collected):
    if not {"models", "training", "evaluation"} <= {item.path.parent.name for item in collected}:
        pytest.skip("only a part of the tests was collected")
    marks = {item: item.get_closest_marker("slow") for item in collected}
    fast = {name for item, mark in marks.items() if mark is None for name in (item.name, item.originalname)}
    for item, mark in marks.items():
        if mark is not None:
            assert set(mark.kwargs) == {"like"} and not mark.args, f"{item.nodeid}: expected is slow(like=...)"
            assert mark.kwargs["like"] in fast, f"{item.nodeid}: there is no fast test {mark.kwargs['like']}"


def test_damaged_files_of_every_kind_are_read_or_refused(
    monkeypatch, phantom_root, tiny_run, tiny_export, tmp_path, capsys
):
    """What `make stress` does thousands of times, with a few files of each kind."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "stress")
    kinds, readers = importlib.import_module("kinds"), importlib.import_module("readers")
    scores = tmp_path / "scores"
    assert main(["evaluate", str(tiny_run), str(phantom_root), "--split", "test", "--out", str(scores)]) == 0
    for kind in kinds.all_kinds(phantom_root, tiny_run, scores, tiny_export.path):
        counts, failures = readers.read_damaged(kind, range(3), 0, tmp_path / kind.name)
        assert not failures, failures
        assert sum(counts.values()) == 3
