"""The scores that actors send are those of one process, and a case without a score ends the command as ever."""

import dataclasses
import shutil
from types import SimpleNamespace

import pytest

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.cluster import evaluate as on_cluster
from c2fvl.cluster.evaluate import ModelAndScores, ScoringOnRay
from c2fvl.cluster.once import Answer
from c2fvl.cluster.place import Place
from c2fvl.cluster.sizing import Pool
from c2fvl.data.part import Part
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.inference.compute import Compute
from c2fvl.metrics.case_scores import TOLERANCES

RAY = SimpleNamespace(exceptions=SimpleNamespace(RayError=ConnectionError))


@pytest.fixture
def in_this_process(monkeypatch):
    """Let the actors be objects of this process, which answer the last block first."""

    def execution(ray, items, make, arguments, pool):
        worker = make(*arguments)

        def execute(indices, size):
            blocks = [indices[first : first + size] for first in range(0, len(indices), size)]
            for block in reversed(blocks):
                for index, answer in zip(block, worker([items[index] for index in block]), strict=True):
                    yield Answer(index, **answer)

        return execute

    monkeypatch.setattr(on_cluster, "execution", execution)


def scoring_of(run, weights=None):
    model = load_model(run)
    weights = model.metrics.get("weights_sha256") if weights is None else weights
    chosen = ModelAndScores(str(run), weights, Compute("cpu"), TOLERANCES)
    return model, ScoringOnRay(RAY, model, chosen, (Place("cpu", 1), Pool(2, 1)))


@pytest.mark.usefixtures("in_this_process")
def test_scoring_on_actors_gives_the_summary_of_one_process(tiny_run, phantom_root, tmp_path):
    part = Part(phantom_root, "test")
    expected = evaluate(load_model(tiny_run), part, out=tmp_path / "process")
    model, scoring = scoring_of(tiny_run)
    found = evaluate(model, part, scoring.compute, scoring=scoring, out=tmp_path / "actors")
    assert (tmp_path / "actors" / "cases.csv").read_bytes() == (tmp_path / "process" / "cases.csv").read_bytes()
    assert dataclasses.replace(found.summary, seconds=0) == dataclasses.replace(expected.summary, seconds=0)
    pictures = [
        [file.read_bytes() for file in sorted((tmp_path / name / "pictures").iterdir())]
        for name in ("process", "actors")
    ]
    assert pictures[0] == pictures[1]


@pytest.mark.usefixtures("in_this_process")
def test_a_damaged_image_ends_the_evaluation_with_the_reason_that_one_process_gives(tiny_run, phantom_root, tmp_path):
    root = shutil.copytree(phantom_root, tmp_path / "data")
    image = sorted((root / "Test_Folder" / "img").iterdir())[2]
    image.write_bytes(image.read_bytes()[:150])
    part, messages = Part(root, "test"), []
    model, scoring = scoring_of(tiny_run)
    for on in (None, scoring):
        with pytest.raises(ValueError, match=image.name) as caught:
            evaluate(model, part, scoring=on, out=tmp_path / "out")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_this_process")
def test_other_weights_on_an_actor_are_refused(tiny_run, phantom_root, tmp_path):
    model, scoring = scoring_of(tiny_run, weights="0" * 64)
    with pytest.raises(ValueError, match="has other weights on"):
        evaluate(model, Part(phantom_root, "test"), scoring=scoring, out=tmp_path / "out")


def test_masks_are_not_scored_on_ray(capsys, monkeypatch):
    monkeypatch.setattr("c2fvl.cli.evaluation.check_engine", lambda options: None)
    assert main(["evaluate", "masks", "data", "--masks", "--engine", "ray"]) == 2
    assert "--engine ray scores models; leave it out with --masks" in capsys.readouterr().err
