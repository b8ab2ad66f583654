"""Calibration, confidence and temperature against independent computations of them."""

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit
from scipy.stats import spearmanr
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, f1_score, log_loss

from c2fvl.checkpoints.folders import CALIBRATION
from c2fvl.checkpoints.model_files import write_files
from c2fvl.checkpoints.trained_model import load_model, save_model
from c2fvl.cli.main import main
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.part import Part
from c2fvl.data.scan import scan
from c2fvl.files.images import read_mask
from c2fvl.files.picture import Picture
from c2fvl.inference.cases import CasePrediction, predict_cases
from c2fvl.inference.prediction import Given, Prediction
from c2fvl.inference.predictor import Predictor
from c2fvl.metrics.calibration import PixelCalibration, of_case, summarise
from c2fvl.metrics.confidence import estimated_dice, risk_coverage
from c2fvl.metrics.temperature import LogitHistogram, TemperatureScaling
from c2fvl.training import fit_temperature
from c2fvl.training.fit_temperature import calibrate

maps = arrays(np.float32, (6, 5), elements=st.floats(0, 1, width=32))
masks = arrays(np.uint8, (6, 5), elements=st.integers(0, 1))
REPORT = "Unilateral pulmonary infection, one infected area, lower left lung."


def drawn(*, factor=1.0, plus=0.0, shape=(200, 150), seed=0):
    """Return probabilities whose logits are changed from the right ones, and a mask drawn by the right ones."""
    generator = np.random.default_rng(seed)
    right = generator.normal(-2, 2, shape)
    mask = (generator.random(shape) < expit(right)).astype(np.uint8)
    return expit(factor * right + plus).astype(np.float32), mask


def test_pixels_equal_scikit_learn():
    probability, mask = drawn(factor=1.7)
    found = PixelCalibration.of(probability, mask)
    exact, truth = probability.ravel().astype(np.float64), mask.ravel()
    fraction, mean = calibration_curve(truth, exact, n_bins=15, strategy="uniform")
    curve = [point for point in found.curve() if point["num_pixels"]]
    assert [point["lesion_fraction"] for point in curve] == pytest.approx(fraction.tolist())
    assert [point["mean_probability"] for point in curve] == pytest.approx(mean.tolist())
    counts = np.histogram(exact, np.linspace(0, 1, 16))[0]
    assert [point["num_pixels"] for point in found.curve()] == counts.tolist()
    gaps = np.abs(fraction - mean)
    assert found.ece == pytest.approx(np.average(gaps, weights=counts))
    assert found.ece_foreground == pytest.approx(np.average(gaps[1:], weights=counts[1:]))
    assert found.ece < found.ece_foreground
    assert found.brier == pytest.approx(brier_score_loss(truth, exact))


@given(maps, masks, maps, masks)
def test_sums_over_images_are_those_of_one_large_image(first, one, second, other):
    together = PixelCalibration.of(np.concatenate([first, second]), np.concatenate([one, other]))
    added = PixelCalibration.of(first, one) + PixelCalibration.of(second, other)
    assert added.ece == pytest.approx(together.ece, abs=1e-12)
    assert added.brier == pytest.approx(together.brier, abs=1e-12)
    assert added.num_pixels.tolist() == together.num_pixels.tolist()
    assert added.num_pixels.sum() == 60


def test_right_probabilities_have_no_error_and_background_hides_it():
    probability = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    perfect = PixelCalibration.of(probability, probability.astype(np.uint8))
    assert (perfect.ece, perfect.ece_foreground, perfect.brier) == (0, 0, 0)
    nothing = PixelCalibration.of(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8))
    assert nothing.ece == 0 and nothing.ece_foreground is None
    assert nothing.curve()[3] == {
        "from": 0.2, "to": 4 / 15, "num_pixels": 0, "mean_probability": None, "lesion_fraction": None
    }  # fmt: skip
    wide = np.zeros((10, 10), np.float32)
    wide[0, 0] = 0.9
    hidden = PixelCalibration.of(wide, np.zeros((10, 10), np.uint8))
    assert hidden.ece == pytest.approx(0.009) and hidden.ece_foreground == pytest.approx(0.9)


def dice_of_masks(probability, prediction):
    """Return the expected Dice of independent pixels, over every mask there can be."""
    p, found = probability.ravel().astype(np.float64), prediction.ravel()
    total = 0.0
    for pixels in itertools.product((0, 1), repeat=p.size):
        truth = np.array(pixels)
        chance = np.where(truth == 1, p, 1 - p).prod()
        both_empty = not truth.any() and not found.any()
        total += chance * (1.0 if both_empty else f1_score(truth, found, zero_division=0))
    return total


@pytest.mark.parametrize("seed", range(3))
def test_expected_dice_is_near_the_sum_over_all_masks(seed):
    probability = expit(np.random.default_rng(seed).normal(0, 3, (2, 4))).astype(np.float32)
    prediction = (probability >= 0.5).astype(np.uint8)
    assert prediction.any()
    assert estimated_dice(probability, prediction) == pytest.approx(dice_of_masks(probability, prediction), abs=0.03)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_expected_dice_is_the_mean_over_drawn_masks(factor):
    generator = np.random.default_rng(1)
    probability = expit(factor * generator.normal(-1, 2, (40, 40)))
    prediction = (probability >= 0.5).astype(np.uint8)
    reached = [
        f1_score((generator.random((40, 40)) < probability).ravel(), prediction.ravel().astype(bool))
        for _ in range(200)
    ]
    assert estimated_dice(probability, prediction) == pytest.approx(np.mean(reached), abs=3e-3)


def test_expected_dice_of_certain_and_of_empty_masks():
    certain = np.zeros((4, 4), np.float32)
    certain[:2] = 1
    prediction = np.zeros((4, 4), np.uint8)
    prediction[1:3] = 1
    assert estimated_dice(certain, prediction) == f1_score(certain.ravel(), prediction.ravel()) == 0.5
    low = np.full((4, 4), 0.1, np.float32)
    low[2, 2] = 0.4
    nothing = np.zeros((4, 4), np.uint8)
    assert estimated_dice(low, nothing) == pytest.approx(0.6)
    assert estimated_dice(np.zeros((4, 4), np.float32), nothing) == 1
    assert estimated_dice(low[1:3, 2:], nothing[1:3, 2:]) >= dice_of_masks(low[1:3, 2:], nothing[1:3, 2:])


def test_risk_and_coverage_by_hand():
    found = risk_coverage([0.2, 0.9, 0.5, 0.7], [0.1, 1.0, 0.8, 0.6])
    assert found.confidence.tolist() == [0.9, 0.7, 0.5, 0.2]
    assert found.dice.tolist() == [1.0, 0.6, 0.8, 0.1]
    assert found.kept_dice.tolist() == pytest.approx([1.0, 0.8, 0.8, 0.625])
    assert found.area == pytest.approx(np.mean([0, 0.2, 0.2, 0.375]))
    assert found.area_ideal == pytest.approx(np.mean([0, 0.1, 0.2, 0.375]))
    assert found.area_random == pytest.approx(0.375)
    assert found.spearman == pytest.approx(0.8)  # 1 − 6 Σd² / (n³ − n), d = 0, 0, 1, 1
    assert (found.num_doubtful, found.threshold) == (1, 0.5)


def test_a_random_order_gives_the_area_of_a_random_order():
    generator = np.random.default_rng(0)
    dice = generator.random(30)
    areas = [risk_coverage(generator.permutation(30), dice).area for _ in range(3000)]
    assert np.mean(areas) == pytest.approx(risk_coverage(range(30), dice).area_random, abs=0.005)


confident = st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.floats(0, 1)), min_size=2, max_size=12)


@given(confident, st.randoms())
def test_ties_do_not_depend_on_the_order_of_the_cases(cases, random):
    listed = random.sample(cases, len(cases))
    first, second = (risk_coverage(*zip(*order, strict=True)) for order in (cases, listed))
    assert first.kept_dice == pytest.approx(second.kept_dice)
    assert first.area == pytest.approx(second.area)
    assert first.area_ideal <= min(first.area, first.area_random) + 1e-12
    sure, dice = np.array(cases).T
    expected = None if np.ptp(sure) == 0 or np.ptp(dice) == 0 else spearmanr(sure, dice).statistic
    assert first.spearman == (None if expected is None else pytest.approx(expected))


def test_tied_cases_share_what_a_random_order_of_them_gives():
    found = risk_coverage([0.9, 0.5, 0.5, 0.5], [1.0, 0.9, 0.3, 0.0])
    orders = [np.cumsum([1.0, *order]) / np.arange(1, 5) for order in itertools.permutations([0.9, 0.3, 0.0])]
    assert found.kept_dice == pytest.approx(np.mean(orders, axis=0))


@pytest.mark.parametrize(
    ("sure", "dice", "message"),
    [
        ([0.5], [1.0], "1 case has no order"),
        ([0.5, 0.6], [1.0], "expected one of each per case"),
        ([0.5, np.nan], [1.0, 0.5], "not a number"),
    ],
)
def test_orders_that_are_none_are_refused(sure, dice, message):
    with pytest.raises(ValueError, match=message):
        risk_coverage(sure, dice)


def some_cases(count):
    found = []
    for number in range(count):
        probability, mask = drawn(shape=(20, 20 + number), factor=1 + number / count, seed=number)
        mask[:, number:] = 0
        probability[:, number:] = 0.001
        found.append((probability, mask))
    return found


def test_the_summary_by_independent_means():
    pairs = some_cases(23)
    cases = [of_case(*pair, pair[0] >= 0.5) for pair in pairs]
    found = summarise(cases, calibration={"temperature": 1.5, "offset": -1.0})
    json.dumps(found, allow_nan=False)
    assert (found["num_cases"], found["calibrated"], found["remarks"]) == (23, True, [])
    assert (found["temperature"], found["offset"]) == (1.5, -1.0)
    truth, exact = (np.concatenate([pair[place].ravel() for pair in pairs]) for place in (1, 0))
    assert found["pixels"]["num_pixels"] == truth.size
    assert found["pixels"]["brier"] == pytest.approx(brier_score_loss(truth, exact))
    expected, true = (np.array([pair[place].mean() for pair in pairs]) for place in (0, 1))
    assert found["area"]["mean_absolute_gap"] == pytest.approx(np.abs(expected - true).mean())
    assert found["area"]["mean_difference"] == pytest.approx((expected - true).mean())
    groups = found["area"]["groups"]
    assert [group["num_cases"] for group in groups] == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert groups[0]["expected"] == pytest.approx(np.sort(expected)[:3].mean())
    assert groups[-1]["true"] == pytest.approx(true[np.argsort(expected)[-2:]].mean())
    predictions = [pair[0] >= 0.5 for pair in pairs]
    both = [(own.ravel(), mask.ravel()) for own, (_, mask) in zip(predictions, pairs, strict=True)]
    dice = np.array([f1_score(mask, own, zero_division=1) for own, mask in both])
    sure = np.array([estimated_dice(pair[0], own) for own, pair in zip(predictions, pairs, strict=True)])
    order = np.argsort(-sure)
    confidence = found["confidence"]
    assert confidence["mean_dice"] == pytest.approx(dice.mean())
    assert confidence["spearman"] == pytest.approx(spearmanr(sure, dice).statistic)
    assert confidence["doubtful"] == {
        "num_cases": 2, "coverage": 21 / 23, "threshold": pytest.approx(sure[order[20]]),
        "dice_kept": pytest.approx(dice[order[:21]].mean()), "dice_doubtful": pytest.approx(dice[order[21:]].mean()),
    }  # fmt: skip
    curve = confidence["curve"]
    assert curve["coverage"][-1] == 1 and len(curve["coverage"]) == len(curve["dice"]) == 23
    assert curve["dice"][4] == pytest.approx(dice[order[:5]].mean())


def test_long_curves_are_thinned_and_short_ones_said():
    many = [of_case(*pair, pair[0] >= 0.5) for pair in some_cases(10)] * 37
    curve = summarise(many)["confidence"]["curve"]
    assert len(curve["coverage"]) == len(curve["dice"]) == 100
    alone = summarise(many[:1])
    assert alone["temperature"] is None and alone["offset"] is None and alone["calibrated"] is False
    assert alone["confidence"] is None and len(alone["area"]["groups"]) == 1
    assert any("one case has no order" in remark for remark in alone["remarks"])
    assert any("not calibrated: the model has no temperature" in remark for remark in alone["remarks"])
    same = summarise(many[:1] * 3)
    assert same["confidence"]["spearman"] is None and any("no rank correlation" in said for said in same["remarks"])
    with pytest.raises(ValueError, match="no cases"):
        summarise([])


@pytest.mark.parametrize(
    ("probability", "mask", "message"),
    [
        (np.full((3, 3), np.nan), np.ones((3, 3), np.uint8), "values from nan"),
        (np.full((3, 3), 1.5), np.ones((3, 3), np.uint8), "expected 0 to 1"),
        (np.zeros((3, 3)), np.ones((3, 4), np.uint8), "expected one"),
        (np.zeros((0, 3)), np.ones((0, 3), np.uint8), "expected one"),
        (np.zeros((2, 3, 3)), np.ones((3, 3), np.uint8), "several classes"),
        (np.zeros((3, 3)), np.ones((3, 3)), "mask holds float64"),
    ],
)
@pytest.mark.parametrize(
    "measure",
    [lambda *maps: of_case(*maps, maps[1]), PixelCalibration.of, LogitHistogram().add, estimated_dice],
    ids=["case", "pixels", "logits", "confidence"],
)
def test_what_is_no_probability_map_is_refused(measure, probability, mask, message):
    with pytest.raises(ValueError, match=message):
        measure(probability, mask)


@pytest.mark.parametrize("offset", [-3.0, 0.0, 0.7])
@pytest.mark.parametrize("temperature", [0.3, 0.9, 1.0, 1.6, 7.0])
def test_scaling_divides_logits_and_adds_the_offset(temperature, offset):
    logits = np.random.default_rng(0).normal(0, 5, (50, 40)).clip(-10, 10)
    scaled = TemperatureScaling(temperature, offset).apply(expit(logits).astype(np.float32))
    assert scaled.dtype == np.float32
    assert np.allclose(scaled, expit(logits / temperature + offset), atol=2e-4)
    extremes = np.array([[0, 1e-38, 0.49999997, 0.5, 0.50000006, 0.9999999, 1]], np.float32)
    moved = TemperatureScaling(temperature, offset).apply(extremes)
    assert (np.diff(moved[0]) >= 0).all() and moved[0, 0] == 0 and moved[0, -1] <= 1


def test_a_probability_that_float32_rounds_to_one_is_not_held_for_certain():
    one = np.array([[expit(np.float64(20))]], np.float32)
    assert one == 1
    assert TemperatureScaling(2.0).apply(one)[0, 0] == pytest.approx(expit(np.log(2**25) / 2), abs=1e-6)
    several = np.zeros((3, 4, 4), np.float32)
    assert TemperatureScaling().apply(several) is several
    with pytest.raises(ValueError, match="one lesion"):
        TemperatureScaling(2.0).apply(several)


def regression(probability, mask, *, intercept):
    """Return temperature and offset by scikit-learn on all pixels."""
    fitted = LogisticRegression(C=np.inf, fit_intercept=intercept, tol=1e-8)
    fitted.fit(logit(probability.astype(np.float64)).reshape(-1, 1), mask.ravel())
    temperature = 1 / fitted.coef_[0, 0]
    return temperature, float(np.ravel(fitted.intercept_)[0])


@pytest.mark.parametrize(("factor", "plus"), [(0.4, 0.0), (1.0, 0.0), (2.0, 1.5), (1.2, -1.0)])
def test_the_fit_equals_that_on_all_pixels(factor, plus):
    probability, mask = drawn(factor=factor, plus=plus)
    histogram = LogitHistogram()
    for rows in np.split(np.arange(200), 5):
        histogram.add(probability[rows], mask[rows])
    fitted = histogram.fit()
    temperature, offset = regression(probability, mask, intercept=True)
    assert (fitted.temperature, fitted.offset) == pytest.approx((temperature, offset), abs=5e-4)
    assert fitted.temperature == pytest.approx(factor, rel=0.05)
    assert fitted.offset == pytest.approx(-plus / factor, abs=0.1)
    alone = histogram.fit_temperature()
    assert alone.temperature == pytest.approx(regression(probability, mask, intercept=False)[0], rel=5e-4)
    assert alone.offset == 0
    exact = probability.astype(np.float64).ravel()
    for at in (TemperatureScaling(), alone, fitted):
        scaled, found = expit(logit(exact) / at.temperature + at.offset), histogram.quality(at)
        whole = PixelCalibration.of(scaled.reshape(200, 150), mask)
        assert found.nll == pytest.approx(log_loss(mask.ravel(), scaled), abs=3e-5)
        assert found.brier == pytest.approx(brier_score_loss(mask.ravel(), scaled), abs=1e-5)
        assert found.ece == pytest.approx(whole.ece, abs=1e-3)


def test_what_has_no_best_temperature_is_refused():
    probability, mask = drawn()
    for target, message in (
        (np.zeros_like(mask), "empty masks only"),
        (np.ones_like(mask), "only lesion"),
        ((probability > 0.5).astype(np.uint8), "hardly any pixel is wrong"),
        ((probability > 0.1).astype(np.uint8), "hardly any pixel is wrong"),
        ((probability < 0.5).astype(np.uint8), "carry no information about these masks"),
    ):
        histogram = LogitHistogram()
        histogram.add(probability, target)
        with pytest.raises(ValueError, match=message):
            histogram.fit()
    with pytest.raises(ValueError, match="no pixels at all"):
        LogitHistogram().fit()


def with_logits_times(folder, factor, target, *, plus=0.0):
    """Save the model with its logits changed."""
    model = load_model(folder)
    with torch.no_grad():
        model.network.heads[0].weight.mul_(factor)
        model.network.heads[0].bias.mul_(factor).add_(plus)
    save_model(target, model.network, model.config, {})
    return target


@pytest.fixture(scope="module")
def right(tiny_run, phantom_root, tmp_path_factory):
    """A model folder and images of its size, whose masks are drawn by chance as the model's probabilities say."""
    folder = tmp_path_factory.mktemp("right")
    root = shutil.copytree(phantom_root, folder / "set")
    for path in [*root.glob("*/img/*.png"), *root.glob("*/labelcol/*.png")]:
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (32, 32), interpolation=0))
    model = load_model(with_logits_times(tiny_run, 150, folder / "model", plus=-3.0))
    generator = np.random.default_rng(0)
    for split in ("val", "test"):
        images = CaseDataset(scan(root, split), model.config.data)
        for case, found in zip(images.cases, predict_cases(model.network, images), strict=True):
            cv2.imwrite(str(case.mask), (255 * (generator.random((32, 32)) < found.probability)).astype(np.uint8))
    return folder


@pytest.fixture
def folder(right, tmp_path):
    """A model folder of its own, whose logits are half as large again as they should be."""
    return with_logits_times(right / "model", 1.5, tmp_path / "model")


@pytest.fixture
def root(right):
    return right / "set"


def calibrate_on(monkeypatch, folder, root, *, factor=1.0, plus=0.0):
    """Return what is fitted where the network's probabilities are those of `drawn` instead of its own."""

    def made_up(network, images, compute):
        for index, case in enumerate(images.cases):
            probability, mask = drawn(factor=factor, plus=plus, seed=index)
            yield CasePrediction(case.id, index, probability, mask, None)

    with monkeypatch.context() as patch:
        patch.setattr(fit_temperature, "predict_cases", made_up)
        patch.setattr(fit_temperature, "to_original", lambda probability, shape: probability)
        return calibrate(load_model(folder), Part(root))


def test_logits_twice_as_large_have_twice_the_temperature(monkeypatch, folder, root):
    first, second = (calibrate_on(monkeypatch, folder, root, factor=factor) for factor in (1, 2))
    assert first["temperature"] == pytest.approx(1, abs=0.05) and first["offset"] == pytest.approx(0, abs=0.1)
    assert second["temperature"] == pytest.approx(2 * first["temperature"], rel=1e-3)
    assert second["offset"] == pytest.approx(first["offset"], abs=1e-3)
    alone = second["without_offset"]["temperature"]
    assert alone == pytest.approx(2 * first["without_offset"]["temperature"], rel=1e-3)
    assert second["ece_after"] < 0.2 * second["ece_before"]
    assert second["nll_after"] == pytest.approx(first["nll_after"], rel=1e-2)
    assert second["nll_after"] < second["nll_before"] and second["brier_after"] < second["brier_before"]
    shown = load_model(folder)
    assert shown.calibration == second
    assert shown.scaling == TemperatureScaling(second["temperature"], second["offset"])


def test_logits_that_are_all_too_high_need_the_offset(monkeypatch, folder, root):
    found = calibrate_on(monkeypatch, folder, root, plus=3.0)
    assert found["offset"] == pytest.approx(-3, abs=0.15) and found["temperature"] == pytest.approx(1, abs=0.05)
    assert found["ece_after"] < 0.1 * found["ece_before"]
    alone = found["without_offset"]
    assert alone is None or found["nll_after"] < alone["nll"] < found["nll_before"]


def test_a_network_whose_logits_are_doubled_has_twice_the_temperature(right, root, tmp_path):
    first, second = (
        calibrate(load_model(with_logits_times(right / "model", factor, tmp_path / name)), Part(root))
        for name, factor in (("once", 1), ("doubled", 2))
    )
    assert second["temperature"] == pytest.approx(2 * first["temperature"], rel=1e-3)
    assert second["offset"] == pytest.approx(first["offset"], abs=1e-3)


def test_a_temperature_goes_with_the_folder_and_changes_no_mask(folder, root, tmp_path):
    images = sorted((root / "Test_Folder/img").iterdir())[:4]
    plain = Predictor(folder)
    assert load_model(folder).scaling == TemperatureScaling() and not plain.is_calibrated
    written = calibrate(load_model(folder), Part(root))
    assert json.loads((folder / CALIBRATION).read_text()) == written
    assert abs(written["temperature"] - 1) > 0.01
    assert written["nll_after"] < written["nll_before"]
    assert written["fitted_on"]["root"] == root.name and written["fitted_on"]["num_cases"] == len(scan(root, "val"))
    calibrated = Predictor(folder)
    assert calibrated.is_calibrated
    for film in images:
        image = cv2.resize(cv2.imread(str(film)), (171, 93))
        for report in (None, REPORT):
            before, after = plain(image, report), calibrated(image, report)
            assert np.array_equal(before.mask, after.mask) and before.mask.shape == (93, 171)
            logits = logit(before.probability.astype(np.float64))
            expected = expit(logits / written["temperature"] + written["offset"])
            assert np.abs(after.probability - expected).max() < 1e-5
            assert after.estimated_dice == pytest.approx(estimated_dice(after.probability, after.mask))
            assert after.estimated_dice != before.estimated_dice
    assert calibrate(load_model(folder), Part(root)) == written, "a calibrated folder is fitted anew, not once more"


@pytest.mark.usefixtures("translated")
def test_an_exported_network_gives_the_same_probabilities(tiny_run, folder, root, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from c2fvl.inference.export import export

    model = load_model(tiny_run)
    written = calibrate(load_model(folder), Part(root))
    model = dataclasses.replace(model, calibration=written | {"temperature": 0.1, "offset": -1.0})
    exported = export(model, tmp_path / "network.onnx").path
    first, second = Predictor(model), Predictor(exported)
    assert second.engine.calibration == model.calibration
    for image in sorted((root / "Test_Folder/img").iterdir())[:3]:
        expected, found = first(image, REPORT), second(image, REPORT)
        assert np.abs(expected.probability - Predictor(tiny_run)(image, REPORT).probability).max() > 0.05
        assert np.abs(expected.probability - found.probability).max() < 1e-5
        assert found.estimated_dice == pytest.approx(expected.estimated_dice, abs=1e-5)
        assert np.array_equal(expected.mask, found.mask)


def test_a_calibration_of_other_weights_is_not_used(folder, root, tmp_path, caplog):
    calibrate(load_model(folder), Part(root))
    other = tmp_path / "other"
    with_logits_times(folder, 1.5, other)
    write_files(other, {CALIBRATION: (folder / CALIBRATION).read_bytes()})
    caplog.clear()
    model = load_model(other)
    assert model.scaling == TemperatureScaling() and model.calibration is None
    assert "fitted to other weights" in caplog.text and str(other / CALIBRATION) in caplog.text


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "null", '{"temperature": 2}', "cut", "negative", "text", "true", "infinite", "far", "no table"],
)
def test_a_damaged_calibration_is_refused(folder, root, content):
    written = calibrate(load_model(folder), Part(root))
    changed = {
        "negative": {"temperature": -1.0}, "text": {"temperature": "2"}, "true": {"temperature": True},
        "infinite": {"temperature": float("inf")}, "far": {"offset": 1e9}, "no table": {"fitted_on": 1},
    }  # fmt: skip
    if content == "cut":
        content = json.dumps(written)[:-5]
    elif content in changed:
        content = json.dumps(written | changed[content])
    (folder / CALIBRATION).write_text(content)
    with pytest.raises(ValueError, match=r"calibration\.json does not match its checksum.*c2fvl calibrate"):
        load_model(folder)
    write_files(folder, {CALIBRATION: content.encode()})
    with pytest.raises(ValueError, match=r"calibration\.json is damaged: .*c2fvl calibrate"):
        load_model(folder)
    assert calibrate(load_model(folder, replacing=[CALIBRATION]), Part(root)) == written
    assert load_model(folder).calibration == written


def test_the_command_line_fits_tells_and_keeps(folder, root, tmp_path, capsys, caplog):
    assert main(["calibrate", str(folder), str(root), "--batch-size", "2", "--report", "none"]) == 0
    said = capsys.readouterr().out
    kept = json.loads((folder / CALIBRATION).read_text())
    assert f"{kept['temperature']:.4f}" in said and f"{kept['ece_after']:.5f}" in said and "Brier" in said
    assert "report: none" in said and kept["fitted_on"]["text"] == "none"
    assert not caplog.records
    assert main(["calibrate", str(folder), str(root), "--split", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fitted_on"]["split"] == "test"
    assert "fit on the val split" in caplog.text
    image = sorted((root / "Test_Folder/img").iterdir())[0]
    call = ["predict", str(image), "--model", str(folder), "--out", str(tmp_path / "out")]
    assert main([*call, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["calibrated"] is True and 0 <= record["estimated_dice"] <= 1
    for name in (CALIBRATION, "manifest.json"):
        (folder / name).unlink()
    assert main(call) == 0
    assert "(not calibrated)" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / f"{image.stem}.json").read_text())["calibrated"] is False


def test_what_cannot_be_fitted_is_refused_and_nothing_written(folder, phantom_root, tmp_path, capsys):
    root = tmp_path / "set"
    shutil.copytree(phantom_root, root)
    for path in (root / "Val_Folder/labelcol").iterdir():
        cv2.imwrite(str(path), np.zeros_like(read_mask(path)))
    table = tmp_path / "films.csv"
    table.write_text("\n".join(["image", *(str(path) for path in (root / "Val_Folder/img").iterdir())]))
    for call, message in (
        ([str(folder), str(root)], "empty masks only"),
        ([str(folder), str(table), "--split", "all", "--report", "none"], "have no mask"),
        ([str(folder), "/nowhere"], "/nowhere"),
        ([str(folder), str(root), "--split", "vall"], "no split 'vall'"),
        ([str(tmp_path / "network.onnx"), str(root)], "no model folder"),
        ([str(folder), str(root), "--device", "cuda:99"], "cpu always can"),
    ):
        assert main(["calibrate", *call]) == 2
        assert message in capsys.readouterr().err
    assert not (folder / CALIBRATION).exists()


def test_a_network_that_gives_no_numbers_is_refused_with_the_image(folder, root):
    model = load_model(folder)
    with torch.no_grad():
        model.network.heads[0].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"sub-S\d+.*: the probability map holds values from nan"):
        calibrate(model, Part(root))
    assert not (folder / CALIBRATION).exists()


def test_several_classes_are_refused(folder, root):
    model = load_model(folder)
    settings = dataclasses.replace(model.config.model, arguments={**model.config.model.arguments, "num_classes": 3})
    several = dataclasses.replace(model, config=dataclasses.replace(model.config, model=settings))
    with pytest.raises(ValueError, match="3 classes"):
        calibrate(several, Part(root))


def test_a_mask_of_several_classes_has_no_expected_dice():
    several = np.full((3, 4, 4), 1 / 3, np.float32)
    picture, model = Picture(np.zeros((4, 4), np.float32), "array"), Predictor("default").model
    assert Prediction(np.zeros((4, 4), np.uint8), several, picture, Given(), model).estimated_dice is None


def test_the_pages_name_every_key(folder, root):
    written = calibrate(load_model(folder), Part(root))
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in [*written, *written["fitted_on"]])
    assert all(f"`{key}`" in page for key in written["without_offset"])
    summary = summarise([of_case(*pair, pair[0] >= 0.5) for pair in some_cases(12)])
    described = set(re.findall(r"\w+", summarise.__doc__))
    assert set(keys_of(summary)) <= described


def keys_of(value):
    for key, item in value.items() if isinstance(value, dict) else ():
        yield key
        yield from keys_of(item[0] if isinstance(item, list) and item else item)
