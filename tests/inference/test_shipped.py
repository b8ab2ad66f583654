"""The weights that come with the package."""

import json

import numpy as np
import pytest

import c2fvl
from c2fvl.checkpoints.folders import CARD, SHIPPED, TRUST_CURVE
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.files.images import read_image
from c2fvl.inference.predictor import Predictor

REPORT = "Unilateral pulmonary infection, one infected area, upper left lung."


@pytest.fixture(scope="module")
def image(phantom_root):
    return sorted((phantom_root / "Test_Folder" / "img").iterdir())[0]


def test_the_default_model_is_whole_and_small():
    model = c2fvl.load_model("default")
    assert model.config.model.name == "filmfirst"
    assert model.calibration is not None and model.ood_detector is not None
    folder = SHIPPED / "small"
    curve = json.loads((folder / TRUST_CURVE).read_text(encoding="utf-8"))
    assert curve["default"] == model.network.trust == model.config.model.arguments["trust"]
    assert curve["weights_sha256"] == model.metrics["weights_sha256"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10e6
    card = (folder / CARD).read_text(encoding="utf-8")
    assert "not for diagnosis" in card and "## Trust in reports" in card and "## What the text does" in card
    assert "/work/" not in card and "/tmp/" not in card


def test_its_curve_is_the_one_promised():
    points = json.loads((SHIPPED / "small" / TRUST_CURVE).read_text(encoding="utf-8"))
    none, by_trust = points["none"]["value"], {point["trust"]: point for point in points["points"]}
    chosen = by_trust[points["default"]]
    assert none > 0.75 and by_trust[1]["right"]["value"] > 0.8
    assert max(100 * chosen["harm"][name]["value"] for name in ("shuffled", "sides_exchanged")) <= 1
    assert chosen["benefit_kept"] > 0.5


def test_it_predicts_with_and_without_a_report(image, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(image), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert (tmp_path / "predictions" / alone["files"][0]).is_file()
    assert alone["calibrated"] and alone["predicted_findings"]["agreement"] == {} and alone["ood"] is not None
    assert main(["predict", str(image), "--report", REPORT, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["predicted_findings"]["zones"] == alone["predicted_findings"]["zones"]
    assert 0 < told["predicted_findings"]["agreement"]["image_left_upper"] < 1


def test_an_image_turned_over_is_flagged_and_a_blank_one_too(image):
    predictor = Predictor("default")
    pixels = read_image(image)
    assert predictor(np.ascontiguousarray(pixels[::-1])).ood.reasons
    assert "blank" in predictor(np.zeros((64, 64), np.float32)).ood.reasons[0]


def test_more_trust_moves_the_mask_to_the_report(image):
    model = load_model("default")
    fractions = []
    for trust in (0.0, 0.5, 1.0):
        probability = Predictor(model, trust=trust)(image, REPORT).probability
        left = probability[:, : probability.shape[1] // 2].sum()
        fractions.append(left / probability.sum())
    assert fractions[0] < fractions[1] < fractions[2]


def test_the_model_for_ct_is_in_the_package(image, tmp_path, capsys):
    model = load_model("ct_small")
    assert model.path == SHIPPED / "ct_small"
    assert model.config.model.name == "filmfirst"
    curve = json.loads((model.path / TRUST_CURVE).read_text(encoding="utf-8"))
    assert curve["default"] == model.network.trust
    assert curve["held_out"]["harm"].keys() == curve["max_harm"].keys()
    card = (model.path / CARD).read_text(encoding="utf-8")
    assert "not for diagnosis" in card and "Begun from: `init.model=small`" in card
    assert "/work/" not in card and "/tmp/" not in card
    assert main(["predict", str(image), "--model", "ct_small", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predicted_findings"]["orientation"] == "image"
