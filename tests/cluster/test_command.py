"""The option --engine ray without a cluster: what is missing, wrong or not possible is said in one line."""

import csv
import importlib.util
import json
import socket
import threading
import time

import pytest

from c2fvl.cli.main import main
from c2fvl.cluster import session as sessions
from c2fvl.cluster.session import check_address, check_answer
from c2fvl.files import storage
from c2fvl.inference.output_folder import written_by_this_run
from c2fvl.inference.summary_table import SummaryTable
from c2fvl.version import __version__


@pytest.mark.parametrize("command", [["predict", "a.png"], ["evaluate", "small", "data"]])
@pytest.mark.parametrize("package", ["ray", "pyarrow"])
def test_without_ray_the_option_says_what_to_install(monkeypatch, capsys, command, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    monkeypatch.setitem(__import__("sys").modules, package, None)
    if package == "pyarrow" and find("ray") is None:
        pytest.skip("Ray is not installed, so it is what is named")
    assert main([*command, "--engine", "ray"]) == 2
    assert capsys.readouterr().err == (
        f"c2fvl: this needs {package}, which is not installed: pip install 'c2fvl[ray]'\n"
    )


@pytest.mark.parametrize("option", [["--address", "auto"], ["--actors", "2"]])
def test_options_of_ray_need_ray(capsys, option):
    assert main(["predict", "a.png", *option]) == 2
    assert "--address and --actors are for --engine ray" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:0", "host:99999", ":6379", "host:6379/x", "a b:6379"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match=r"--address must be auto or HOST:PORT"):
        check_address(address)


def test_ray_client_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="Ray Client is not supported; give HOST:PORT"):
        check_address("ray://host:10001")


def test_an_address_where_nothing_answers_is_said_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"nothing answers there .*ray start --head"):
        check_address(address)
    assert time.monotonic() - began < 5


ANSWER = {"host": "node7", "version": __version__, "error": "", "python": "/usr/bin/python3", "seen": "yes"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "", "error": "No module named 'c2fvl'"}, r"node7 .* has no c2fvl \(No module .*install c2fvl"),
        ({"version": "0.0.9"}, r"node7 .* has c2fvl 0.0.9; install c2fvl .* for /usr/bin/python3"),
        ({"seen": ""}, "node7 of the cluster does not see the output folder"),
    ],
)
def test_a_machine_that_cannot_do_the_work_is_named(change, message):
    check_answer(ANSWER)
    with pytest.raises(ValueError, match=message):
        check_answer(ANSWER | change)


class Stages:
    """A `Progress` that keeps the stages."""

    def __init__(self):
        self.seen = []

    def stage(self, text):
        self.seen.append(text)

    def advance(self, done, total):
        pass


class Busy:
    """A `ray` whose cores other work uses, and later not."""

    __version__ = "2.60.0"

    def __init__(self, free):
        self.free = iter(free)

    def nodes(self):
        return [{"Alive": True, "NodeManagerAddress": "127.0.0.1", "Resources": {"CPU": 2.0}}]

    def cluster_resources(self):
        return {"CPU": 2.0}

    def available_resources(self):
        return {"CPU": next(self.free)}


def test_cores_that_other_work_uses_are_waited_for_and_then_refused(monkeypatch):
    monkeypatch.setattr(sessions, "_SECONDS_FOR_CORES", 0.12)
    progress = Stages()
    place, pool = sessions.room(Busy([0, 0, 1.0]), progress=progress)
    assert progress.seen == ["Waiting for free cores of the cluster", "Ray 2.60.0: 1 actor with 1 core"]
    assert (place.device, place.threads, pool.actors) == ("cpu", 1, 1)
    with pytest.raises(ValueError, match="other work uses all of the cluster: an actor needs 1 free cores"):
        sessions.room(Busy([0.0] * 100))
    with pytest.raises(ValueError, match="--device mps cannot be used with --engine ray"):
        sessions.room(Busy([2.0]), device="mps")


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    out = tmp_path / "out"
    for first, second in ((True, False), (False, True), (True, True), (False, False)):
        other = written_by_this_run(out, with_workers=second, seconds=0.1)
        with written_by_this_run(out, with_workers=first), pytest.raises(ValueError, match="another `c2fvl predict`"):
            other.__enter__()


def test_a_run_that_ends_is_waited_for(tmp_path):
    began, ended = threading.Event(), []

    def first():
        with written_by_this_run(tmp_path):
            began.set()
            time.sleep(0.5)
            ended.append(True)

    thread = threading.Thread(target=first)
    thread.start()
    began.wait()
    with written_by_this_run(tmp_path, with_workers=True):
        assert ended
    thread.join()


def test_one_process_refuses_a_folder_that_another_run_writes(phantom_root, tiny_export, tmp_path, capsys, monkeypatch):
    image = min((phantom_root / "Test_Folder" / "img").iterdir())
    monkeypatch.setattr("c2fvl.inference.output_folder.SECONDS_TO_END", 0.2)
    with written_by_this_run(tmp_path):
        assert main(["predict", str(image), "--model", str(tiny_export.path), "--out", str(tmp_path)]) == 2
    assert "another `c2fvl predict` writes into this folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_summary_table_is_in_the_order_of_the_images_whatever_came_first(tmp_path):
    table = SummaryTable(tmp_path)
    for place in (2, 0, 1):
        table.add({"image": f"{place}.png", "error": "odd"}, place)
    table.write()
    with (tmp_path / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["0.png", "1.png", "2.png"]


def test_a_file_of_records_is_whole_or_not_there(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    from c2fvl.cluster.records_file import records_file

    done = {"image": "a.png", "files": ["a.png", "a.json"], "height": 3, "width": 4, "area": 5, "area_mm2": None,
            "ood": {"is_in_distribution": True}, "skipped": True}  # fmt: skip
    with pytest.raises(ZeroDivisionError), records_file(tmp_path) as records:
        records.add(0, done)
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with records_file(tmp_path) as records:
        for index in range(2500):
            records.add(index, done | {"image": f"{index}.png"})
        records.add(2500, {"image": "b.png", "error": "odd"})
    table = parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [row["index"] for row in table] == list(range(2501))
    assert json.loads(table[0]["record"]) == {key: value for key, value in done.items() if key != "skipped"} | {
        "image": "0.png"
    }
    assert (table[0]["status"], table[0]["area"], table[0]["is_in_distribution"]) == ("done", 5, True)
    assert (table[-1]["status"], table[-1]["reason"], table[-1]["files"]) == ("failed", "odd", [])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_folder_of_a_run_stays_free_of_marks(tmp_path):
    with written_by_this_run(tmp_path / "new") as out:
        assert out.is_dir() and not list(out.iterdir())
    storage.write_text(out / "a", "later writers are not kept out")
