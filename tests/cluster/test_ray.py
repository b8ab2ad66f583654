"""On Ray itself, with two workers on this machine: what one process gives, each case once, and nothing left behind."""

import csv
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from c2fvl.cli.main import main
from c2fvl.cluster.execute import execution
from c2fvl.cluster.once import LOST, each_once
from c2fvl.cluster.session import room, session

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns of itself

REPORT = "Unilateral pulmonary infection, one infected area, upper left lung."


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Ray reads the whole of this test process otherwise, and warns of its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2] / "src"), *sys.path[:1]]))
        yield


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "predictions.parquet"
    }


@pytest.mark.slow(like="test_an_actor_writes_what_one_process_writes")
def test_a_table_with_reports_and_damaged_images_gives_the_files_of_one_process(
    phantom_root, tiny_export, tmp_path, capsys
):
    from pyarrow import parquet

    images = sorted((phantom_root / "Train_Folder" / "img").iterdir())[:20]
    folder = tmp_path / "films"
    folder.mkdir()
    for image in images:
        shutil.copy(image, folder)
    (folder / images[3].name).write_bytes(images[3].read_bytes()[:100])
    with (tmp_path / "films.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "report"])
        writer.writerows([f"films/{image.name}", REPORT if number % 2 else ""] for number, image in enumerate(images))
    call = ["predict", "--csv", str(tmp_path / "films.csv"), "--model", str(tiny_export.path), "--overlay", "--out"]
    assert main([*call, str(tmp_path / "process"), "--threads", "1"]) == 1
    assert main([*call, str(tmp_path / "ray"), "--engine", "ray", "--actors", "2"]) == 1
    assert "1 of 20 images failed" in capsys.readouterr().err
    expected, found = files_of(tmp_path / "process"), files_of(tmp_path / "ray")
    assert found == expected and len(found) == 1 + 19 * 3
    table = parquet.read_table(tmp_path / "ray" / "predictions.parquet").to_pylist()
    assert sorted(row["index"] for row in table) == list(range(20))
    assert [row["index"] for row in table if row["status"] == "failed"] == [3]


@pytest.mark.slow(like="test_scoring_on_actors_gives_the_summary_of_one_process")
def test_an_evaluation_is_that_of_one_process(phantom_root, tiny_run, tmp_path):
    import json

    call = ["evaluate", str(tiny_run), str(phantom_root), "--split", "test", "--out"]
    assert main([*call, str(tmp_path / "process"), "--threads", "1"]) == 0
    assert main([*call, str(tmp_path / "ray"), "--engine", "ray"]) == 0
    assert (tmp_path / "ray" / "cases.csv").read_bytes() == (tmp_path / "process" / "cases.csv").read_bytes()
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("process", "ray")]
    for summary in summaries:
        summary.pop("seconds")
        summary["software"].pop("command")
    assert summaries[0] == summaries[1]


def squares(folder):
    """A worker that squares numbers: 13 ends its process each time, 40 the first time, 50 is an error."""

    def work(items):
        for item in items:
            mark = Path(folder) / f"{item}"
            if item == 13 or (item == 40 and not mark.exists()):
                mark.write_text("ended")
                os._exit(1)
            if item == 50:
                raise ZeroDivisionError("fifty")
            yield {"value": item * item}

    return work


@pytest.fixture
def by_value():
    """Let workers have the functions of this file, which they cannot import."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.slow(like="test_a_case_that_ends_its_worker_each_time_is_set_aside_and_no_other")
@pytest.mark.usefixtures("by_value")
def test_workers_that_end_cost_no_case_but_the_one_that_ends_them(tmp_path):
    with session() as ray:
        _, pool = room(ray, actors=2)
        answers = list(
            each_once(execution(ray, range(100), squares, (str(tmp_path),), pool), 100, block=10)
        )  # fmt: skip
        listening = set(listening_sockets())
    assert sorted(answer.index for answer in answers) == list(range(100))
    troubles = {answer.index: answer.trouble for answer in answers if answer.trouble}
    assert troubles == {13: LOST, 50: "ZeroDivisionError: fifty"}
    assert all(answer.value == answer.index**2 for answer in answers if not answer.trouble)
    assert listening and listening <= {"127.0.0.1", "[::ffff:127.0.0.1]", "[::1]"}


def listening_sockets():
    """The addresses on which the processes below this one listen."""
    below, parents = {os.getpid()}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    inodes = set()
    for pid in below:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                address = socket.inet_ntop(family, packed)
                yield f"[{address}]" if family == socket.AF_INET6 else address
