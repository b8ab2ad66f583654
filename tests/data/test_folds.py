"""Folds: no patient and no image in two, the same by the same seed, clear errors for what is no table of folds."""

import shutil
from collections import Counter

import pytest

from c2fvl.data.folds import make_folds, read_folds, split_by_fold, write_folds
from c2fvl.data.scan import scan


@pytest.fixture(scope="module")
def cases(phantom_root):
    return scan(phantom_root, "train,val")


def test_several_splits_are_scanned_together(phantom_root, cases):
    parts = [case.id for split in ("train", "val") for case in scan(phantom_root, split)]
    assert [case.id for case in cases] == sorted(parts)
    with pytest.raises(ValueError, match="two of the splits"):
        scan(phantom_root, "train,train")


def test_folds_hold_every_case_once_and_no_patient_twice(cases, tmp_path):
    folds = make_folds(cases, 4, seed=3)
    assert folds.keys() == {case.id for case in cases}
    sizes = Counter(folds.values())
    assert set(sizes) == {1, 2, 3, 4}
    assert max(sizes.values()) - min(sizes.values()) <= len(cases) // 4
    for fold in range(1, 5):
        others, held_out = split_by_fold(cases, folds, fold)
        assert not {case.group for case in others} & {case.group for case in held_out}
        assert len(others) + len(held_out) == len(cases)
    assert make_folds(cases, 4, seed=3) == folds
    assert make_folds(cases, 4, seed=4) != folds
    write_folds(tmp_path / "folds.csv", folds)
    assert read_folds(tmp_path / "folds.csv") == folds


def test_a_copy_of_an_image_without_a_patient_is_in_the_fold_of_its_original(phantom_root, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(phantom_root, folder)
    rows = ["image,mask,text,group,split"]
    images = sorted((folder / "Train_Folder" / "img").iterdir())[:12]
    for number, image in enumerate(images):
        mask = folder / "Train_Folder" / "labelcol" / image.name
        mask = mask if mask.is_file() else next((folder / "Train_Folder" / "labelcol").glob(f"*{image.stem}*"))
        for copy in ("a", "b"):
            shutil.copy(image, folder / f"{copy}{number}.png")
            shutil.copy(mask, folder / f"m{copy}{number}.png")
            rows.append(f"{copy}{number}.png,m{copy}{number}.png,,,train")
    (folder / "cases.csv").write_text("\n".join(rows), encoding="utf-8")
    folds = make_folds(scan(folder / "cases.csv", "train"), 3)
    assert all(folds[f"a{number}"] == folds[f"b{number}"] for number in range(len(images)))
    assert len(set(folds.values())) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,part\na,1\n", "expected the columns id and fold"),
        ("id,fold\na,0\n", "line 2: the fold is '0'"),
        ("id,fold\na,x\n", "line 2: the fold is 'x'"),
        ("id,fold\na,1\nb,2\na,2\n", "a is there twice"),
        ("id,fold\na,1\nb,3\n", "without a gap"),
        ("id,fold\na,1\n", "at least two"),
    ],
)
def test_what_is_no_table_of_folds_is_refused(tmp_path, text, words):
    (tmp_path / "folds.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_folds(tmp_path / "folds.csv")


def test_cases_without_a_fold_and_empty_folds_are_named(cases):
    folds = make_folds(cases, 2)
    with pytest.raises(ValueError, match="fold 5 has 0"):
        split_by_fold(cases, folds, 5)
    del folds[cases[0].id]
    with pytest.raises(ValueError, match=f"1 of {len(cases)} cases have no fold: {cases[0].id}"):
        split_by_fold(cases, folds, 1)
    with pytest.raises(ValueError, match="expected at least 2"):
        make_folds(cases, 1)
    with pytest.raises(ValueError, match="leave nothing"):
        make_folds(cases[:2], 5)
