"""The suite itself: a slow test does not stand alone."""

import pytest


def test_every_slow_test_has_a_fast_one_that_asks_the_same(collected):
    if not {"models", "training", "evaluation"} <= {item.path.parent.name for item in collected}:
        pytest.skip("only a part of the tests was collected")
    marks = {item: item.get_closest_marker("slow") for item in collected}
    fast = {name for item, mark in marks.items() if mark is None for name in (item.name, item.originalname)}
    for item, mark in marks.items():
        if mark is not None:
            assert set(mark.kwargs) == {"like"} and not mark.args, f"{item.nodeid}: expected is slow(like=...)"
            assert mark.kwargs["like"] in fast, f"{item.nodeid}: there is no fast test {mark.kwargs['like']}"
