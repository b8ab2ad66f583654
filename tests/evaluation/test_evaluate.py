import csv
import dataclasses
import json
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.data.part import Part
from c2fvl.data.perturbations import perturb_reports
from c2fvl.data.pictures import FALSE_POSITIVE, FOUND, MISSED, case_panel, overlay
from c2fvl.data.scan import scan
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.evaluation.pages.model_card import write_card
from c2fvl.files.images import read_image, read_mask, write_image, write_mask
from c2fvl.inference.cases import NETWORK, ORIGINAL, CasePrediction, score_prediction
from c2fvl.inference.masks import to_original
from c2fvl.reports.report import Report


@pytest.fixture(scope="module")
def evaluation(tiny_run, phantom_root, tmp_path_factory):
    return evaluate(load_model(tiny_run), Part(phantom_root), out=tmp_path_factory.mktemp("evaluation"))


def test_summary_is_the_mean_of_the_table(evaluation):
    rows = list(csv.DictReader((evaluation.folder / "cases.csv").read_text().splitlines()))
    summary = json.loads((evaluation.folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(evaluation.summary.as_dict()))
    scores = {(row["resolution"], row["protocol"]): row for row in summary["scores"]}
    assert set(scores) == {("original", "corrected"), ("network", "corrected"), ("network", "published")}
    for (grid, rule), score in scores.items():
        values = [float(row[f"{grid}_{rule}_dice"]) for row in rows]
        assert score["dice_per_image"] == pytest.approx(np.mean(values), abs=1e-12)
        assert score["num_cases"] == len(rows) == len(scan(summary["data"]["root"], "val"))
    inside = sum(int(row["original_intersection"]) for row in rows)
    both = sum(int(row["original_prediction"]) + int(row["original_target"]) for row in rows)
    assert scores["original", "corrected"]["dice_pooled"] == pytest.approx(2 * inside / both)


def test_published_numbers_follow_the_published_script(tmp_path, tiny_run):
    """Replayed by hand from the specification: 8-bit bilinear masks above 0, > 0.5, 1e-5, empty pairs count 0."""
    model = load_model(tiny_run)
    size = 32
    config = dataclasses.replace(
        model.config, data=dataclasses.replace(model.config.data, resize="published", channel_order="bgr")
    )
    model = dataclasses.replace(model, config=config)
    generator = np.random.default_rng(3)
    root = tmp_path / "set"
    for number in range(5):
        film = cv2.GaussianBlur(generator.integers(0, 256, (50, 40, 3), dtype=np.uint8), (0, 0), 3)
        mask = np.zeros((50, 40), np.uint8)
        if number:
            mask[10 + number : 30, 5:25] = 1
        write_image(root / "Val_Folder" / "img" / f"f{number}.png", film)
        write_mask(root / "Val_Folder" / "labelcol" / f"mask_f{number}.png", mask)
    found = evaluate(model, Part(root, text="none"), out=tmp_path / "out")

    dice, iou = [], []
    for number in range(5):
        image = cv2.imread(str(root / "Val_Folder" / "img" / f"f{number}.png"))  # BGR
        image = cv2.resize(image, (size, size)).astype(np.float32) / 255
        mask = cv2.imread(str(root / "Val_Folder" / "labelcol" / f"mask_f{number}.png"), 0)
        mask = cv2.resize(mask, (size, size)) > 0
        with torch.no_grad():
            output = model.network(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
        prediction = output.logits.sigmoid()[0, 0].numpy() > 0.5
        inside, both = (prediction & mask).sum(), (prediction | mask).sum()
        dice.append(2 * inside / (prediction.sum() + mask.sum() + 1e-5))
        iou.append(inside / both if both else 0.0)
    row = next(row for row in found.summary.as_dict()["scores"] if row["protocol"] == "published")
    assert row["dice_per_image"] == pytest.approx(np.mean(dice), abs=1e-9)
    assert row["iou_per_image"] == pytest.approx(np.mean(iou), abs=1e-9)
    assert row["num_empty_masks"] == 1


def test_the_original_grid_is_scored_on_resized_probabilities():
    probability = np.zeros((4, 4), np.float32)
    probability[1:3, 1:3] = 1
    mask = np.zeros((8, 12), np.uint8)
    mask[2:6, 3:9] = 1
    score = score_prediction(CasePrediction("a", 0, probability, mask, None))
    assert to_original(probability, (8, 12)).shape == (8, 12)
    expected = cv2.resize(probability, (12, 8), interpolation=cv2.INTER_LINEAR) >= 0.5
    assert score.overlaps[ORIGINAL].prediction == expected.sum()
    assert score.overlaps[ORIGINAL].target == 24
    assert score.overlaps[NETWORK].target == 4


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.images, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        if tag == "img":
            self.images.append(attributes)
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_asks_nothing_of_the_network(evaluation):
    page = Page()
    page.feed(evaluation.page.read_text())
    assert page.tags.count("script") == 1
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert len(page.images) == 2 * 6 + 6  # image and masks of the strip, and a thumbnail of each of the 6 cases
    assert all(image["alt"] for image in page.images)
    assert sum("Dice" in image["alt"] for image in page.images) == 6
    assert "svg" in page.tags
    text = "".join(page.text)
    first = evaluation.summary.as_dict()["scores"][0]
    for name in ("dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled"):
        assert f"{100 * first[name]:.2f}" in text
    for title in (
        "Best",
        "Median",
        "Worst",
        "the 2 best, the 2 in the middle and the 2 worst",
        "network resolution, published protocol",
    ):
        assert title in text
    assert len(list((evaluation.folder / "pictures").iterdir())) == 6


def test_captions_with_html_and_formulas_stay_text(tiny_run, tmp_path):
    root = tmp_path / "films.csv"
    generator = np.random.default_rng(0)
    evil = "=HYPERLINK(1)<script>alert(1)</script>"
    for number in range(2):
        write_image(tmp_path / f"f{number}.png", generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        write_mask(tmp_path / f"m{number}.png", np.eye(32, dtype=np.uint8))
    root.write_text(f'image,mask,text,split\nf0.png,m0.png,"{evil}",val\nf1.png,m1.png,,val\n')
    found = evaluate(load_model(tiny_run), Part(root), out=tmp_path / "out")
    page = Page()
    page.feed(found.page.read_text())
    assert page.tags.count("script") == 1  # its own
    assert evil in "".join(page.text)
    rows = list(csv.DictReader((found.folder / "cases.csv").read_text().splitlines()))
    assert rows[0]["report"] == f"'{evil}"


def test_right_none_and_shuffled_text(phantom_root, tiny_run, tmp_path):
    cases = scan(phantom_root, "val")
    assert perturb_reports(cases, "right") == cases
    assert all(case.report is None for case in perturb_reports(cases, "none"))
    shuffled = perturb_reports(cases, "shuffled", seed=1)
    assert shuffled == perturb_reports(cases, "shuffled", seed=1)
    assert shuffled != perturb_reports(cases, "shuffled", seed=2)
    assert [case.id for case in shuffled] == [case.id for case in cases]
    assert sorted(str(case.report) for case in shuffled) == sorted(str(case.report) for case in cases)
    numbered = [dataclasses.replace(case, report=Report(number=place)) for place, case in enumerate(cases)]
    assert all(case.report.number != place for place, case in enumerate(perturb_reports(numbered, "shuffled")))
    with pytest.raises(ValueError, match="two cases or more"):
        perturb_reports(cases[:1], "shuffled")
    found = {
        text: evaluate(load_model(tiny_run), Part(phantom_root, text=text), out=tmp_path / text)
        for text in ("none", "shuffled")
    }
    assert found["none"].summary.as_dict()["text"] == {"kind": "none", "given": "none", "seed": None, "trust": None}
    assert found["shuffled"].summary.as_dict()["text"]["given"] == "that of another case"
    assert found["none"].summary.as_dict()["data"]["num_without_report"] == len(cases)
    with pytest.raises(ValueError, match="right, none, paraphrase"):
        evaluate(load_model(tiny_run), Part(phantom_root, text="wrong"))


def test_default_folder_lies_beside_the_model(tiny_run, phantom_root):
    found = evaluate(load_model(tiny_run), Part(phantom_root, split="test"))
    assert found.folder == tiny_run / "evaluation-test" / "right"
    assert found.page.is_file()


def test_overlay_colours_true_and_false_areas():
    image = np.zeros((320, 320, 3), np.float32)
    prediction, target = np.zeros((320, 320), np.uint8), np.zeros((320, 320), np.uint8)
    prediction[50:150, 50:150] = 1
    target[50:150, 100:200] = 1
    drawn = overlay(image, prediction, target)

    def shade(colour):
        return np.rint(0.4 * np.asarray(colour)).astype(int).tolist()

    assert drawn[80, 75].tolist() == shade(FALSE_POSITIVE)
    assert drawn[80, 125].tolist() == shade(FOUND)
    assert drawn[80, 175].tolist() == shade(MISSED)
    assert drawn[250, 250].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="target has the shape"):
        overlay(image, prediction, target[:10])


def test_pictures_carry_the_patient_s_right_and_left():
    panel = case_panel(np.zeros((320, 320, 3), np.float32), np.zeros((320, 320), np.uint8))
    for start in (0, 324):
        inside = panel[:320, start : start + 320].max(axis=2) > 100
        assert inside[:, :20].any() and inside[:, -20:].any() and not inside[:, 20:-20].any()
        right, left = inside[:, :20].sum(), inside[:, -20:].sum()
        assert right > left  # an R has more ink than an L


def test_pictures_are_upsampled_and_carry_report_and_dice():
    image = np.full((40, 64, 3), 0.5, np.float32)
    mask = np.zeros((40, 64), np.uint8)
    mask[10:20, 10:20] = 1
    with_report = case_panel(image, mask, target=mask, report=Report(text="words " * 40), dice=1.0)
    without = case_panel(image, mask)
    assert with_report.dtype == np.uint8
    assert with_report.shape[1] == 2 * 512 + 4
    assert with_report.shape[0] > without.shape[0] > 320


def test_pictures_of_huge_and_of_narrow_images_stay_small():
    for height, width in [(3000, 2500), (2000, 10), (5, 1500)]:
        picture = case_panel(np.zeros((height, width, 3), np.float32), np.ones((height, width), np.uint8))
        assert picture.shape[1] <= 2 * 768 + 4
        assert picture.shape[0] <= 768 + 200


def test_an_image_and_mask_of_different_size_are_named(tiny_run, tmp_path):
    write_image(tmp_path / "Val_Folder" / "img" / "a.png", np.zeros((32, 32, 3), np.uint8))
    write_mask(tmp_path / "Val_Folder" / "labelcol" / "a.png", np.zeros((32, 30), np.uint8))
    with pytest.raises(ValueError, match=r"32×32 and its mask .*32×30"):
        evaluate(load_model(tiny_run), Part(tmp_path, text="none"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rereading_gives_what_was_written(tmp_path):
    mask = (np.random.default_rng(0).random((9, 7)) > 0.5).astype(np.uint8)
    write_mask(tmp_path / "m.png", mask)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    image = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    write_image(tmp_path / "f.png", image)
    assert np.array_equal(np.rint(read_image(tmp_path / "f.png") * 255).astype(np.uint8), image)


def test_images_without_reports_are_not_said_to_have_their_own(tiny_run, tmp_path, caplog):
    for number in range(4):
        write_image(tmp_path / f"f{number}.png", np.full((32, 32, 3), 60 * number, np.uint8))
        write_mask(tmp_path / f"m{number}.png", np.eye(32, k=number, dtype=np.uint8))
    rows = [f"f{number}.png,m{number}.png,Pneumonia of the lower lobe" for number in range(4)]
    (tmp_path / "a.csv").write_text("\n".join(["image,mask,report", *rows]))
    rows[0] = 'f0.png,m0.png,"Unilateral pulmonary infection, one infected area, upper left lung."'
    (tmp_path / "b.csv").write_text("\n".join(["image,mask,report", *rows]))
    none = evaluate(load_model(tiny_run), Part(tmp_path / "a.csv", split="all"), out=tmp_path / "a")
    assert none.summary.as_dict()["text"]["given"] == "none, because no case has a readable one"
    assert "oracle" not in none.page.read_text()
    assert "4 of 4 images have no report" in caplog.text
    assert "a.csv (all): 4 of 4 reports cannot be read and are not used: those of f0, f1, f2 and 1 more" in caplog.text
    some = evaluate(load_model(tiny_run), Part(tmp_path / "b.csv", split="all"), out=tmp_path / "b")
    assert some.summary.as_dict()["text"]["given"] == "correct, for the 1 of 4 cases that have one"
    with pytest.raises(ValueError, match="is a file"):
        evaluate(load_model(tiny_run), Part(tmp_path / "a.csv", split="all"), out=tmp_path / "a.csv")


def test_pictures_show_no_image_twice_and_prefer_lesions():
    from c2fvl.evaluation.pages.panels import choose_cases

    values = [0.1, 1.0, 0.5, 0.9, 0.3, 0.7, 0.8]
    chosen = choose_cases(values, [False, True, False, False, False, False, False])
    assert chosen == {"Best": [3, 6], "Median": [2, 5], "Worst": [0, 4]}
    assert choose_cases([0.5], [False]) == {"Best": [], "Median": [], "Worst": [0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.pop("train_loss"), "line 1 has no number as train_loss"),
        (lambda line: line.pop("val_iou_per_image"), "line 1 has no number as val_iou_per_image"),
        (lambda line: line.update(epoch=None), "line 1 has no number as epoch"),
        (lambda line: line.update(train_loss=float("nan")), "line 1 has no number as train_loss"),
        (lambda line: [line.pop(key) for key in [*line] if key.startswith("val_") and key != "val_seconds"], ""),
        (lambda line: line.clear(), "line 1 has no number as epoch, train_loss, train_seconds, val_seconds"),
    ],
)
def test_a_damaged_log_is_said_and_costs_no_scores(tiny_run, phantom_root, tmp_path, caplog, change, message):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation-*"))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    change(lines[0])
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = evaluate(load_model(run), Part(phantom_root, "test"))
    assert ("Loss by epoch" in found.page.read_text() or 'id="training"' in found.page.read_text()) == (not message)
    assert (f"{run / 'log.jsonl'} is damaged" in caplog.text) == bool(message) and message in caplog.text
    assert (found.summary.loss_curves is None) == bool(message)
    card = write_card(run).read_text()
    assert ("unknown number of epochs" in card) == bool(message)


@pytest.mark.parametrize("content", [b"[", b"1\n", b"[]\n", b"\xff\n", b"[" * 100_000, b""])
def test_a_log_that_is_none(tiny_run, phantom_root, tmp_path, caplog, content):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation-*"))
    (run / "log.jsonl").write_bytes(content)
    assert evaluate(load_model(run), Part(phantom_root, "test")).summary.loss_curves is None
    assert f"{run / 'log.jsonl'} is damaged" in caplog.text
