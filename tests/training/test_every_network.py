"""Every network trains, resumes to the bit, scores and predicts through the same loop as all others."""

import dataclasses
import json

import pytest
import torch
from support.networks import TINY, networks
from support.tiny_runs import TIMES, CopyAfterFirst
from support.tiny_runs import TINY as TINY_RUN

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config import ModelConfig
from c2fvl.config_files import load_config
from c2fvl.data.part import Part
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.inference.predictor import Predictor
from c2fvl.training.loop import train

SENTENCE = "Unilateral pulmonary infection, one infected area, upper left lung."
PASSED_OVER = {"lvit", "medt with odd sides"}
"""The tests of the text encoders train the one, and the other is slow and trains like its kind."""
READERS = {tiny.name for tiny in TINY.values() if tiny.text is not None}


@pytest.fixture(scope="module")
def few_images(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "few"
    write_phantom(root, num_cases=14, seed=1, size=64)
    return root


@pytest.fixture(
    params=networks(
        "c2fvl", "filmfirst plain scales", "unet",
        like="test_trains_resumes_scores_and_predicts", of=[key for key in TINY if key not in PASSED_OVER],
    )
)  # fmt: skip
def config(request, few_images):
    tiny = request.param
    base = load_config("debug", [*TINY_RUN, f'data.root="{few_images}"', f"data.image_size={tiny.size[0]}"])
    arguments = {name: value for name, value in tiny.arguments.items() if name != "vocabulary_size"}
    return dataclasses.replace(
        base,
        model=ModelConfig(name=tiny.name, arguments=arguments | {"num_classes": 1}),
        loss=dataclasses.replace(base.loss, side_maps=0.2 if tiny.name == "c2fvl" else 0.0),
        data=dataclasses.replace(base.data, text_tokens=tiny.text[0] if tiny.text else 32),
    )


def _log(run):
    """Return what a run's log says of its epochs, but for the time they took."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def test_trains_resumes_scores_and_predicts(config, tmp_path, few_images):
    assert train(config, run=tmp_path / "whole", observer=CopyAfterFirst(tmp_path / "parts")).finished
    train(resume=tmp_path / "parts")
    ours, theirs = load_model(tmp_path / "whole"), load_model(tmp_path / "parts")
    for key, value in ours.network.state_dict().items():
        assert torch.equal(value, theirs.network.state_dict()[key]), key
    assert _log(tmp_path / "whole") == _log(tmp_path / "parts")

    found = evaluate(ours, Part(few_images, split="test"), out=tmp_path / "scores")
    assert found.summary.scores[0].num_cases == len(list((few_images / "Test_Folder" / "img").iterdir()))
    image = next((few_images / "Test_Folder" / "img").iterdir())
    predictor = Predictor(tmp_path / "whole")
    told, untold = predictor(image, SENTENCE), predictor(image)
    assert told.mask.shape == (64, 64)
    assert (abs(told.probability - untold.probability).max() > 0) == (config.model.name in READERS)
