"""From images to scores, on the phantom, for the idea that the package exists for."""

import pytest

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config_files import load_config
from c2fvl.data.part import Part
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.training.loop import train


@pytest.mark.slow(like="test_nothing_but_the_report_tells_lesions_from_decoys")
def test_reading_the_report_pays_on_the_phantom(tmp_path):
    """C2FVL with the right report beats C2FVL without it by at least ten points of Dice.

    A narrower and shorter form of what `make demo` does, so that it takes half a minute; the figures of the demo
    itself are in docs/results.md.
    """
    root = tmp_path / "phantom"
    write_phantom(root, num_cases=320, seed=0, size=64)
    smaller = ["data.image_size=64", "model.arguments.image_size=64", "model.arguments.base_width=8", "train.epochs=10"]
    config = load_config("phantom", [*smaller, f'data.root="{root}"', "train.device=cpu", "train.threads=1"])
    run = train(config, run=tmp_path / "run").run
    dice = {}
    for text in ("right", "none"):
        found = evaluate(load_model(run), Part(root, split="test", text=text), out=tmp_path / text)
        dice[text] = found.summary.as_dict()["scores"][0]["dice_per_image"]
    assert dice["right"] > dice["none"] + 0.10, dice
