"""The command for a rented GPU, rehearsed on the processor with tiny settings."""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.data.shard_writer import cases_of, write_shards

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks.gpu_run import main, missing_modules, parse_stages

ROOT = Path(__file__).parents[1]
TINY = "data.image_size=32:model.arguments.image_size=32:model.arguments.base_width=8:train.threads=1"


@pytest.fixture
def parts(phantom_root, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
    write_shards(cases_of(phantom_root), tmp_path / "parts")
    return tmp_path / "parts"


def run(parts, out, stages, *, minutes=3.0):
    status = main(
        ["--stages", stages, "--minutes", str(minutes), "--data", str(parts), "--out", str(out), "--device", "cpu",
         "--work", str(parts.parent / "work")]
    )  # fmt: skip
    return status, json.loads((out / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow(like="test_a_cross_validation_teaches_the_next_training")
@pytest.mark.timeout(600)
def test_a_training_with_scores_and_weights_then_the_next_call_goes_on(parts, tmp_path):
    train = f"train:debug@25s:{TINY}:train.batch_size=8"
    status, found = run(
        parts, tmp_path / "out", f"{train},score:no_such_model@10s,figures:debug@250s:{TINY}", minutes=8
    )
    assert status == 1
    trained, missing, figures = found["stages"].values()
    assert (trained["status"], missing["status"], figures["status"]) == ("done", "failed", "done")
    assert "no_such_model" in "".join(missing["error"])
    assert trained["history"][-1]["epoch"] >= 1
    assert set(trained["result"]["scores"]) == {"right", "none", "shuffled"}
    scores = trained["result"]["scores"]["right"]["original corrected"]
    assert set(scores) == {"dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled"}
    assert scores["dice_per_image"]["low"] <= scores["dice_per_image"]["value"] <= scores["dice_per_image"]["high"]
    assert [row["graph"] for row in figures["result"]["epochs"]] == ["auto", "no"]
    assert not any("error" in row for row in figures["result"]["epochs"] + figures["result"]["steps"])

    (weights,) = found["weights"].values()
    files = [(tmp_path / "out" / entry["file"]).read_bytes() for entry in weights["files"]]
    assert hashlib.sha256(b"".join(files)).hexdigest() == weights["sha256"]
    with tarfile.open(fileobj=io.BytesIO(b"".join(files))) as archive:
        archive.extractall(tmp_path / "weights", filter="data")
    (folder,) = (tmp_path / "weights").iterdir()
    assert load_model(folder).metrics["epoch"] == weights["metrics"]["epoch"]
    assert len(list((tmp_path / "out").iterdir())) <= 8

    status, again = run(parts, tmp_path / "out2", train)
    assert status == 0
    assert again["stages"][next(iter(found["stages"]))]["history"] == trained["history"]
    assert "is done already" in (tmp_path / "out2" / "log.txt").read_text(encoding="utf-8")
    assert all((tmp_path / "out2" / entry["file"]).is_file() for entry in weights["files"])


@pytest.mark.timeout(600)
def test_a_cross_validation_teaches_the_next_training(parts, tmp_path):
    tiny = "data.image_size=32:model.arguments.widths=[8,8,16,16]:train.threads=1:train.minutes=0:train.epochs=1"
    folds = f"crossval:filmfirst_phantom@250s:{tiny}"
    key = parse_stages(folds)[0].key
    taught = f'train:filmfirst_phantom@100s:{tiny}:train.teachers=["{{work}}/{key}/folds"]:train.best=last'
    status, found = run(parts, tmp_path / "out", f"{folds},{taught}", minutes=8)
    assert status == 0, found
    crossval, training = found["stages"].values()
    assert set(crossval["result"]["summary"]["reports"]) == {"none", "right", "right_trust_1"}
    assert set(training["result"]["scores"]) == {"right", "none", "shuffled", "right, trust 1"}
    files = found["weights"][key]["files"]
    data = b"".join((tmp_path / "out" / entry["file"]).read_bytes() for entry in files)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(tmp_path / "weights", filter="data")
    models = sorted((tmp_path / "weights" / key).iterdir())
    assert [model.name for model in models] == [f"fold-{number}" for number in range(1, 6)]
    assert load_model(models[0]).config.data.folds == ""


@pytest.mark.timeout(120)
def test_a_stage_that_overruns_its_time_is_stopped_and_the_next_one_knows(parts, tmp_path):
    status, found = run(parts, tmp_path / "out", f"train:debug@500s:{TINY},score:small@60s", minutes=0.01)
    assert status == 1
    assert {stage["status"] for stage in found["stages"].values()} == {"no time left"}


def test_damaged_data_are_said_before_any_stage(parts, tmp_path):
    next(parts.glob("*.tar")).write_bytes(b"x")
    status, found = run(parts, tmp_path / "out", "figures:debug")
    assert status == 1
    assert "it is cut short" in found["error"]


def test_stages_are_read_and_others_refused():
    first, second = parse_stages(
        "figures@60s, train:c2fvl_qata_paper@480s:train.batch_size=8:model.arguments.gate=bounded"
    )
    assert (first.kind, first.name, first.seconds) == ("figures", "", 60.0)
    assert (second.name, second.seconds) == ("c2fvl_qata_paper", 480.0)
    assert second.settings == ("train.batch_size=8", "model.arguments.gate=bounded")
    for text in ("", "train", "dance:x", "train:a@5m", "train:a,train:a"):
        with pytest.raises(ValueError, match="stage"):
            parse_stages(text)


def test_what_is_not_installed_is_named():
    assert missing_modules(("json", "no_such_module")) == ["no_such_module"]
