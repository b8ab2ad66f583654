"""What `c2fvl bench` tells: of what, under which conditions, and what it refuses. Times themselves are never asked."""

import json
import shutil

import pytest
import torch
from support.progress import Steps

from c2fvl.checkpoints.model_files import parse_settings
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.evaluation.bench import bench, to_markdown
from c2fvl.inference.speed import Conditions, measure_speed

ONCE = Conditions(repeats=1, threads=1)


@pytest.fixture(scope="module")
def found(tiny_run, phantom_root):
    progress = Steps()
    figures = bench([str(tiny_run)], root=phantom_root, conditions=ONCE, progress=progress)
    assert progress.stages == [
        "measuring the machine's peak", f"measuring {tiny_run}: inference", f"measuring {tiny_run}: training",
        "measuring loading",
    ]  # fmt: skip
    return figures


@pytest.mark.slow(like="test_a_precision_of_the_device_is_measured")
def test_each_part_has_numbers(found, tiny_run):
    assert all(rate > 0 for rate in found.peak.values())
    assert len(found.peak) == 4
    inference, training = found.networks
    assert (inference.part, training.part) == ("inference", "training")
    for row in found.networks:
        assert row.model == str(tiny_run)
        assert row.speed.median_seconds <= row.speed.p95_seconds
        assert row.speed.images_per_second == pytest.approx(1 / row.speed.median_seconds)
        assert row.speed.peak_memory > 0
        assert row.fraction_of_peak == pytest.approx(
            row.gflop * row.speed.images_per_second / max(found.peak.values()), rel=1e-6
        )
    assert 2 < training.gflop / inference.gflop < 6
    assert set(found.loading) == {"first epoch", "as published", "later epochs", "later epochs, augmented"}
    assert found.metrics > 0


@pytest.mark.slow(like="test_a_precision_of_the_device_is_measured")
def test_the_tables_show_every_number(found, tiny_run):
    text = to_markdown(found)
    rows = [line for line in text.splitlines() if line.startswith(f"| {tiny_run} | ")]
    assert [row.split(" | ")[1] for row in rows] == ["inference", "training"]
    assert "later epochs, augmented" in text
    assert "scored per second" in text
    for rate in found.peak.values():
        assert f"{rate:.0f} GFLOP/s" in text


@pytest.mark.slow(like="test_a_precision_of_the_device_is_measured")
def test_a_network_of_the_catalogue_without_side_maps_is_measured():
    (inference, training) = bench(["medt"], conditions=ONCE, parts=("inference", "training")).networks
    assert inference.speed.images_per_second > training.speed.images_per_second > 0


def test_a_precision_of_the_device_is_measured(tiny_run):
    found = measure_speed(parse_settings(tiny_run), Conditions(precision="bf16", repeats=1, threads=1))
    assert found.images_per_second > 0


@pytest.mark.usefixtures("translated")
def test_an_exported_file_is_measured_as_it_is(tiny_run, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    from c2fvl.inference.export import export

    export(load_model(tiny_run), tmp_path / "x.onnx")
    arguments = ["bench", str(tmp_path / "x.onnx"), "--only", "inference", "--repeats", "1", "--batch-size", "2"]
    assert main([*arguments, "--out", str(tmp_path / "figures"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (row,) = printed["networks"]
    assert row["part"] == "inference"
    assert row["speed"]["batch_size"] == 2
    assert row["gflop"] is None
    assert printed["loading"] is None
    assert json.loads((tmp_path / "figures" / "bench.json").read_text()) == printed
    assert "| inference | 2 |" in (tmp_path / "figures" / "bench.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "fp16"], "processors do not compute in fp16; use bf16 or fp32"),
        (["nothing"], "nothing"),
        (["nothing.onnx"], "the file does not exist"),
        (["--root", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_ends_before_anything_is_timed(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("c2fvl.evaluation.bench.in_own_process", lambda *a: pytest.fail("timed"))
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_failure_while_measuring_is_reported(phantom_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    next((root / "Train_Folder" / "img").iterdir()).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"this cannot be measured: .*OpenCV alone does not read"):
        bench(root=root, conditions=ONCE, parts=("loading",))


def test_no_gpu_no_numbers():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="cuda"):
        bench(conditions=Conditions("cuda"))
