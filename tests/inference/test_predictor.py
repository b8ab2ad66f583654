import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import c2fvl
from c2fvl.checkpoints.model_files import write_files
from c2fvl.files.images import read_image, read_mask, write_image
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import Request, collect
from c2fvl.inference.to_folder import predict_to_folder
from c2fvl.inference.torch_engine import largest_batch
from c2fvl.reports.zones import third_key

RIGHT = "Unilateral pulmonary infection, one infected area, upper right lung."
LEFT = "Unilateral pulmonary infection, one infected area, upper left lung."


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return Predictor(tiny_run)


@pytest.fixture
def images(phantom_root):
    return sorted((phantom_root / "Test_Folder" / "img").iterdir())


def test_masks_have_the_film_s_own_size(predictor, tmp_path):
    generator = np.random.default_rng(0)
    for height, width in [(64, 64), (50, 71), (300, 20), (33, 400)]:
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        prediction = predictor(image)
        assert prediction.mask.shape == prediction.probability.shape == (height, width)
        assert set(np.unique(prediction.mask)) <= {0, 1}
        assert 0 <= prediction.probability.min() <= prediction.probability.max() <= 1
        assert np.array_equal(prediction.mask, prediction.probability >= 0.5)
        assert sum(prediction.areas.values()) == prediction.mask.sum()


def test_a_file_and_its_pixels_give_the_same(predictor, images):
    image = read_image(images[0])
    by_path, by_float = predictor(images[0], LEFT), predictor(image, LEFT)
    by_bytes = predictor(np.rint(image * 255).astype(np.uint8), LEFT)
    assert np.array_equal(by_path.probability, by_float.probability)
    assert np.allclose(by_path.probability, by_bytes.probability, atol=1e-6)


def test_orientation_turns_the_report(predictor, images):
    viewer, patient = predictor(images[0], LEFT), predictor(images[0], RIGHT, orientation="patient")
    assert viewer.report == patient.report
    assert viewer.report.zones == {"lupper"}
    assert np.array_equal(viewer.probability, patient.probability)
    with pytest.raises(ValueError, match=r"orientation must be .image. .* or .patient"):
        predictor(images[0], LEFT, orientation="mine")


def test_the_report_is_read_and_a_blank_one_is_none(predictor, images):
    with_left, without = predictor(images[0], LEFT), predictor(images[0])
    assert not np.array_equal(with_left.probability, without.probability)
    assert np.array_equal(predictor(images[0], "  ").probability, without.probability)
    assert predictor(images[0], c2fvl.parse_report(LEFT)).report == with_left.report


@pytest.mark.parametrize("nonsense", ["The nuclei density in the upper right is high.", "hello", "123"])
def test_a_report_that_says_nothing_is_refused(predictor, images, nonsense):
    with pytest.raises(ValueError, match="names no side and no zone"):
        predictor(images[0], nonsense)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8,), np.float32), np.zeros((8, 8, 4), np.uint8), np.full((8, 8, 3), 2.0),
        np.full((8, 8, 3), np.nan), np.zeros((8, 8, 3), np.int64), np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["line", "rgba", "too bright", "nan", "integers", "empty"],
)  # fmt: skip
def test_wrong_pixels_are_refused(predictor, image):
    with pytest.raises(ValueError, match="the image"):
        predictor(image)


def test_files_are_written_and_say_what_was_done(predictor, images, tmp_path):
    requests = collect([str(images[0])], report=LEFT)
    (record,) = predict_to_folder(
        predictor, requests, tmp_path, outputs=["png", "probability", "overlay"], orientation="patient"
    )
    stem = images[0].stem
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.png", f"{stem}.json", f"{stem}_probability.png", f"{stem}_overlay.png",
    }  # fmt: skip
    assert json.loads((tmp_path / f"{stem}.json").read_text()) == record
    raw = cv2.imread(str(tmp_path / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
    expected = predictor(images[0], LEFT, orientation="patient")
    assert set(np.unique(raw)) <= {0, 255}
    assert np.array_equal(read_mask(tmp_path / f"{stem}.png"), expected.mask)
    probability = cv2.imread(str(tmp_path / f"{stem}_probability.png"), cv2.IMREAD_UNCHANGED)
    assert probability.dtype == np.uint16
    assert np.abs(probability / 65535 - expected.probability).max() < 1e-5
    assert record["report"]["zones"] == ["image_right_upper"]
    assert record["report"]["orientation"] == "image"
    assert record["report"]["sentence"] == LEFT
    assert record["area"] == int(expected.mask.sum())
    assert record["model"]["name"] == "c2fvl"
    assert len(record["model"]["weights_sha256"]) == 64


def test_one_bad_film_does_not_stop_the_others(predictor, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(images[0].read_bytes()[:100])
    requests = collect([str(tmp_path / "broken.png"), str(images[0])])
    records = list(predict_to_folder(predictor, requests, tmp_path / "out"))
    assert records[0] == {"image": str(tmp_path / "broken.png"), "error": records[0]["error"]}
    assert "cut short" in records[0]["error"]
    assert "error" not in records[1]
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {images[0].stem}


def test_collecting_files_folders_globs_and_tables(images, tmp_path, phantom_root):
    folder = phantom_root / "Test_Folder" / "img"
    assert [request.image for request in collect([str(folder)])] == images
    assert [request.image for request in collect([str(folder / "*.png")])] == images
    table = tmp_path / "table.csv"
    table.write_text(f'image,report\n{images[0]},"{LEFT}"\n{images[1]},\n')
    first, second = collect([], table=table)
    assert (first.image, first.report, second.report) == (images[0], LEFT, None)
    assert collect([], table=table, report=RIGHT)[1].report == RIGHT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("film,report\na.png,x\n", "expected image and"),
        ("image,report,text\na.png,x,y\n", "expected image and"),
        ("image\nnone.png\n", r"row 2, column image: there is no file"),
        ("", "empty"),
        ("image,report\na.png,one,two\n", "3 cells"),
    ],
)
def test_wrong_tables_say_what_is_wrong(tmp_path, content, message):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        collect([], table=tmp_path / "table.csv")


def test_two_films_of_one_stem_are_an_error_before_anything_is_written(tmp_path):
    image = np.zeros((16, 16, 3), np.uint8)
    for folder in ("a", "b"):
        write_image(tmp_path / folder / "same.png", image)
    with pytest.raises(ValueError, match=r"would both be written as same\.png"):
        collect([str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(FileNotFoundError, match="matches no file or folder"):
        collect([str(tmp_path / "c*.png")])
    with pytest.raises(ValueError, match="no image to predict"):
        collect([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        collect([str(tmp_path / "empty")])


def test_wrong_models_say_what_is_wrong(tmp_path, tiny_run):
    with pytest.raises(FileNotFoundError, match="no model folder"):
        c2fvl.load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"did you mean .*{tiny_run.name}"):
        c2fvl.load_model(tiny_run.parent)
    with pytest.raises(ValueError, match="threshold"):
        Predictor(tiny_run, threshold=1.5)
    for device in ("tpu", "cuda:99", "xpu"):
        with pytest.raises(ValueError, match="cannot be used here") as error:
            c2fvl.load_model(tiny_run, device=device)
        assert len(str(error.value)) < 500, "torch's own text, whole"


@pytest.mark.parametrize("damage", ["cut", "changed", "other settings", "settings missing"])
def test_damaged_models_are_refused(tmp_path, tiny_run, damage):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tiny_run / "best").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
        for name in ("metrics.json", "manifest.json"):
            (folder / name).unlink()
    elif damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    elif damage == "other settings":
        settings = (folder / "config.toml").read_text()
        changed = settings.replace("base_width = 8", "base_width = 16")
        write_files(folder, {"config.toml": changed.encode()})
    else:
        (folder / "config.toml").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"safetensors|no model folder"):
        c2fvl.load_model(folder)


def test_loading_gives_the_trained_weights(tiny_run):
    model = c2fvl.load_model(tiny_run)
    assert not model.network.training
    assert model.config.preset == "debug"
    assert model.metrics["epoch"] in (1, 2)
    assert model.network.encoder.stem.norm.num_batches_tracked > 0
    assert all(torch.isfinite(parameter).all() for parameter in model.network.parameters())


def test_grey_and_sixteen_bit_arrays(predictor):
    grey = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    expected = predictor(np.repeat(grey[:, :, None], 3, axis=2)).probability
    assert np.array_equal(predictor(grey).probability, expected)
    assert np.allclose(predictor(grey.astype(np.uint16) * 257).probability, expected, atol=1e-5)


@pytest.mark.parametrize(
    "form", [Image.fromarray, np.ndarray.tolist, torch.from_numpy, lambda grey: grey.astype(">u2") * np.uint16(257)]
)
def test_pictures_lists_tensors_and_other_byte_orders(predictor, form):
    grey = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    assert np.allclose(predictor(form(grey)).probability, predictor(grey).probability, atol=1e-5)


@pytest.mark.parametrize(
    "image", [None, 3, [[1, 300]], [["a"]], Image.new("P", (4, 4)), {"image": 1}, np.ones((4, 4), bool)]
)
def test_what_is_no_image_is_named(predictor, image):
    with pytest.raises(ValueError, match=r"the (image|numbers)"):
        predictor(image)


def test_an_array_that_uses_a_small_part_of_the_range_is_said(predictor, caplog):
    grey = np.random.default_rng(0).integers(0, 4096, (40, 30), dtype=np.uint16)
    found = predictor(grey)
    assert found.picture.window_source == "percentile"
    assert "so the grey values were stretched" in caplog.text


def test_a_folder_says_what_is_left_out(images, tmp_path, caplog):
    for name in ("one.png", "two.TIF"):
        (tmp_path / name).write_bytes(images[0].read_bytes())
    for name in ("a.dcm", "b.bmp", "c.webp", "d.nii.gz", "IM000001", "._one.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    assert [request.image.name for request in collect([str(tmp_path)])] == ["one.png", "two.TIF"]
    assert f"{tmp_path}: left out are 5 file(s)" in caplog.text
    for name in ("a.dcm", "b.bmp", "c.webp", "d.nii.gz", "IM000001"):
        assert name in caplog.text
    assert "._one" not in caplog.text and "DS_Store" not in caplog.text


def test_a_damaged_image_of_a_folder_fails_and_is_not_passed_over(predictor, images, tmp_path):
    """Its name says that it is an image, so it may not be missing among the records in silence."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "whole.png").write_bytes(images[0].read_bytes())
    for name, data in (("empty.png", b""), ("text.jpg", b"no image"), ("cut.tif", images[0].read_bytes()[:20])):
        (folder / name).write_bytes(data)
    records = list(predict_to_folder(predictor, collect([str(folder)]), tmp_path / "out"))
    assert {record["image"].rpartition("/")[2]: "error" in record for record in records} == {
        "whole.png": False, "empty.png": True, "text.jpg": True, "cut.tif": True,
    }  # fmt: skip


@pytest.mark.parametrize("column", ["orientation", "frame"])
def test_the_column_orientation_of_a_table_counts(predictor, images, tmp_path, caplog, column):
    report = "Unilateral pulmonary infection, one infected area, lower left lung."
    other = "Unilateral pulmonary infection, one infected area, lower right lung."
    table = tmp_path / "films.csv"

    def masks(name, rows):
        table.write_text(
            f"image,report,{column}\n" + "".join(f'{image},"{text}",{whose}\n' for image, text, whose in rows)
        )
        return list(predict_to_folder(predictor, collect([], table=table), tmp_path / name))

    first, second = masks("table", [(images[0], report, "patient"), (images[1], report, "")])
    assert (first["report"]["orientation_given"], second["report"]["orientation_given"]) == ("patient", "image")
    assert (first["report"]["zones"], second["report"]["zones"]) == (["image_right_lower"], ["image_left_lower"])
    areas = {third_key(zone): area for zone, area in predictor(images[0], other).areas.items()}
    assert areas == first["area_per_third"]
    assert not caplog.records
    with pytest.raises(ValueError, match=rf"row 2, column {column}: .*mine"):
        masks("wrong", [(images[0], report, "mine")])


def test_the_record_of_a_free_sentence_has_the_findings_that_were_used(images, tmp_path):
    predictor = Predictor("default")
    requests = collect([str(images[0])], report="RLL consolidation")
    (record,) = predict_to_folder(predictor, requests, tmp_path, orientation="patient")
    assert record["report"]["zones"] == ["image_left_lower"]  # of the image
    assert record["report"]["not_understood"] == []


def test_films_are_never_replaced_by_their_masks(predictor, images, tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(images[0].read_bytes())
    with pytest.raises(ValueError, match="is an image to be predicted"):
        predict_to_folder(predictor, collect([str(image)]), tmp_path)
    assert image.read_bytes() == images[0].read_bytes()
    overlay_image = tmp_path / "a_overlay.png"
    overlay_image.write_bytes(images[1].read_bytes())
    with pytest.raises(ValueError, match=r"would both be written as a_overlay\.png"):
        collect([str(image), str(overlay_image)])
    assert len(collect([str(image), f"{tmp_path}/./a.png", f"{tmp_path}/a.*"])) == 1
    with pytest.raises(ValueError, match="is a file"):
        predict_to_folder(predictor, collect([str(image)]), overlay_image)


def test_a_failure_leaves_nothing_of_an_earlier_call(predictor, images, tmp_path):
    request = collect([str(images[0])])
    list(predict_to_folder(predictor, request, tmp_path, outputs=["png", "overlay"]))
    (tmp_path / "notes.txt").write_text("mine")
    bad = collect([str(images[0])], report="hello")
    (record,) = predict_to_folder(predictor, bad, tmp_path)
    assert "names no side" in record["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_reports_that_cannot_be_are_refused_or_said(predictor, images, tmp_path, caplog):
    with pytest.raises(ValueError, match="90000 infected areas"):
        predictor(images[0], "Unilateral pulmonary infection, 90000 infected areas, upper left lung.")
    requests = collect([str(images[0])], report="No pulmonary infection, three infected areas, upper left lung.")
    (record,) = predict_to_folder(predictor, requests, tmp_path)
    assert record["report"]["contradictions"] == ["no infection, with infected areas or zones"]
    assert "contradicts itself" in caplog.text
    with pytest.raises(ValueError, match="expected a sentence or a Report"):
        predictor(images[0], 5)
    with pytest.raises(ValueError, match="orientation 'image', but `orientation` is 'patient'"):
        predictor(images[0], c2fvl.parse_report(LEFT), orientation="patient")


def test_batches_and_threads_change_nothing(tiny_run, images, phantom_root, tmp_path):
    requests = collect([str(phantom_root / "Val_Folder/img")])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    requests = [*requests[:2], Request(broken, None), *requests[2:]]
    written = []
    for number, (batch_size, workers) in enumerate([(1, 1), (3, 2), (None, 4)]):
        predictor = Predictor(tiny_run, batch_size=batch_size)
        out = tmp_path / str(number)
        records = list(predict_to_folder(predictor, requests, out, workers=workers, outputs=["png", "probability"]))
        assert [record["image"] for record in records] == [str(request.image) for request in requests]
        assert [name for name, record in enumerate(records) if "error" in record] == [2]
        written.append({file.name: file.read_bytes() for file in out.iterdir() if "probability" not in file.name})
    assert written[0] == written[1] == written[2]


FLAT = """
import sys
from c2fvl.inference.speed import resident
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import Request
from c2fvl.inference.to_folder import predict_to_folder
from pathlib import Path
run, folder, out = sys.argv[1:]
requests = [Request(film, None) for film in sorted(Path(folder).iterdir())]
marks = []
for number, record in enumerate(predict_to_folder(Predictor(run, batch_size=4), requests, out, workers=2)):
    assert "error" not in record, record
    if number in (200, len(requests) - 1):
        marks.append(resident())
print(len(requests), marks[1] - marks[0])
"""


@pytest.mark.slow(like="test_batches_and_threads_change_nothing")
def test_memory_stays_flat_over_thousands_of_films(tiny_run, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    shades = np.random.default_rng(0).integers(0, 256, (2000, 40, 40), np.uint8)
    for number, image in enumerate(shades):
        cv2.imwrite(str(folder / f"{number:04}.png"), image)
    done = subprocess.run(
        [sys.executable, "-c", FLAT, str(tiny_run), str(folder), str(tmp_path / "out")],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, growth = map(int, done.stdout.split())
    assert count == 2000 and len(list((tmp_path / "out").iterdir())) == 4000
    assert growth < 50 * 2**20


def test_batches_are_halved_until_they_fit():
    tried = []

    def attempt(size):
        tried.append(size)
        if size > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert largest_batch(attempt, maximum=32) == 4
    assert tried == [32, 16, 8, 4]
    assert largest_batch(lambda size: attempt(99), maximum=8) == 1

    def fail(size):
        raise ValueError("another error")

    with pytest.raises(ValueError, match="another error"):
        largest_batch(fail, maximum=8)


def test_a_picture_shows_the_user_s_words_and_says_whose_left_they_mean(predictor, images, tmp_path, monkeypatch):
    from c2fvl.data.pictures import panel_caption
    from c2fvl.inference import save

    captions, notes = [], []
    drawn = save.case_panel

    def draw(*given, **named):
        captions.append(panel_caption(named["report"]))
        notes.append(named["note"])
        return drawn(*given, **named)

    monkeypatch.setattr(save, "case_panel", draw)
    for orientation, whose in (
        ("patient", "left is the patient's left (image right)"),
        ("image", "left is the image left (patient's right)"),
    ):
        request = [Request(images[0], LEFT)]
        (record,) = predict_to_folder(
            predictor, request, tmp_path / orientation, outputs=["overlay"], orientation=orientation
        )
        assert captions[-1] == f"{LEFT} ({orientation} orientation: {whose})"
        assert record["report"]["zones"] == (
            ["image_right_upper"] if orientation == "patient" else ["image_left_upper"]
        )
    assert panel_caption(None) == "No report"
    assert all("threshold 0.5; research use, not for diagnosis." in note for note in notes)
