"""What an actor does, in this process: the same files as one process writes, its warnings, and its errors."""

import logging
import pickle
import shutil

import pytest

from c2fvl.cluster.execute import Actor
from c2fvl.cluster.place import Place
from c2fvl.cluster.predict import FolderOptions, FolderWorker, ModelChoice
from c2fvl.files import storage
from c2fvl.files.partial import sole_user
from c2fvl.inference.masks import THRESHOLD
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import collect
from c2fvl.inference.to_folder import predict_to_folder

pyarrow = pytest.importorskip("pyarrow")


@pytest.fixture
def films(phantom_root, tmp_path):
    """Five images, one of them damaged."""
    folder = tmp_path / "films"
    folder.mkdir()
    for image in sorted((phantom_root / "Test_Folder" / "img").iterdir())[:5]:
        shutil.copy(image, folder)
    first = min(folder.iterdir())
    first.write_bytes(first.read_bytes()[:200])
    return folder


@pytest.fixture
def worker(tiny_export, tmp_path):
    storage.make_folder(tmp_path / "actor")
    choice = ModelChoice(str(tiny_export.path), THRESHOLD)
    weights = choice.predictor(device="cpu", threads=1).model.weights_sha256
    return FolderWorker(Place("cpu", 1), choice, FolderOptions(tmp_path / "actor"), weights)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_actor_writes_what_one_process_writes(worker, films, tiny_export, tmp_path):
    requests = collect([str(films)])
    answers = list(worker(requests))
    expected = list(predict_to_folder(Predictor(tiny_export.path), requests, tmp_path / "process"))
    assert [answer["value"] for answer in answers] == expected and "error" in expected[0]
    assert files_of(tmp_path / "actor") == files_of(tmp_path / "process")


def test_no_other_run_begins_while_an_actor_lives(worker, tmp_path):
    with sole_user(tmp_path / "actor") as is_sole:
        assert not is_sole


def test_a_full_disk_is_said_for_each_image_that_is_not_written(worker, films, monkeypatch):
    requests = collect([str(films)])
    write, written = storage.write_bytes, []

    def fill(path, data, **keywords):
        if len(written) == 4:  # two files for each image; the first image is damaged
            raise OSError(f"{path} cannot be written: No space left on device")
        written.append(path)
        write(path, data, **keywords)

    monkeypatch.setattr(storage, "write_bytes", fill)
    answers = list(worker(requests))
    assert len(answers) == len(requests)
    unwritten = [answer for answer in answers if answer.get("is_unwritten")]
    assert len(unwritten) == 2 and all("No space left" in answer["trouble"] for answer in unwritten)
    assert not any(path.name.startswith(".") for path in worker.options.out.iterdir())


def test_a_disk_that_is_as_good_as_full_is_said_before_anything_is_predicted(worker, films, monkeypatch):
    monkeypatch.setattr(storage, "_MIN_FREE_BYTES", 2**70)
    answers = list(worker(collect([str(films)])))
    assert len(answers) == 5 and all(
        answer["is_unwritten"] and "MiB are free" in answer["trouble"] for answer in answers
    )


def test_an_actor_with_other_weights_is_refused(tiny_export, tmp_path):
    storage.make_folder(tmp_path / "out")
    with pytest.raises(ValueError, match="other weights"):
        FolderWorker(
            Place("cpu", 1), ModelChoice(str(tiny_export.path), THRESHOLD), FolderOptions(tmp_path / "out"), "0" * 64
        )


def test_a_machine_without_the_folder_of_the_call_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no folder .*missing, in which the command was called"):
        Place("cpu", 1, folder=str(tmp_path / "missing")).enter()


def numbers(fail_at, warn):
    """A worker on whole numbers, as `Actor` makes it."""

    def work(items):
        for item in items:
            if item == fail_at:
                raise ZeroDivisionError("odd number")
            logging.getLogger("c2fvl.test").warning(warn)
            yield {"value": item}

    return work


def block_of(items):
    return pyarrow.table({"index": list(range(len(items))), "item": [pickle.dumps(item) for item in items]})


def answers_of(table):
    return [pickle.loads(answer) for answer in table["answer"].to_pylist()]


def test_an_error_of_the_program_is_the_trouble_of_the_cases_from_it_on():
    found = answers_of(Actor(numbers, (12, "hm"))(block_of([10, 11, 12, 13])))
    assert found[:2] == [{"value": 10}, {"value": 11}]
    assert found[2:] == [{"trouble": "ZeroDivisionError: odd number"}] * 2


def test_the_warnings_of_an_actor_come_with_its_answers_once():
    actor = Actor(numbers, (None, "the report is odd"))
    notes = [pickle.loads(note) for note in actor(block_of([1, 2]))["notes"].to_pylist() if note]
    assert notes == [["the report is odd"] * 2]
    assert pickle.loads(actor(block_of([3]))["notes"].to_pylist()[0]) == ["the report is odd"]
