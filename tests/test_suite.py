"""The suites themselves: slow tests do not stand alone, and `make stress` finds the readers that it attacks."""

import importlib
import sys
from pathlib import Path

import pytest
from sabotage import __main__ as sabotage
from sabotage.__main__ import missing_texts
from sabotage.patches import PATCHES, Patch

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


def test_every_fault_of_make_sabotage_can_be_put_in_and_has_its_tests(collected):
    """A text that moved or changed, or a test of another name, is found here and not when it is needed."""
    assert not missing_texts(PATCHES)
    assert len(PATCHES) >= 30
    source = Path(__file__).parents[1] / "src" / "c2fvl"
    assert {patch.package for patch in PATCHES} == {path.parent.name for path in source.glob("*/__init__.py")}
    tests = Path(__file__).parent
    known = {f"{item.path.relative_to(tests)}::{item.originalname or item.name}" for item in collected}
    files = {name.partition("::")[0] for name in known}
    for patch in PATCHES:
        for name in patch.tests.split():
            assert (tests / name.partition("::")[0]).is_file(), name
            if name.partition("::")[0] in files:  # else only a part of the tests was collected
                assert "::" not in name or name in known, f"there is no test {name}"


@pytest.mark.slow(like="test_every_fault_of_make_sabotage_can_be_put_in_and_has_its_tests")
def test_a_fault_that_is_not_caught_and_one_that_cannot_be_put_in_are_said(monkeypatch, capsys):
    """On a comment of a source: no test can fail by it, and the source itself is untouched."""
    file = Path(__file__).parents[1] / "src" / "c2fvl" / "version.py"
    before = file.read_text()
    docstring = before.splitlines()[0]
    same = Patch("version.py", docstring, '"""Another docstring."""', "reports/test_zones.py")
    heights = 'HEIGHTS = ("upper", "middle", "lower")'
    caught = Patch("reports/zones.py", heights, heights.replace("upper", "uppr"), "reports/test_zones.py")
    monkeypatch.setattr(sys, "argv", ["sabotage"])
    for patches, status, said in (
        ([caught], 0, "1 faults tried"),
        ([same], 1, f"not caught: version.py\n- {docstring}"),
        ([Patch("version.py", "no such text", "", "reports/test_zones.py")], 1, "contains this text 0 times"),
        ([Patch("version.py", docstring, '"""Ever."""', "reports/test_none.py")], 1, "its tests were not run"),
    ):
        monkeypatch.setattr(sabotage, "PATCHES", patches)
        assert sabotage.main() == status
        assert said in capsys.readouterr().out
    assert file.read_text() == before


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
