"""Images unlike those trained on are flagged."""

import dataclasses

import cv2
import numpy as np
import pytest

from c2fvl.checkpoints.trained_model import load_model, save_model
from c2fvl.config_files import load_config
from c2fvl.data.part import Part
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.files.images import read_image
from c2fvl.inference.predictor import Predictor
from c2fvl.metrics.out_of_distribution import MIN_IMAGES, SIDE, OodDetector, fraction_flagged, thumbnail
from c2fvl.models import build_model
from c2fvl.training.fit_ood import fit_ood


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ood") / "phantom"
    write_phantom(folder, num_cases=500, seed=11, size=32)
    return folder


def images(root, part):
    return [read_image(path) for path in sorted((root / part / "img").iterdir())]


@pytest.fixture(scope="module")
def known(root):
    return OodDetector.fit(np.stack([thumbnail(image) for image in images(root, "Train_Folder")]))


def test_images_of_the_kind_pass_and_turned_or_inverted_ones_do_not(known, root):
    others = np.stack([thumbnail(image) for image in images(root, "Test_Folder")])
    fractions = fraction_flagged(known, others)
    assert fractions["as they are"] <= 0.05 and fractions["mirrored"] <= 0.05
    assert min(fraction for name, fraction in fractions.items() if name not in ("as they are", "mirrored")) >= 0.95


def test_a_small_picture_does_not_depend_on_size_brightness_and_contrast(root):
    image = images(root, "Test_Folder")[0]
    larger = cv2.resize(image, (128, 128), interpolation=cv2.INTER_NEAREST)
    assert np.allclose(thumbnail(image), thumbnail(larger), atol=1e-4)
    assert np.allclose(thumbnail(image), thumbnail(0.2 + 0.5 * image), atol=1e-4)
    assert thumbnail(image).shape == (SIDE**2,)


@pytest.mark.parametrize("kind", ["stripes", "noise", "disc"])
def test_pictures_of_other_things_are_flagged(known, kind):
    y, x = np.mgrid[0:96, 0:96] / 96
    pictures = {
        "stripes": 0.5 + 0.5 * np.sin(20 * (x + 2 * y)),
        "noise": np.random.default_rng(0).random((96, 96)),
        "disc": ((x - 0.2) ** 2 + (y - 0.8) ** 2 < 0.02).astype(float),
    }
    score = known.score(np.repeat(pictures[kind][:, :, None], 3, axis=2).astype(np.float32))
    assert score.reasons and not score.as_dict()["is_in_distribution"]


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_blank_images_are_flagged(known, level):
    score = known.score(np.full((50, 70, 3), level, np.float32))
    assert "blank" in score.reasons[0]


def test_it_is_the_same_from_its_file_and_damage_is_reported(known, root, tmp_path):
    data = known.to_bytes()
    again = OodDetector.from_bytes(data, where="file")
    image = images(root, "Test_Folder")[1]
    assert again.score(image).kind == pytest.approx(known.score(image).kind, abs=1e-4)
    for wrong in (data[:-9], b"", b"{}" * 50):
        with pytest.raises(ValueError, match=r"ood\.bin"):
            OodDetector.from_bytes(wrong, where="ood.bin")
    with pytest.raises(ValueError, match=str(MIN_IMAGES)):
        OodDetector.fit(np.zeros((5, SIDE**2)))


def test_a_model_that_knows_its_images_flags_others(root, tmp_path):
    config = load_config("debug", ["data.text=attributes", "data.image_size=32", "model.arguments.image_size=32"])
    save_model(tmp_path / "model", build_model(config.model.name, config.model.arguments), config, {})
    model = load_model(tmp_path / "model")
    image = images(root, "Test_Folder")[2]
    assert Predictor(model)(image).ood is None
    found = fit_ood(model, Part(root, split="train"))
    assert found["flagged"]["as they are"] <= 0.05 and found["num_images"] == len(images(root, "Train_Folder"))
    predictor = Predictor(tmp_path / "model")
    assert not predictor(image).ood.reasons
    assert predictor(np.ascontiguousarray(image[::-1])).ood.reasons


@pytest.mark.usefixtures("translated")
def test_an_exported_network_knows_its_images_too(root, known, tiny_run, tmp_path):
    pytest.importorskip("onnxruntime")
    from c2fvl.inference.export import export

    export(dataclasses.replace(load_model(tiny_run), ood_detector=known), tmp_path / "network.onnx")
    image = images(root, "Test_Folder")[3]
    found = Predictor(tmp_path / "network.onnx")
    assert found(image).ood.kind == pytest.approx(known.score(image).kind, abs=1e-4)
    assert found(1 - image).ood.reasons


@pytest.mark.parametrize("name", ["small", "ct_small"])
@pytest.mark.parametrize("shape", [(512, 512), (512, 512, 3), (1024, 700)])
@pytest.mark.parametrize("seed", range(3))
def test_noise_is_flagged_and_gets_no_estimated_dice(name, shape, seed):
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    found = Predictor(name, device="cpu", force_view=True)(noise)
    assert "its contrast lies in single pixels, as in noise" in found.ood.reasons
    assert found.estimated_dice is None
    assert found.to_dict()["estimated_dice"] is None


def test_an_image_with_some_noise_is_not_noise(root, known):
    images = sorted((root / "Train_Folder" / "img").iterdir())[:5]
    for file in images:
        image = read_image(file).astype(np.float32)
        grainy = np.clip(image + np.random.default_rng(0).normal(0, 0.08, image.shape), 0, 1).astype(np.float32)
        assert not [reason for reason in known.score(grainy).reasons if "noise" in reason]
