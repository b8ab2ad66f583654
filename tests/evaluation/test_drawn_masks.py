"""Masks that were drawn elsewhere: scored as a model's are, and nothing about them is guessed."""

import io
import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.data.part import Part
from c2fvl.data.scan import scan
from c2fvl.evaluation.compare.compare import compare
from c2fvl.evaluation.drawn_masks import evaluate_masks
from c2fvl.evaluation.evaluate import score, write_evaluation
from c2fvl.evaluation.evaluation_folder import EvaluationFolder
from c2fvl.files import storage
from c2fvl.files.images import read_mask, write_image, write_mask
from c2fvl.files.tables import write_cells


def encoded(mask, suffix=".png"):
    return cv2.imencode(suffix, mask)[1].tobytes()


@pytest.fixture
def cases(phantom_root):
    return scan(phantom_root, "val")


@pytest.fixture
def drawn(cases, tmp_path):
    """A second reader's masks, named as the images: a pixel wider than the true ones."""
    for case in cases:
        wide = cv2.dilate(read_mask(case.mask), np.ones((3, 3), np.uint8))
        write_mask(tmp_path / "reader" / f"{case.id}.png", wide)
    return tmp_path / "reader"


@pytest.fixture(scope="module")
def of_model(tiny_run, phantom_root, tmp_path_factory):
    """What a model scores, its evaluation, and its masks as files."""
    folder = tmp_path_factory.mktemp("model")
    scored = score(load_model(tiny_run), Part(phantom_root))
    for case, of_case in zip(scored.cases, scored.scored, strict=True):
        write_mask(folder / "masks" / f"{case.id}.png", of_case.labels)
    write_evaluation(scored, EvaluationFolder(folder / "scores"))
    return scored, folder


def test_the_masks_of_a_model_score_as_the_model(of_model, phantom_root, tmp_path):
    scored, folder = of_model
    found = evaluate_masks(folder / "masks", Part(phantom_root), out=tmp_path / "scores")
    (mine,) = found.summary.scores
    assert mine == scored.summary.scores[0]
    for name in set(scored.columns) - {"estimated_dice"}:
        of_masks, of_network = found.summary.statistics.per_image, scored.summary.statistics.per_image
        assert of_masks.get(name) == of_network.get(name)
    assert found.summary.statistics.pooled == scored.summary.statistics.pooled
    assert found.summary.statistics.subgroups == scored.summary.statistics.subgroups
    assert found.summary.data.masks == scored.summary.data.masks


def test_what_needs_a_network_is_left_out_with_a_word(drawn, phantom_root, tmp_path):
    found = evaluate_masks(drawn, Part(phantom_root), out=tmp_path / "scores")
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["calibration"] is summary["predicted_findings"] is summary["audit"] is summary["threshold"] is None
    assert [(row["resolution"], row["protocol"]) for row in summary["scores"]] == [("original", "corrected")]
    assert summary["model"]["weights_sha256"] is None
    assert len(summary["model"]["masks_sha256"]) == 64
    header = (tmp_path / "scores" / "cases.csv").read_text().splitlines()[0].split(",")
    assert "original_corrected_dice" in header
    assert not [name for name in header if name.startswith(("network_", "estimated"))]
    page = found.page.read_text()
    assert "Only masks were given" in page
    assert "Calibration and estimated Dice need probabilities" in page
    assert 'id="calibration"' not in page
    assert "threshold" not in page
    assert "Every setting of the model" not in page
    assert EvaluationFolder(found.folder).read_summary() == found.summary


def test_a_reader_is_compared_with_a_model(of_model, drawn, phantom_root, tmp_path):
    evaluate_masks(drawn, Part(phantom_root), out=tmp_path / "scores")
    found = compare([tmp_path / "scores", of_model[1] / "scores"], speed=False)
    assert [entry.label for entry in found.entries] == ["reader", "debug"]
    assert found.entries[0].text == "not known, the masks were drawn elsewhere"
    reader = EvaluationFolder(tmp_path / "scores").read_cases().scores["dice"]
    model = EvaluationFolder(of_model[1] / "scores").read_cases().scores["dice"]
    assert found.differences[0].differences["dice"].mean.value == pytest.approx(np.mean(reader - model))
    assert found.entries[0].values["dice_per_image"] == pytest.approx(100 * np.mean(reader))


def test_a_reader_is_compared_with_a_model_that_is_scored_now(tiny_run, drawn, phantom_root, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    evaluate_masks(drawn, Part(phantom_root), out=tmp_path / "scores")
    found = compare([tmp_path / "run", tmp_path / "scores"], Part(phantom_root), speed=False)
    assert [entry.label for entry in found.entries] == ["debug", "reader"]
    assert found.entries[1].values.get("parameters") is None


@pytest.mark.parametrize("name", ["{}.png", "mask_{}.png", "{}_mask.PNG", "{}.tif"])
@pytest.mark.parametrize("lesion", [1, 255])
def test_names_and_values_that_are_understood(cases, phantom_root, tmp_path, name, lesion):
    for case in cases:
        mask = read_mask(case.mask) * np.uint8(lesion)
        suffix = name[-4:].lower()
        storage.write_bytes(tmp_path / "masks" / name.format(case.id), encoded(mask, suffix))
    found = evaluate_masks(tmp_path / "masks", Part(phantom_root), out=tmp_path / "scores")
    assert found.summary.scores[0].dice_per_image == 1


def test_masks_of_a_csv_are_found_by_id_or_by_their_name(tmp_path):
    mask = np.zeros((20, 24), np.uint8)
    mask[4:9, 3:9] = 1
    rows = [["image", "mask"]]
    for number in range(4):
        write_image(
            tmp_path / "films" / f"a{number}.png", np.random.default_rng(number).integers(0, 256, (20, 24), np.uint8)
        )
        write_mask(tmp_path / "truth" / f"m{number}.png", mask)
        write_mask(tmp_path / "reader" / (f"a{number}.png" if number < 2 else f"m{number}.png"), mask)
        rows.append([f"films/a{number}.png", f"truth/m{number}.png"])
    write_cells(tmp_path / "films.csv", rows)
    found = evaluate_masks(tmp_path / "reader", Part(tmp_path / "films.csv", "all"), out=tmp_path / "scores")
    assert found.summary.scores[0].dice_per_image == 1


def missing(folder, first, second):
    (folder / f"{first}.png").unlink()


def misnamed(folder, first, second):
    (folder / f"{first}.png").rename(folder / "patient one.png")


def twice(folder, first, second):
    shutil.copy(folder / f"{first}.png", folder / f"mask_{first}.png")


def other_size(folder, first, second):
    write_mask(folder / f"{first}.png", np.zeros((32, 30), np.uint8))


def grey(folder, first, second):
    storage.write_bytes(folder / f"{first}.png", encoded(np.full((64, 64), 128, np.uint8)))


def mixed(folder, first, second):
    mask = np.zeros((64, 64), np.uint8)
    mask[1], mask[2] = 1, 255
    storage.write_bytes(folder / f"{first}.png", encoded(mask))


def sixteen_bits(folder, first, second):
    storage.write_bytes(folder / f"{first}.png", encoded(np.full((64, 64), 65535, np.uint16)))


def colour(folder, first, second):
    storage.write_bytes(
        folder / f"{first}.png", encoded(np.eye(64, dtype=np.uint8)[:, :, None] * np.uint8([0, 0, 255]))
    )


def jpeg(folder, first, second):
    mask = cv2.imread(str(folder / f"{first}.png"), 0)
    missing(folder, first, second)
    storage.write_bytes(folder / f"{first}.jpg", encoded(mask, ".jpg"))


def damaged(folder, first, second):
    data = (folder / f"{first}.png").read_bytes()
    storage.write_bytes(folder / f"{first}.png", data[: len(data) // 2])


def turned(folder, first, second):
    tag = Image.Exif()
    tag[274] = 3
    with Image.open(folder / f"{first}.png") as image:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", exif=tag)
    storage.write_bytes(folder / f"{first}.png", buffer.getvalue())


def volume(folder, first, second):
    (folder / f"{first}.png").rename(folder / f"{first}.nii.gz")


def two_faults(folder, first, second):
    other_size(folder, first, second)
    grey(folder, second, first)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (missing, "FIRST has no mask: expected FIRST.png, empty"),
        (misnamed, r"1 images fit no case by their names: patient one.png.*FIRST has no mask"),
        (twice, "FIRST has 2 masks: mask_FIRST.png, FIRST.png; keep one"),
        (other_size, r"1 of \d+ masks.*FIRST.png: the mask is 30 x 32 pixels, the true mask .* is 64 x 64"),
        (grey, "FIRST.png: it holds the values 128; expected 0 and 1, or 0 and 255"),
        (mixed, "FIRST.png: it holds the values 0, 1, 255"),
        (sixteen_bits, "FIRST.png: it holds the values 65535"),
        (colour, "FIRST.png: the mask is a colour image"),
        (jpeg, "FIRST.jpg: it holds the values 0, .*as PNG"),
        (damaged, "FIRST.png: .*(damaged|cut)"),
        (turned, r"FIRST.png: the orientation tag of this PNG file \(3, 1 is upright\) is not applied"),
        (volume, r"FIRST.nii.gz: masks in .nii.gz are not read here; save it as PNG"),
        (two_faults, r"2 of \d+ masks cannot be scored.*FIRST.png.*SECOND.png"),
    ],
)
def test_masks_that_do_not_fit_are_named_and_nothing_is_written(drawn, cases, phantom_root, tmp_path, fault, message):
    first, second = (case.id for case in cases[:2])
    fault(drawn, first, second)
    wanted = message.replace("FIRST", first).replace("SECOND", second)
    with pytest.raises(ValueError, match=f"(?s){wanted}"):
        evaluate_masks(drawn, Part(phantom_root), out=tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_a_name_that_fits_two_cases_is_refused(tmp_path):
    for number, name in enumerate(("a", "mask_a")):
        write_image(tmp_path / "films" / f"{name}.png", np.full((20, 24), 50 + number, np.uint8))
        write_mask(tmp_path / "truth" / f"t{number}.png", np.eye(20, 24, dtype=np.uint8))
        write_mask(tmp_path / "reader" / f"mask_{name}.png", np.eye(20, 24, dtype=np.uint8))
    write_cells(
        tmp_path / "films.csv",
        [["image", "mask"], ["films/a.png", "truth/t0.png"], ["films/mask_a.png", "truth/t1.png"]],
    )
    with pytest.raises(ValueError, match=r"mask_a\.png can be the mask of a and of mask_a; rename it"):
        evaluate_masks(tmp_path / "reader", Part(tmp_path / "films.csv", "all"), out=tmp_path / "scores")


def test_the_true_masks_themselves_are_refused(cases, phantom_root, tmp_path):
    with pytest.raises(ValueError, match="is the true mask itself"):
        evaluate_masks(cases[0].mask.parent, Part(phantom_root), out=tmp_path / "scores")
    linked = tmp_path / "linked"
    linked.mkdir()
    for case in cases:
        (linked / case.mask.name).symlink_to(case.mask)
    with pytest.raises(ValueError, match="is the true mask itself"):
        evaluate_masks(linked, Part(phantom_root), out=tmp_path / "scores")


def test_copies_of_the_true_masks_are_told(cases, phantom_root, tmp_path, caplog):
    shutil.copytree(cases[0].mask.parent, tmp_path / "copied")
    evaluate_masks(tmp_path / "copied", Part(phantom_root), out=tmp_path / "scores")
    assert "every mask is equal to the true one" in caplog.text


def test_files_of_no_case_and_inverted_masks_are_told(drawn, cases, phantom_root, tmp_path, caplog):
    write_mask(drawn / f"{cases[0].id}_overlay.png", np.zeros((5, 5), np.uint8))
    storage.write_bytes(drawn / "notes.txt", b"text")
    evaluate_masks(drawn, Part(phantom_root), out=tmp_path / "scores")
    assert f"1 images fit no case and are left out: {cases[0].id}_overlay.png" in caplog.text
    assert "exchanged" not in caplog.text
    assert "equal to the true one" not in caplog.text
    for case in cases:
        write_mask(drawn / f"{case.id}.png", 1 - read_mask(case.mask))
    evaluate_masks(drawn, Part(phantom_root), out=tmp_path / "scores")
    assert f"in {len(cases)} of {len(cases)} masks the background fits the lesion better" in caplog.text


def test_the_command(drawn, phantom_root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--masks", "reader", str(phantom_root), "--split", "val"]) == 0
    said = capsys.readouterr().out
    assert "report: not known, the masks were drawn elsewhere" in said
    assert (tmp_path / "scores/reader/evaluation-val/masks/evaluation.html").is_file()
    assert main(["evaluate", "--masks", "nothing", str(phantom_root)]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["evaluate", "--masks", "reader", str(phantom_root), "--report", "none"]) == 2
    assert "leave out --report" in capsys.readouterr().err
    assert main(["evaluate", "--masks", "reader", str(phantom_root), "--json", "--out", "again"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["name"] == "reader"
