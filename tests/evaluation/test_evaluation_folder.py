"""The folder of an evaluation is replaced as a whole, and read back as it was written."""

import dataclasses
import json

import pytest

from c2fvl.data.part import Part
from c2fvl.evaluation.evaluation_folder import EvaluationFolder
from c2fvl.evaluation.records import from_plain
from c2fvl.evaluation.summary import (
    GivenReports,
    ProtocolScores,
    ScoredData,
    ScoredModel,
    Statistics,
    Summary,
    Unit,
)
from c2fvl.files import storage

CASES = [
    ["id", "group", "original_corrected_dice", "original_corrected_iou"], ["b", "", 1.0, 1.0], ["a", "p1", 0.5, 1 / 3]
]  # fmt: skip


@pytest.fixture
def summary():
    return Summary(
        ScoredModel("unet", "debug", "run/best", 3, "abc"),
        ScoredData("data", "val", 2),
        GivenReports("right", "its own", trust=0.1),
        (ProtocolScores(2, 0.75, 2 / 3, 0.75, 0.6, 1, 0, 0, "original", "corrected"),),
        Unit("pixel", "the files"),
        Statistics("2 cases", {}, {}, {}, (), ()),
    )


def names(path):
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*") if entry.is_file())


def test_what_is_written_is_read_back(tmp_path, summary):
    folder = EvaluationFolder(tmp_path / "scores")
    page = folder.write(summary, CASES, "<html>", {"best-1.png": b"png"})
    assert folder.exists
    assert folder.read_summary() == summary
    assert folder.read_cases().ids == ("a", "b")
    assert folder.read_cases().groups == ("p1", None)
    assert page.read_text() == "<html>"
    assert names(folder.path) == ["cases.csv", "evaluation.html", "pictures/best-1.png", "summary.json"]


def test_an_evaluation_replaces_an_audit_as_a_whole(tmp_path, summary):
    folder = EvaluationFolder(tmp_path / "scores")
    page = folder.write(summary, CASES, "<html>", {"best-1.png": b"1", "best-2.png": b"2"}, audit=[["id"], ["a"]])
    assert page.name == "audit.html" and (folder.path / "audit.csv").is_file()
    folder.check()
    folder.write(summary, CASES, "<html>", {"best-1.png": b"3"})
    assert names(folder.path) == ["cases.csv", "evaluation.html", "pictures/best-1.png", "summary.json"]


def test_a_failed_write_leaves_the_old_evaluation(tmp_path, summary, monkeypatch):
    folder = EvaluationFolder(tmp_path / "scores")
    folder.write(summary, CASES, "old", {"best-1.png": b"1"})
    before = {name: (folder.path / name).read_bytes() for name in names(folder.path)}

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(storage, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        folder.write(summary, CASES[:2], "new", {})
    assert {name: (folder.path / name).read_bytes() for name in names(folder.path)} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores"]


def test_other_files_are_never_replaced(tmp_path, monkeypatch):
    folder = EvaluationFolder(tmp_path)
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.docx, which no evaluation writes"):
        folder.check()
    (tmp_path / "thesis.docx").unlink()
    folder.check()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="current"):
        EvaluationFolder(tmp_path).check()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        EvaluationFolder(tmp_path / "file").check()


def test_a_summary_of_another_version_is_named(tmp_path, summary):
    folder = EvaluationFolder(tmp_path / "scores")
    folder.write(summary, CASES, "<html>", {})
    content = json.loads((folder.path / "summary.json").read_text())
    assert from_plain(Summary, content, where="it") == summary
    del content["scores"][0]["protocol"]
    (folder.path / "summary.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"the summary\.scores\[0\] has no protocol"):
        folder.read_summary()
    with pytest.raises(FileNotFoundError, match="name a folder"):
        EvaluationFolder(tmp_path / "nothing").read_summary()


def test_folders_lie_beside_the_best_model_or_in_the_model_folder(tmp_path, summary):
    part = Part("data", "test", text="none")
    of_run = EvaluationFolder.of_model(tmp_path / "run" / "best", part)
    assert of_run.path == tmp_path / "run" / "evaluation-test" / "none"
    assert EvaluationFolder.of_model(tmp_path / "model", part).path == tmp_path / "model" / "evaluation-test" / "none"
    of_run.write(dataclasses.replace(summary), CASES, "<html>", {})
    assert EvaluationFolder.beside(tmp_path / "run" / "best") == [of_run]
