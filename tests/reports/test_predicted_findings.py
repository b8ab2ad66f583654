"""What a network reads off an image, in words, in records and in scores."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from c2fvl.checkpoints.trained_model import load_model, save_model
from c2fvl.cli.main import main
from c2fvl.config_files import load_config
from c2fvl.data.part import Part
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.evaluation.pages.model_card import write_card
from c2fvl.files.images import write_image
from c2fvl.inference.predictor import Predictor
from c2fvl.metrics.findings import area_under_curve, summarise_findings
from c2fvl.models import build_model
from c2fvl.reports.findings import findings_of
from c2fvl.reports.predicted_findings import PredictedFindings
from c2fvl.reports.report import SIDES, Report, parse_report
from c2fvl.reports.zones import ZONES


def logit(fraction):
    return np.log(fraction / (1 - fraction))


def reading(
    zones=(0.9, 0.2, 0.1, 0.3, 0.2, 0.6), side=(0, 1, 3), number=(0, 0, 4, 1, 0, 0, 0, 0), weights=None, report=None
):
    statements = np.zeros(8) if weights is None else logit(np.asarray(weights))
    return PredictedFindings.from_logits([logit(np.asarray(zones)), np.asarray(number, float), np.asarray(side, float),
                                    statements], None if report is None else findings_of(report))  # fmt: skip


def test_the_predicted_report_is_the_likeliest_that_fits_together():
    assert reading().report == Report("bilateral", 2, frozenset({"lupper", "rlower"}))
    one_lung = reading(side=(0, 3, 1)).report
    assert one_lung == Report("unilateral", 2, frozenset({"lupper"}))
    assert reading(side=(3, 1, 0)).report == Report("none", 0)
    faint = reading(zones=(0.1, 0.2, 0.3, 0.1, 0.05, 0.02)).report
    assert faint.zones == {"llower", "rupper"}  # bilateral: the likeliest of each lung
    assert reading(number=(9, 8, 0, 0, 0, 0, 0, 0)).report.number == 2  # two lungs are two areas at least
    assert all(not found.contradictions() for found in (reading().report, one_lung, faint))


def test_remarks_tell_where_report_and_image_disagree():
    found = reading(
        report=Report("unilateral", 1, frozenset({"llower"})), weights=[0.3, 0.9, 0.1, 0.9, 0.2, 0.9, 0.9, 0.8]
    )
    words = found.remarks()
    lower, upper = "image left lower zone (patient's right)", "image left upper zone (patient's right)"
    outcome = "the report is not followed here (weight 0.20)"
    assert f"the report names the {lower}; the image shows little there (0.10); {outcome}" in words
    shown = f"the report says that the {upper} is free; the image shows infection there (0.90); the report is not"
    assert any(shown in w for w in words)
    assert any("right lower zone" in w and "followed all the same (weight 0.80)" in w for w in words)
    assert any("the report says infection of one lung; the image looks like infection of both" in w for w in words)
    turned = " ".join(found.remarks("patient"))
    assert (
        "patient's right lower zone; the image shows little" in turned
        and "the patient's left lower zone is free; the image shows infection" in turned
    )
    assert reading().remarks() == ()


def test_records_are_in_the_orientation_asked_for():
    found = reading(report=Report("unilateral", 1, frozenset({"llower"})))
    viewer, patient = found.as_dict(), found.as_dict("patient")
    assert viewer["zones"]["image_left_upper"] == patient["zones"]["patient_right_upper"] == pytest.approx(0.9)
    assert parse_report(viewer["report"]).zones == {"lupper", "rlower"}
    assert parse_report(patient["report"]).zones == {"rupper", "llower"}
    assert list(patient["zones"]) == [name.replace("image_", "patient_") for name in viewer["zones"]]
    assert set(viewer["agreement"]) == {"side", "number", *viewer["zones"]}
    json.dumps(viewer, allow_nan=False)


def test_the_area_under_the_curve_counts_all_pairs():
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 6, 60) / 5, generator.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert area_under_curve(scores, positive) == pytest.approx(np.mean(pairs))
    assert area_under_curve(scores, np.ones(60, bool)) is None


def test_scores_of_readings_by_hand():
    readings = [
        reading(),
        reading(zones=(0.2, 0.2, 0.1, 0.3, 0.2, 0.6), side=(0, 3, 1), number=(0, 3, 0, 0, 0, 0, 0, 0)),
    ]
    reports = [Report("bilateral", 3, frozenset({"lupper", "rlower"})), Report("unilateral", 1, frozenset({"rupper"}))]
    found = summarise_findings(readings, reports)
    assert found["zones"]["lupper"] == {"auc": 1.0, "accuracy": 1.0, "majority": 0.5}
    assert found["zones"]["rlower"]["accuracy"] == 0.5 and found["zones"]["rlower"]["auc"] == 0.5
    assert found["zones"]["llower"] == {"auc": None, "accuracy": 1.0, "majority": 1.0}
    assert found["side"]["accuracy"] == 1.0 and found["side"]["majority"] == 0.5
    assert found["number"]["accuracy"] == 0.5 and found["number"]["mean_absolute_error"] == 0.5
    assert summarise_findings(readings, [None, None]) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory, phantom_root):
    torch.manual_seed(0)
    network = build_model("filmfirst", {"encoder": "plain", "widths": [8, 8, 16, 16]})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    config = load_config(
        "filmfirst_phantom",
        ["data.image_size=64", "data.text=findings", "model.arguments.widths=[8, 8, 16, 16]",
         f'data.root="{phantom_root}"'],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, network, config, {})
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.png"
    write_image(path, np.random.default_rng(2).integers(0, 256, (70, 90, 3), np.uint8))
    return path


SENTENCE = "Unilateral pulmonary infection, one infected area, upper left lung."


@pytest.mark.parametrize(
    "report", ["Fracture of the left femur.", "Ligue para mim amanhã", "x" * 30_000, "?!", "the cat sat " * 900]
)
def test_a_report_that_cannot_be_read_leaves_the_mask_without_one(folder, image, report):
    predictor = Predictor(folder)
    found, alone = predictor(image, report), predictor(image)
    assert found.report is None and found.refusal
    assert np.array_equal(found.probability, alone.probability)
    assert not alone.refusal and predictor(image, "  ").refusal == ""


def test_reports_change_the_mask_as_far_as_they_are_trusted(folder, image):
    alone = Predictor(folder)(image).probability
    apart = [
        np.abs(Predictor(folder, trust=trust)(image, SENTENCE).probability - alone).max() for trust in (0, 0.1, 0.9, 1)
    ]
    assert apart[0] == 0 and apart[0] < apart[1] < apart[2] < apart[3]
    with pytest.raises(ValueError, match=r"trust must be .* got 2"):
        Predictor(folder, trust=2)


def test_a_report_in_patient_orientation_is_that_of_the_other_side(folder, image):
    predictor = Predictor(folder, trust=1)
    viewer = predictor(image, SENTENCE)
    patient = predictor(image, SENTENCE.replace("left", "right"), orientation="patient")
    assert np.array_equal(viewer.probability, patient.probability)
    free = predictor(image, "Patchy opacity in the left lower lobe.", orientation="image")
    turned = predictor(image, "Patchy opacity in the right lower lobe.")
    assert np.array_equal(free.probability, turned.probability)
    assert free.findings.reported == turned.findings.reported == {"llower": 1.0}


@pytest.mark.parametrize("orientation", [None, "image"])
def test_captions_mean_the_image_s_left_without_being_asked(folder, image, orientation):
    found = Predictor(folder)(image, SENTENCE, orientation=orientation)
    assert found.findings.reported["lupper"] == 1.0
    assert found.report.text == SENTENCE


def findings_with(zones, reported):
    return PredictedFindings(
        dict(zip(ZONES, zones, strict=True)), (0.1, 0.9), dict.fromkeys(SIDES, 0.3), dict.fromkeys(reported, 0.9),
        reported,
    )  # fmt: skip


def test_a_one_sided_report_that_fits_the_mirrored_image_is_said():
    zones = (0.05, 0.05, 0.9, 0.05, 0.05, 0.02)
    swapped = findings_with(zones, {"rlower": 1.0})
    assert swapped.fits_mirrored()
    assert "fits the image far better with left and right exchanged" in swapped.remarks("patient")[0]
    assert "patient's left (image right)" in swapped.remarks("patient")[0]
    for reported in ({"llower": 1.0}, {"rlower": 1.0, "llower": 1.0}, {"rlower": 0.0}, {}):
        assert not findings_with(zones, reported).fits_mirrored()
    assert not findings_with((0.05, 0.05, 0.9, 0.05, 0.05, 0.4), {"rlower": 1.0}).fits_mirrored()


def test_a_record_has_one_orientation_and_words_say_whose(folder, image, tmp_path, capsys):
    arguments = ["predict", str(image), "--model", str(folder), "--out", str(tmp_path / "out"), "--json"]
    assert main([*arguments, "--report", "Consolidation in the left lower lobe."]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["predicted_findings"]["orientation"] == "image"
    assert set(record["predicted_findings"]["agreement"]) == {"image_right_lower"} == set(record["report"]["zones"])
    assert record["report"]["orientation_given"] == "patient"
    assert record["report"]["explained"][0] == "orientation: left is the patient's left (image right)"
    for remark in record["predicted_findings"]["remarks"]:
        assert "left" not in remark.replace("patient's left", "")


def test_predict_writes_and_says_what_was_read(folder, image, tmp_path, capsys):
    arguments = ["predict", str(image), "--model", str(folder), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--report", SENTENCE, "--json", "--trust", "0.3", "--orientation", "patient"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["predicted_findings"]["orientation"] == "image" and record["ood"] is None
    assert "named: left upper zone" in record["report"]["explained"]
    assert set(record["predicted_findings"]["agreement"]) >= {"side", "number", "image_right_upper"}
    assert main([*arguments, "--report", "fracture of the femur", "--json"]) == 0
    printed = capsys.readouterr()
    assert "femur" in json.loads(printed.out)["report"]["refused"] and "femur" in printed.err


def test_read_prints_a_report_and_a_probability_for_each_zone(folder, image, capsys):
    assert main(["read", str(image), "--model", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{image}: ") and len(lines) == 9
    assert lines[1].startswith("  image left upper zone (patient's right): 0.")
    assert lines[0].endswith("Left is the image left (patient's right).")
    assert main(["read", str(image), "--model", str(folder), "--json", "--orientation", "patient"]) == 0
    turned = json.loads(capsys.readouterr().out)
    assert turned["orientation"] == "patient" and f"{turned['zones']['patient_right_upper']:.2f}" == lines[1][-4:]


def test_read_with_a_network_that_reads_no_image_is_an_error(image, tmp_path, capsys):
    config = load_config("debug", ["data.text=attributes", "data.image_size=32", "model.arguments.image_size=32"])
    save_model(tmp_path / "c2fvl", build_model(config.model.name, config.model.arguments), config, {})
    assert main(["read", str(image), "--model", str(tmp_path / "c2fvl")]) == 1
    assert "predicts no findings from an image" in capsys.readouterr().err


def test_exported_networks_read_images_too(folder, image, tmp_path):
    pytest.importorskip("onnxruntime")
    assert main(["export", str(folder), str(tmp_path / "network.onnx")]) == 0
    script = (
        "import sys; from c2fvl.inference.predictor import Predictor; "
        f"found = Predictor({str(tmp_path / 'network.onnx')!r}, trust=0.4)({str(image)!r}, {SENTENCE!r}); "
        "print(found.findings.agreement['lupper'], found.findings.zones['rlower']); assert 'torch' not in sys.modules"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    believed, shown = map(float, printed.split())
    found = Predictor(folder, trust=0.4)(image, SENTENCE).findings
    assert believed == pytest.approx(found.agreement["lupper"], abs=1e-4)
    assert shown == pytest.approx(found.zones["rlower"], abs=1e-4)


def test_an_evaluation_scores_readings_and_the_card_shows_them(folder, phantom_root, tmp_path):
    model = load_model(folder)
    found = evaluate(model, Part(phantom_root, split="test"), out=tmp_path / "right")
    assert found.summary.as_dict()["predicted_findings"]["num_images"] == found.summary.as_dict()["data"]["num_cases"]
    assert found.summary.as_dict()["text"]["trust"] == 0.5
    page = found.page.read_text(encoding="utf-8")
    assert "Findings predicted from the image alone" in page and "image left upper zone (patient&#39;s right)" in page
    other = evaluate(model, Part(phantom_root, split="test", text="none"), out=tmp_path / "none").summary.as_dict()
    assert other["predicted_findings"] is None
    main(["fit-trust", str(folder), str(phantom_root), "--split", "test", "--keep"])
    card = write_card(folder, evaluations=[tmp_path / "right"]).read_text(encoding="utf-8")
    assert (
        "## Trust in reports" in card
        and "(default)" in card
        and "## Findings predicted from the image alone, test split" in card
    )
