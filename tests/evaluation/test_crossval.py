"""Cross-validation: each case is scored once by a network that has not seen it; stopped, it goes on; clear errors."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.config_files import load_config
from c2fvl.data.folds import read_folds
from c2fvl.data.part import Part
from c2fvl.evaluation.crossval import crossval, read_out_of_fold
from c2fvl.evaluation.evaluate import score
from c2fvl.files.tables import read_csv
from c2fvl.training.callbacks import Observer
from c2fvl.training.run_folder import resolve_run
from c2fvl.training.setup import set_up

SMALL = (
    "data.image_size=32", "model.arguments.widths=[8,8,16,16]", "train.threads=1", "train.device=cpu",
    "train.epochs=1", 'data.train_split="train,val"', "train.best_from_epoch=1",
)  # fmt: skip


def rows_of(folder):
    _, rows = read_csv(folder / "cases.csv")
    return [row for _, row in rows]


def config_of(phantom_root, *more):
    return load_config("filmfirst_phantom", [f'data.root="{phantom_root}"', *SMALL, *more])


@pytest.fixture(scope="module")
def done(phantom_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossval") / "cv"
    return crossval(config_of(phantom_root), folder, num_folds=2)


def test_each_case_is_scored_once_by_a_network_that_has_not_seen_it(done, phantom_root):
    assert done.finished
    folds = read_folds(done.folder / "folds.csv")
    rows = rows_of(done.folder)
    assert {row["id"]: int(row["fold"]) for row in rows} == folds
    assert len(rows) == len(folds)
    for number in (1, 2):
        ids, tensors = read_out_of_fold(done.folder / f"fold-{number}" / "out_of_fold.safetensors")
        assert set(ids) == {name for name, fold in folds.items() if fold == number}
        assert tensors["probabilities none"].shape == (len(ids), 32, 32)


@pytest.mark.parametrize("given", ["none", "right"])
def test_scores_are_those_of_an_evaluation_of_the_fold(done, phantom_root, given):
    folds = read_folds(done.folder / "folds.csv")
    ids = frozenset(name for name, fold in folds.items() if fold == 1)
    model = load_model(done.folder / "fold-1")
    scored = score(model, Part(phantom_root, "train,val", text=given, ids=ids))
    expected = {case.id: case.dice for case in scored.scores}
    rows = [row for row in rows_of(done.folder) if row["fold"] == "1"]
    found = {row["id"]: float(row[f"dice_{given}"]) for row in rows}
    assert found == pytest.approx(expected, abs=0.02)  # images are kept as 8 bits on the device
    summary = done.summary["reports"][given]
    every = [float(row[f"dice_{given}"]) for row in rows_of(done.folder)]
    assert summary["dice_per_image"]["value"] == pytest.approx(np.mean(every), abs=1e-6)
    assert summary["dice_by_threshold"]["0.5"] == pytest.approx(np.mean(every), abs=1e-6)
    best = max(summary["dice_by_threshold"].values())
    assert summary["dice_by_threshold"][str(summary["best_threshold"])] == best
    assert summary["dice_at_the_best_threshold_of_each_image"] >= best


class StopAtFold(Observer):
    """Stops as Ctrl-C does when the second fold begins."""

    def __init__(self, fold):
        self.fold = fold

    def start(self, run, *arguments, **keywords):
        if run.name == f"fold-{self.fold}":
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_cross_validation_goes_on_with_the_same_scores(done, phantom_root, tmp_path):
    config = config_of(phantom_root, "train.epochs=2")
    folder = tmp_path / "cv"
    whole = crossval(config, tmp_path / "whole", num_folds=2)
    stopped = crossval(config, folder, num_folds=2, observer=StopAtFold(2))
    assert (stopped.finished, stopped.signal) == (False, "SIGINT")
    assert (folder / "fold-1" / "out_of_fold.safetensors").is_file()
    assert crossval(config, folder, num_folds=2).summary["reports"] == whole.summary["reports"]
    with pytest.raises(ValueError, match=r"begun with other settings \(train\.batch_size\)"):
        crossval(config_of(phantom_root, "train.epochs=2", "train.batch_size=3"), folder, num_folds=2)
    with pytest.raises(ValueError, match="has 2 folds, and 3 were asked for"):
        crossval(config, folder, num_folds=3)


def test_the_command_prints_the_scores_and_scores_a_damaged_fold_again(done, phantom_root, tmp_path, capsys):
    folder = tmp_path / "cv"
    shutil.copytree(done.folder, folder)
    command = ["crossval", "filmfirst_phantom", f'data.root="{phantom_root}"', *SMALL, "--folds", "2"]
    out = folder / "fold-2" / "out_of_fold.safetensors"
    out.write_bytes(out.read_bytes()[:900])
    assert main([*command, "--out", str(folder)]) == 2
    assert "out_of_fold.safetensors is damaged" in capsys.readouterr().err
    out.unlink()
    assert main([*command, "--out", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reports"] == done.summary["reports"]


def test_a_fold_needs_its_table(phantom_root, tmp_path):
    config, folder = resolve_run(config_of(phantom_root, "data.fold=1"), "runs", tmp_path / "run", None, ())
    with pytest.raises(ValueError, match=r"data\.fold=1 needs data\.folds"):
        set_up(config, folder)
