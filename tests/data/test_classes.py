"""Several classes: from label masks through training, scores and masks again."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from support.tiny_runs import TINY

from c2fvl.cli.main import main
from c2fvl.config import LossConfig
from c2fvl.config_files import load_config
from c2fvl.data.check.check import check
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.data.scan import scan
from c2fvl.files.images import read_mask, write_labels, write_mask
from c2fvl.inference.cases import ORIGINAL, PUBLISHED, CasePrediction, score_prediction
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.torch_engine import probabilities
from c2fvl.metrics.overlap import Overlap, summarise, summarise_classes
from c2fvl.models import Output
from c2fvl.models.registry import NETWORKS
from c2fvl.training.loop import train
from c2fvl.training.losses import build_loss, class_dice_loss


@pytest.fixture(scope="module")
def two_sides(tmp_path_factory):
    """A phantom whose lesions are class 1 in the left half of the picture and class 2 in the right."""
    root = tmp_path_factory.mktemp("data") / "sides"
    write_phantom(root, num_cases=24, seed=2, size=64)
    for path in root.glob("*/labelcol/*.png"):
        labels = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8)
        labels[:, 32:] *= 2
        path.unlink()
        write_labels(path, labels)
    return root


def settings(root, *more):
    return load_config(
        "debug",
        [*TINY, f'data.root="{root}"', "data.mask=labels", "model.arguments.num_classes=3", "train.epochs=2",
         "loss.alignment=0.5", 'data.class_names=["left", "right"]', 'data.mirrored_classes=["left", "right"]', *more],
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(two_sides, tmp_path_factory):
    return train(settings(two_sides), run=tmp_path_factory.mktemp("runs") / "classes").run


def test_masks_are_read_as_the_setting_says(tmp_path):
    values = np.array([[0, 1, 127], [128, 200, 255]], np.uint8)
    write_labels(tmp_path / "a.png", values)
    assert (read_mask(tmp_path / "a.png", "labels") == values).all()
    assert (read_mask(tmp_path / "a.png", "above_half") == (values > 127)).all()
    with pytest.raises(ValueError, match="not binary"):
        read_mask(tmp_path / "a.png", "lesion")
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 4), 256, np.uint16))
    with pytest.raises(ValueError, match="0 to 255"):
        read_mask(tmp_path / "deep.png", "labels")


def test_the_dice_of_classes_by_hand():
    logits, target = torch.full((1, 3, 1, 2), -50.0), torch.tensor([[[0, 2]]])
    logits[0, 0, 0, 0] = logits[0, 1, 0, 1] = 50.0  # background found, class 2 taken for class 1
    terms = (1 - (2 + 1e-5) / (2 + 1e-5), 1 - 1e-5 / (1 + 1e-5), 1 - 1e-5 / (1 + 1e-5))
    assert class_dice_loss(logits, target).item() == pytest.approx(sum(terms) / 3, abs=1e-6)


def test_the_losses_of_a_logit_per_class_are_those_of_transunet_and_medt():
    generator = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(2, 2, 5, 4, generator=generator), torch.rand(2, 5, 4, generator=generator).round()
    terms = build_loss(LossConfig(dice=0.5, cross_entropy=0.5, alignment=0))(Output(logits), mask)
    chosen = logits.double().log_softmax(1).gather(1, mask.long()[:, None])
    assert terms["cross_entropy"].item() == pytest.approx(-chosen.mean().item(), abs=1e-6)
    fractions, dice = logits.double().softmax(1).numpy(), []
    for number in range(2):
        truth = mask.numpy() == number
        both = (fractions[:, number] * truth).sum()
        dice.append((2 * both + 1e-5) / ((fractions[:, number] ** 2).sum() + truth.sum() + 1e-5))
    assert terms["dice_loss"].item() == pytest.approx(1 - np.mean(dice), abs=1e-6)
    assert terms["loss"].item() == pytest.approx((terms["dice_loss"] + terms["cross_entropy"]).item() / 2, abs=1e-6)


def test_two_logits_are_background_and_lesion():
    logits = torch.randn(1, 2, 3, 3)
    assert torch.allclose(probabilities(Output(logits)), (logits[:, 1] - logits[:, 0]).sigmoid(), atol=1e-6)


def test_each_class_is_scored_and_nothing_is_left_out():
    labels = np.array([[0, 1], [2, 2]], np.uint8)
    probability = np.zeros((3, 2, 2), np.float32)
    for place, found in {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 1}.items():
        probability[(found, *place)] = 1
    score = score_prediction(CasePrediction("a", 0, probability, labels, None))
    assert [own[ORIGINAL] for own in score.classes] == [Overlap(1, 2, 1), Overlap(1, 1, 2)]
    assert score.classes[1][PUBLISHED] == Overlap(1, 1, 2)
    empty = (Overlap(0, 0, 0), Overlap(0, 3, 0))
    found = summarise_classes([tuple(own[ORIGINAL] for own in score.classes), empty])
    assert found["classes"][0]["dice_per_image"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["classes"][1]["dice_per_image"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["dice_per_image"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 4)
    assert (found["num_cases"], found["num_empty_masks"], found["num_false_positives"]) == (2, 1, 1)
    assert summarise_classes([[Overlap(1, 2, 1)]]) == summarise([Overlap(1, 2, 1)])


def test_classes_are_resized_to_no_class_between(two_sides):
    cases = scan(two_sides, "train")
    config = dataclasses.replace(settings(two_sides).data, text="attributes", resize="published")
    images = CaseDataset(cases, config, num_classes=3)
    assert {int(value) for index in range(len(images)) for value in np.unique(images[0, index].mask)} == {0, 1, 2}


def test_classes_change_places_where_an_image_is_mirrored(two_sides):
    cases = scan(two_sides, "train")
    config = dataclasses.replace(
        settings(two_sides).data, text="attributes", augmentation="mirror", class_names=("left lung", "right lung"),
        mirrored_classes=("left lung", "right lung"),
    )  # fmt: skip
    images = CaseDataset(cases, config, num_classes=3, augment=True)
    plain = CaseDataset(cases, dataclasses.replace(config, augmentation="none"), num_classes=3)
    mirrored = 0
    for index in range(len(images)):
        found, expected = images[0, index], plain[0, index]
        if np.array_equal(found.image, expected.image):
            assert np.array_equal(found.mask, expected.mask)
        else:
            assert np.array_equal(found.mask, np.array([0, 2, 1], np.uint8)[expected.mask[:, ::-1]])
            mirrored += 1
    assert 0 < mirrored < len(images)
    with pytest.raises(ValueError, match=r"mirrored_classes=\[.left lung., .right lung.\]"):
        CaseDataset(cases, dataclasses.replace(config, mirrored_classes=()), num_classes=3, augment=True)
    with pytest.raises(ValueError, match=r"expected pairs of names from left lung, right lung"):
        CaseDataset(cases, dataclasses.replace(config, mirrored_classes=("left lung", "heart")), num_classes=3)


def test_masks_of_255_are_told_from_classes(two_sides, tmp_path):
    cases = [dataclasses.replace(case, mask=tmp_path / "mask.png") for case in scan(two_sides, "train")[:1]]
    labels = read_mask(scan(two_sides, "train")[0].mask, "labels")
    write_mask(tmp_path / "mask.png", labels > 0)
    config = dataclasses.replace(settings(two_sides).data, text="attributes")
    with pytest.raises(ValueError, match=r"num_classes=256.*data\.mask=lesion"):
        CaseDataset(cases, config, num_classes=3)[0, 0]


def test_a_class_that_the_network_does_not_know_names_the_file(two_sides):
    cases = scan(two_sides, "train")
    config = dataclasses.replace(settings(two_sides).data, text="attributes", class_names=(), mirrored_classes=())
    images = CaseDataset(cases, config, num_classes=1)
    with pytest.raises(ValueError, match=r"labelcol.*holds the class 2.*num_classes=3"):
        for index in range(len(images)):
            images[0, index]
    with pytest.raises(ValueError, match=r"data\.mask=labels"):
        CaseDataset(cases, dataclasses.replace(config, mask="lesion"), num_classes=3)
    with pytest.raises(ValueError, match="expected 2"):
        CaseDataset(cases, dataclasses.replace(config, class_names=("a",), mirrored_classes=()), num_classes=3)


def test_a_network_of_classes_trains_resumes_and_logs_each(run, two_sides, tmp_path):
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    means = [np.mean([line[f"val_dice_per_image_class_{number}"] for number in (1, 2)]) for line in log]
    assert [line["val_dice_per_image"] for line in log] == pytest.approx(means)
    train(settings(two_sides, "train.epochs=1"), run=tmp_path / "parts")
    train(resume=tmp_path / "parts", overrides=("train.epochs=2",))
    other = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["val_loss"] for line in other] == [line["val_loss"] for line in log]


def test_a_network_of_classes_is_scored_and_predicts_from_the_command_line(run, two_sides, tmp_path, capsys):
    out = tmp_path / "scores"
    assert main(["evaluate", str(run), str(two_sides), "--split", "test", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "left, original resolution" in printed
    assert "right, original resolution" in printed
    summary = json.loads((out / "summary.json").read_text())
    first = summary["scores"][0]
    assert first["dice_per_image"] == pytest.approx(np.mean([own["dice_per_image"] for own in first["classes"]]))
    assert "<td>left</td>" in (out / "evaluation.html").read_text()
    header = (out / "cases.csv").read_text().splitlines()[0]
    assert "original_corrected_dice_class_2" in header
    image = sorted((two_sides / "Test_Folder" / "img").iterdir())[0]
    command = ["predict", str(image), "--model", str(run), "--out", str(tmp_path / "masks"), "--probability"]
    assert main([*command, "--overlay", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    labels = read_mask(tmp_path / "masks" / f"{image.stem}.png", "labels")
    assert labels.shape == (64, 64)
    assert record["area_per_class"] == {"left": int((labels == 1).sum()), "right": int((labels == 2).sum())}
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    endings = [".json", ".png", "_overlay.png", "_probability_1.png", "_probability_2.png"]
    assert names == ["predictions.csv", *sorted(image.stem + ending for ending in endings)]
    prediction = Predictor(run)(image)
    assert prediction.probability.shape == (3, 64, 64)
    assert np.allclose(prediction.probability.sum(0), 1, atol=1e-5)
    assert (prediction.mask == labels).all()
    assert main([*command, "--threshold", "0.3"]) == 2
    assert "each pixel gets the most probable" in capsys.readouterr().err


def test_overlays_give_each_class_its_colour():
    from c2fvl.data.pictures import class_colour, overlay

    image, labels = np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), np.uint8)
    labels[8:24, 8:24], labels[40:56, 40:56] = 1, 2
    drawn = overlay(image, labels, num_classes=2)
    scale = drawn.shape[0] // 64
    for number, place in ((1, 16), (2, 48)):
        pixel = drawn[place * scale, place * scale]
        assert np.allclose(pixel, 0.4 * np.asarray(class_colour(number)), atol=1)
    assert class_colour(1) == class_colour(7)


def test_masks_of_classes_can_be_looked_over(two_sides):
    assert any(problem.kind == "mask" for problem in check(two_sides).problems)
    assert not any(problem.kind == "mask" for problem in check(two_sides, mask="labels").problems)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("c2fvl", "unet")
        else pytest.param(name, marks=pytest.mark.slow(like="test_every_network_learns_three_classes[unet]"))
        for name in sorted(NETWORKS)
    ],
)  # fmt: skip
def test_every_network_learns_three_classes(name):
    """One image with two classes: the loss falls well below its start within a few steps."""
    from support.networks import TINY, images, network, reports

    tiny = next(tiny for tiny in TINY.values() if tiny.name == name)
    built = network(tiny, trained=False, num_classes=3).train()
    mask = torch.zeros(2, *tiny.size)
    mask[:, : tiny.size[0] // 2, : tiny.size[1] // 2], mask[:, :, -8:] = 1, 2
    image = images(tiny, 2) * 0.2 + mask[:, None] * 0.4
    loss, losses = build_loss(LossConfig(alignment=0)), []
    optimizer = torch.optim.Adam(built.parameters(), lr=3e-3)
    for _ in range(20):
        losses.append(loss(built(image, reports(tiny, 2)), mask)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
