"""The guard of the idea: on images where only the report can tell, a right one helps and a wrong one does no harm."""

import pytest

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config_files import load_config
from c2fvl.data.part import Part
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.evaluation.evaluate import score
from c2fvl.inference.compute import Compute
from c2fvl.training.fit_trust import WRONG, fit_trust
from c2fvl.training.loop import train

SMALL = ("data.image_size=64", "train.threads=1", "train.device=cpu", "train.epochs=8")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guard") / "phantom"
    write_phantom(folder, num_cases=480, seed=3, size=64)
    return folder


def trained(preset, root, folder, *overrides):
    return load_model(train(load_config(preset, [*SMALL, f'data.root="{root}"', *overrides]), run=folder).run)


def dice(model, root, text):
    scored = score(model, Part(root, "test", text=text), Compute(batch_size=8))
    return scored.summary.as_dict()["scores"][0]["dice_per_image"]


@pytest.mark.timeout(900)
@pytest.mark.slow(like="test_nothing_but_the_report_tells_lesions_from_decoys")
def test_a_right_report_helps_and_a_wrong_one_does_no_harm(root, tmp_path):
    ours = trained("filmfirst_phantom", root, tmp_path / "ours")
    theirs = trained("phantom", root, tmp_path / "theirs", "model.arguments.image_size=64")

    safe = ours.with_trust(fit_trust(ours, Part(root, split="val"))["default"])
    none = dice(safe, root, "none")
    assert dice(safe, root, "right") > none
    assert dice(ours.with_trust(1), root, "right") > none + 0.1
    assert dice(ours.with_trust(0), root, "right") == none
    falls = {text: none - dice(safe, root, text) for text in WRONG}
    assert max(falls.values()) <= 0.02, falls

    without = dice(theirs, root, "none")
    for text in WRONG:
        assert without - dice(theirs, root, text) > falls[text], text
