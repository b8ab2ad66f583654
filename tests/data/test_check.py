"""A whole data set is looked through: figures right, everything wrong found and named."""

import json
import shutil

import cv2
import numpy as np
import openpyxl
import pytest
from support.progress import Steps

from c2fvl.cli.main import main
from c2fvl.data.check.check import check

LEFT = "Unilateral pulmonary infection, one infected area, lower left lung."
RIGHT = "Unilateral pulmonary infection, one infected area, lower right lung."
NONE = "No pulmonary infection, zero infected areas."
HEIGHT, WIDTH = 96, 128


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


def mask(side):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    if side != "none":
        first = 16 if side == "left" else WIDTH - 40
        pixels[66:82, first : first + 24] = 255
    return pixels


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def make_split(root, split, cases):
    """Write cases of (name, image, mask, caption)."""
    folder = root / f"{split}_Folder"
    book = openpyxl.Workbook()
    book.active.append(("Image", "Description"))
    for name, image, truth, caption in cases:
        save(folder / "img" / f"{name}.png", image)
        save(folder / "labelcol" / f"mask_{name}.png", truth)
        book.active.append((f"mask_{name}.png", caption))
    book.save(folder / f"{split}_text.xlsx")
    return folder


@pytest.fixture
def root(tmp_path):
    make_split(
        tmp_path,
        "Train",
        [
            ("sub-S1_a", image(1), mask("left"), LEFT),
            ("sub-S1_b", image(2), mask("right"), RIGHT),
            ("covid_3", image(3), mask("none"), NONE),
        ],
    )
    make_split(tmp_path, "Val", [("sub-S2_a", image(4), mask("left"), LEFT)])
    return tmp_path


def found(report):
    return [(problem.kind, problem.severity) for problem in report.problems]


def test_sound_data(root):
    progress = Steps()
    report = check(root, progress=progress)
    assert report.problems == ()
    assert progress.steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    train, val = report.splits
    assert (train.split, train.num_cases, train.num_masks, train.num_empty_masks) == ("train", 3, 3, 1)
    assert (train.num_reports, train.num_free_texts, train.num_groups, train.num_without_group) == (3, 0, 1, 1)
    assert train.sizes == {"128 x 96": 3}
    assert (train.num_compared, train.agreement["side"], train.agreement["number"]) == (3, 1.0, 1.0)
    assert (val.split, val.num_cases, val.pairing) == ("val", 1, "mask_NAME")
    assert json.loads(json.dumps(report.as_dict()))["splits"][0]["num_cases"] == 3
    text = "\n".join(report.lines())
    assert "train: 3 images, 3 masks (named mask_NAME), 1 of them empty" in text
    assert text.splitlines()[-1].startswith("0 errors, 0 warnings, ")


def test_chosen_splits_only(root):
    assert [split.split for split in check(root, splits=["val"]).splits] == ["val"]


def test_the_order_of_threads_does_not_show(root):
    one, four = (check(root, workers=workers).as_dict() for workers in (1, 4))
    assert {**one, "seconds": 0} == {**four, "seconds": 0}


def test_an_image_in_two_splits_though_stored_otherwise(root):
    copy = root / "Val_Folder" / "img" / "sub-S2_a.png"
    copy.unlink()
    save(copy.with_suffix(".tif"), cv2.cvtColor(image(2), cv2.COLOR_GRAY2BGR))
    report = check(root)
    assert found(report) == [("duplicate across splits", "error")]
    message = str(report.problems[0])
    assert "sub-S1_b.png" in message
    assert "sub-S2_a.tif (val)" in message
    assert "keep it in one split" in message


def test_odd_images_are_warnings(root):
    save(root / "Train_Folder" / "img" / "covid_3.png", image(3) // 16)
    (problem,) = check(root).problems
    assert (problem.kind, problem.severity) == ("odd image", "warning")
    assert "covid_3.png: hardly a value of this 8-bit image" in str(problem)


def test_an_image_twice_in_one_split(root):
    save(root / "Train_Folder" / "img" / "covid_3.png", image(1))
    assert found(check(root)) == [("duplicate", "warning")]


def test_a_patient_in_two_splits(root):
    make_split(root, "Val", [("sub-S1_c", image(5), mask("left"), LEFT), ("sub-S2_a", image(4), mask("left"), LEFT)])
    report = check(root)
    assert found(report) == [("group across splits", "error")]
    assert "group sub-S1: has 2 images in train and 1 images in val; keep a patient" in str(report.problems[0])


@pytest.mark.parametrize(
    ("truth", "caption", "message"),
    [
        ("left", RIGHT, "the lesions are on the left of the image, the caption says right"),
        ("none", LEFT, "the mask is empty, the caption reports an infection"),
        ("right", NONE, "the mask shows a lesion, the caption says there is no infection"),
    ],
)
def test_a_caption_against_its_mask(root, truth, caption, message):
    make_split(root, "Val", [("sub-S2_a", image(4), mask(truth), caption)])
    report = check(root)
    assert found(report) == [("contradiction", "error")]
    assert message in str(report.problems[0])
    assert "mask_sub-S2_a.png" in report.problems[0].where


def test_a_caption_that_is_only_inexact_is_counted(root):
    make_split(
        root, "Val", [("sub-S2_a", image(4), mask("left"), LEFT.replace("lower", "upper").replace("one", "two"))]
    )
    report = check(root)
    assert report.problems == ()
    assert report.splits[1].agreement["number"] == 0.0
    assert report.splits[1].agreement["zones"] == 0.0
    assert report.splits[1].agreement["side"] == 1.0


def test_a_caption_that_is_read_in_part_is_named(root):
    make_split(root, "Val", [("sub-S2_a", image(4), mask("left"), LEFT.replace("lower left", "lower"))])
    report = check(root)
    assert found(report) == [("caption read in part", "warning")]
    assert "lower lung" in str(report.problems[0])


def test_a_caption_with_a_word_outside_of_the_grammar_is_named(root):
    make_split(root, "Val", [("sub-S2_a", image(4), mask("left"), LEFT.replace("lower left", "lower somewhere left"))])
    report = check(root)
    assert found(report) == [("caption not read", "warning")]
    assert "lower somewhere left" in str(report.problems[0])


def test_broken_files_are_listed_and_the_rest_is_checked(root):
    folder = root / "Train_Folder"
    whole = (folder / "img" / "sub-S1_a.png").read_bytes()
    (folder / "img" / "sub-S1_a.png").write_bytes(whole[:1000])
    save(folder / "labelcol" / "mask_sub-S1_b.png", cv2.GaussianBlur(mask("right"), (5, 5), 0))
    save(folder / "labelcol" / "mask_covid_3.png", mask("none")[:50])
    report = check(root)
    assert found(report) == [("size", "error"), ("image", "error"), ("mask", "error")]
    size, image, truth = report.problems
    assert image.where.endswith("sub-S1_a.png")
    assert "again" in image.remedy
    assert "not binary" in truth.what
    assert "data.mask=above_half" in truth.remedy
    assert "the mask is 128 x 50 pixels" in size.what
    assert "128 x 96" in size.what
    assert report.splits[0].sizes == {"128 x 96": 2}


def test_problems_of_names_and_tables_are_among_the_rest(root):
    (root / "Train_Folder" / "labelcol" / "mask_covid_3.png").unlink()
    (root / "Val_Folder" / "Val_text.xlsx").write_bytes(b"no table")
    kinds = {kind for kind, _ in found(check(root))}
    assert {"missing mask", "table"} <= kinds
    shutil.rmtree(root / "Val_Folder" / "img")
    (problem,) = [problem for problem in check(root).problems if problem.kind == "layout"]
    assert "there is no folder img" in str(problem)


def test_long_lists_are_cut(root):
    make_split(root, "Val", [(f"film{n}", image(10 + n), mask("left"), RIGHT) for n in range(6)])
    lines = check(root).lines(max_problems=2)
    assert "error: contradiction (6)" in lines
    assert "  and 4 more" in lines


def test_a_csv_is_checked_as_well(tmp_path):
    save(tmp_path / "a.png", image(1))
    save(tmp_path / "a_mask.png", mask("left"))
    (tmp_path / "films.csv").write_text(f'image,mask,text,odd\na.png,a_mask.png,"{RIGHT}",1\n', encoding="utf-8")
    report = check(tmp_path / "films.csv")
    assert found(report) == [("column", "warning"), ("contradiction", "error")]
    (split,) = report.splits
    assert (split.split, split.layout, split.num_cases) == ("all", "csv", 1)


def test_what_cannot_be_checked(tmp_path, root):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        check(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no modality 'mri'; expected film or ct"):
        check(root, modality="mri")


def test_nothing_is_written(root):
    before = sorted(path for path in root.rglob("*"))
    check(root)
    assert sorted(path for path in root.rglob("*")) == before


def test_known_errors_can_be_accepted(root, capsys):
    copied = sorted((root / "Train_Folder" / "img").iterdir())[0]
    shutil.copy(copied, root / "Val_Folder" / "img" / "copy_of_it.png")
    save(root / "Val_Folder" / "labelcol" / "mask_copy_of_it.png", mask("left"))
    found = check(root)
    kinds = sorted({problem.kind for problem in found.errors})
    assert kinds
    assert main(["check", str(root)]) == 1
    assert main(["check", str(root), *(word for kind in kinds for word in ("--accept", kind))]) == 0
    assert "0 errors" in capsys.readouterr().out
    accepted = found.accepting(kinds)
    assert not accepted.errors
    assert len(accepted.problems) == len(found.problems)
    assert main(["check", str(root), "--accept", "no such kind"]) == 2
    assert f"no error is of the kind 'no such kind'; there are {', '.join(kinds)}" in capsys.readouterr().err
