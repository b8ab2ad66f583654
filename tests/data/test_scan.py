"""Folders, csv files and caption tables become cases by name, and whatever does not fit is named."""

import logging
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from c2fvl.data.file_names import group_from_name
from c2fvl.data.scan import find_splits, fingerprint, inspect, mask_fingerprint, scan

CAPTION = "Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."
ONE_SIDED = "Unilateral pulmonary infection, one infected area, lower left lung."
REAL = Path(__file__).parents[3] / "shared" / "data"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not looked at")


def write_xlsx(path, rows, header=("Image", "Description")):
    book = openpyxl.Workbook()
    for row in (header, *rows):
        book.active.append(row)
    book.save(path)


def make_folder(root, split="Train", names=("b", "a", "c"), mask="mask_{}.png", image="{}.png", captions=True):
    folder = root / f"{split}_Folder"
    for name in names:
        touch(folder / "img" / image.format(name))
        touch(folder / "labelcol" / mask.format(name))
    if captions:
        write_xlsx(folder / f"{split}_text.xlsx", [(mask.format(name), CAPTION) for name in names])
    return folder


def problems_of(root, split="train", **options):
    return [problem.kind for problem in inspect(root, split, **options).problems]


# ---- what fits


@pytest.mark.parametrize(
    ("image", "mask", "rule"),
    [
        ("{}.png", "mask_{}.png", "mask_NAME"),  # QaTa-COV19
        ("{}.png", "{}.png", "NAME"),  # MosMedData+
        ("{}.tif", "{}.png", "NAME"),  # MoNuSeg
        ("{}.JPG", "{}_mask.png", "NAME_mask"),
    ],
)
@pytest.mark.parametrize("keyed_by", ["mask", "image", "bare mask", "bare image"])
def test_images_masks_and_captions_meet_by_name(tmp_path, image, mask, rule, keyed_by):
    names = ["b", "a", "sub-S7_ses-E1_x"]
    folder = make_folder(tmp_path, names=names, image=image, mask=mask, captions=False)
    key = mask if "mask" in keyed_by else image
    if "bare" in keyed_by:
        key = Path(key).stem
    # the order of the rows differs from that of the files
    write_xlsx(
        folder / "Train_text.xlsx", [(key.format(name), ONE_SIDED if name == "a" else CAPTION) for name in names]
    )
    cases = scan(tmp_path)
    assert [case.id for case in cases] == ["a", "b", "sub-S7_ses-E1_x"]
    assert [case.image.name for case in cases] == [image.format(case.id) for case in cases]
    assert [case.mask.name for case in cases] == [mask.format(case.id) for case in cases]
    assert [case.report.side for case in cases] == ["unilateral", "bilateral", "bilateral"]
    assert [case.group for case in cases] == [None, None, "sub-S7"]
    assert inspect(tmp_path).pairing == rule


def test_names_that_look_like_masks_are_paired_by_the_rule_of_the_whole_folder(tmp_path):
    make_folder(tmp_path, names=["a", "mask_a", "b"], mask="mask_{}.png")
    assert {case.id: case.mask.name for case in scan(tmp_path)} == {
        "a": "mask_a.png",
        "mask_a": "mask_mask_a.png",
        "b": "mask_b.png",
    }


def test_splits_and_hidden_files(tmp_path):
    for split in ("Val", "Train"):
        make_folder(tmp_path, split)
    touch(tmp_path / "Val_Folder" / "img" / ".DS_Store")
    assert find_splits(tmp_path) == ("train", "val")
    assert len(scan(tmp_path, "Val")) == 3


def test_captions_may_be_absent_as_a_whole(tmp_path):
    make_folder(tmp_path, captions=False)
    assert [case.report for case in scan(tmp_path)] == [None] * 3


def test_the_test_split_may_lack_masks(tmp_path):
    folder = make_folder(tmp_path, "Test")
    shutil.rmtree(folder / "labelcol")
    cases = scan(tmp_path, "test")
    assert [(case.mask, case.report.number) for case in cases] == [(None, 2)] * 3


def test_the_train_split_may_not(tmp_path):
    shutil.rmtree(make_folder(tmp_path) / "labelcol")
    with pytest.raises(ValueError, match=r"Train_Folder: has no folder labelcol; put the masks there"):
        scan(tmp_path)


def test_another_table_by_name_pattern_or_path(tmp_path):
    folder = make_folder(tmp_path)
    rows = [(f"mask_{name}.png", 0, 1, 0, 0, 1, 0, 0, 0) for name in "abc"]
    header = ("Image", "bilateral", "number", "lupper", "lmiddle", "llower", "rupper", "rmiddle", "rlower")
    write_xlsx(folder / "Train_attributes.xlsx", rows, header)
    shutil.copy(folder / "Train_attributes.xlsx", tmp_path / "elsewhere.xlsx")
    for table in ("{split}_attributes.xlsx", "Train_attributes.xlsx", tmp_path / "elsewhere.xlsx", "elsewhere.xlsx"):
        assert [case.report.zones for case in scan(tmp_path, table=table)] == [{"llower"}] * 3
    with pytest.raises(FileNotFoundError, match=r"Train_nothing\.xlsx.*Train_attributes\.xlsx"):
        scan(tmp_path, table="{split}_nothing.xlsx")


@pytest.mark.parametrize("place", [".", "Train_Folder"])
def test_one_table_for_train_and_val(tmp_path, place):
    make_folder(tmp_path, names=["a", "b"], captions=False)
    make_folder(tmp_path, "Val", names=["c"], captions=False)
    rows = [(f"mask_{name}.png", CAPTION) for name in "cab"]
    write_xlsx(tmp_path / "Train_Val_text.xlsx", rows)
    assert [len(scan(tmp_path, split)) for split in ("train", "val")] == [2, 1]
    write_xlsx(tmp_path / "Train_Val_text.xlsx", [*rows, ("mask_d.png", CAPTION)])
    with pytest.raises(ValueError, match=r"Train_Val_text\.xlsx, row 5: a caption for 'mask_d\.png'"):
        scan(tmp_path, "val")


def test_free_text_is_kept(tmp_path):
    folder = make_folder(tmp_path, captions=False)
    sentence = "The nuclei density in the upper right is high."
    write_xlsx(folder / "Train_text.xlsx", [(f"mask_{name}.png", sentence) for name in "abc"])
    assert [case.report.text for case in scan(tmp_path)] == [sentence] * 3


def test_an_empty_caption_is_a_warning(tmp_path, caplog):
    folder = make_folder(tmp_path, captions=False)
    write_xlsx(folder / "Train_text.xlsx", [("mask_a.png", CAPTION), ("mask_b.png", None), ("mask_c.png", CAPTION)])
    with caplog.at_level(logging.WARNING, "c2fvl"):
        cases = scan(tmp_path)
    assert [case.report is None for case in cases] == [False, True, False]
    assert "row 3" in caplog.text
    assert "'mask_b.png' is empty" in caplog.text


def test_patients_from_a_table(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "Train_patients.csv").write_text("file,patient\na.png,p1\nmask_b.png,p2\n", encoding="utf-8")
    found = inspect(tmp_path)
    assert [case.group for case in found.cases] == ["p1", "p2", None]
    assert [(problem.kind, problem.severity) for problem in found.problems] == [("group", "warning")]
    (tmp_path / "Train_patients.csv").write_text("name,who\na.png,p1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected the columns file and patient, found name, who"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("mask_sub-S11228_ses-E19964_run-1_bp-chest_vp-ap_dx.png", "sub-S11228"),
        ("SUB-s11228_ses-e19964_run-1_bp-chest_vp-ap_dx.PNG", "sub-S11228"),
        ("Mask_Sub-S11228_ses-E19964_run-1_bp-chest_vp-ap_dx.png", "sub-S11228"),
        ("covid_12.png", None),
        ("TCGA-2Z-A9J9-01A-01-TS1.tif", "TCGA-2Z-A9J9"),
        ("tcga-2z-a9j9-01a-01-ts1.tif", "TCGA-2Z-A9J9"),
        ("Jun_coronacases_case10_100.png", "Jun_coronacases_case10"),
        ("Jun_radiopaedia_10_85902_1_case11_5.png", "Jun_radiopaedia_10"),
        ("Jun_radiopaedia_10_85902_3_case12_5.png", "Jun_radiopaedia_10"),
        ("Morozov_study_0255_11.png", "Morozov_study_0255"),
        ("morozov_STUDY_0255_11.png", "Morozov_study_0255"),
        ("bjorke_1.png", None),
        ("film.png", None),
    ],
)
def test_groups_from_names(name, group):
    assert group_from_name(name) == group


# ---- what does not fit


def test_a_missing_root_and_a_root_one_folder_up(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: neither a folder nor a csv file exists there"):
        scan(tmp_path / "nowhere")
    make_folder(tmp_path / "QaTa-COV19")
    with pytest.raises(FileNotFoundError, match=r"no Train_Folder here, but in .*QaTa-COV19; give that folder"):
        scan(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no Test_Folder.*found the folders \['Train_Folder'\]"):
        scan(tmp_path / "QaTa-COV19", "test")
    with pytest.raises(ValueError, match="no split 'validation'; expected train, val"):
        scan(tmp_path / "QaTa-COV19", "validation")
    with pytest.raises(ValueError, match="all is for a csv"):
        scan(tmp_path / "QaTa-COV19", "all")


def test_a_missing_mask_and_a_missing_image(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "labelcol" / "mask_b.png").unlink()
    touch(folder / "labelcol" / "mask_d.png")
    with pytest.raises(ValueError) as error:
        scan(tmp_path)
    message = str(error.value)
    assert re.search(
        r"b\.png: has no mask: there is no mask_b in .*labelcol; add the mask or remove the image", message
    )
    assert re.search(r"mask_d\.png: has no image in .*img .*mask_NAME.*; add the image or remove the mask", message)


def test_masks_that_no_rule_pairs(tmp_path):
    make_folder(tmp_path, mask="truth-{}.png")
    with pytest.raises(
        ValueError, match=r"no rule matches any mask \(one image is a, one mask truth-a\); name all masks by one of"
    ):
        scan(tmp_path)


def test_masks_that_two_rules_pair_alike(tmp_path):
    folder = make_folder(tmp_path, names=["a"], mask="{}.png", captions=False)
    touch(folder / "labelcol" / "mask_a.png")
    with pytest.raises(ValueError, match=r"the rules mask_NAME and NAME match 1 files each"):
        scan(tmp_path)


@pytest.mark.parametrize("part", ["img", "labelcol"])
def test_an_empty_folder(tmp_path, part):
    folder = make_folder(tmp_path, captions=False)
    for path in (folder / part).iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=rf"{part}: holds no image; put the"):
        scan(tmp_path)


def test_a_split_without_img(tmp_path):
    shutil.rmtree(make_folder(tmp_path) / "img")
    with pytest.raises(FileNotFoundError, match=r"Train_Folder: there is no folder img"):
        scan(tmp_path)


def test_captions_and_files_that_miss_each_other(tmp_path):
    folder = make_folder(tmp_path, captions=False)
    rows = [("mask_a.png", CAPTION), ("mask_z.png", CAPTION), ("mask_b.png", CAPTION)]
    write_xlsx(folder / "Train_text.xlsx", rows)
    with pytest.raises(ValueError) as error:
        scan(tmp_path)
    message = str(error.value)
    assert re.search(r"c\.png: has no row in .*Train_text\.xlsx; add a row or remove the file", message)
    assert re.search(r"Train_text\.xlsx, row 3: a caption for 'mask_z\.png', which is not among the files", message)


def test_a_file_with_two_captions(tmp_path):
    folder = make_folder(tmp_path, names=["a"], captions=False)
    write_xlsx(folder / "Train_text.xlsx", [("mask_a.png", CAPTION), ("mask_a.png", ONE_SIDED)])
    with pytest.raises(ValueError, match=r"(?s)Train_text\.xlsx, row 3.*mask_a\.png.*row 2"):
        scan(tmp_path)


def test_a_file_with_a_caption_under_two_spellings(tmp_path):
    folder = make_folder(tmp_path, names=["a"], captions=False)
    write_xlsx(folder / "Train_text.xlsx", [("mask_a.png", CAPTION), ("mask_a", ONE_SIDED)])
    with pytest.raises(ValueError, match=r"row 3: 'mask_a' was named in row 2 already; keep one of the two rows"):
        scan(tmp_path)


def test_a_split_s_own_table_may_not_name_another_split_s_files(tmp_path):
    make_folder(tmp_path, "Val", names=["v"])
    folder = make_folder(tmp_path, captions=False)
    write_xlsx(folder / "Train_text.xlsx", [(f"mask_{name}.png", CAPTION) for name in "abcv"])
    with pytest.raises(ValueError, match=r"row 5: a caption for 'mask_v\.png', which is not among the files of train"):
        scan(tmp_path)


@pytest.mark.parametrize("name", ["../../secret.png", "..\\secret.png", "/etc/passwd", "sub/mask_a.png"])
def test_a_caption_for_a_name_outside_the_root(tmp_path, name):
    folder = make_folder(tmp_path, captions=False)
    write_xlsx(folder / "Train_text.xlsx", [(f"mask_{other}.png", CAPTION) for other in "abc"] + [(name, CAPTION)])
    with pytest.raises(ValueError, match=r"Train_text\.xlsx.*row 5.*outside"):
        scan(tmp_path)


def test_a_link_out_of_its_folder(tmp_path):
    folder = make_folder(tmp_path / "data")
    touch(tmp_path / "secret.png")
    (folder / "img" / "a.png").unlink()
    (folder / "img" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match=r"a\.png: is a link to .*secret\.png, outside its folder; copy the file"):
        scan(tmp_path / "data")


def test_a_folder_may_be_a_link(tmp_path):
    make_folder(tmp_path / "disk")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Train_Folder").symlink_to(tmp_path / "disk" / "Train_Folder")
    assert len(scan(tmp_path / "data")) == 3


def test_files_of_other_kinds(tmp_path):
    folder = make_folder(tmp_path)
    touch(folder / "img" / "notes.txt")
    assert problems_of(tmp_path) == ["file kind"]
    assert len(scan(tmp_path)) == 3
    touch(folder / "img" / "scan.nii.gz")
    with pytest.raises(ValueError, match=r"scan\.nii\.gz: \.nii\.gz is not read yet; export it as PNG"):
        scan(tmp_path)


def test_of_what_is_ignored_the_number_and_some_names_are_said(tmp_path, caplog):
    folder = make_folder(tmp_path)
    for name in ("e.txt", "f.txt", "g.txt", "h.txt"):
        touch(folder / "img" / name)
    with caplog.at_level(logging.WARNING):
        scan(tmp_path)
    (said,) = (record.getMessage() for record in caplog.records if "file kind" in record.getMessage())
    assert "e.txt" in said and "f.txt" in said and "g.txt" in said
    assert "So 3 more: " in said and said.endswith("and 1 more")


def test_two_files_of_one_name(tmp_path):
    folder = make_folder(tmp_path)
    touch(folder / "img" / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.png: has the same name as a\.jpg except for the ending; keep one"):
        scan(tmp_path)


@pytest.mark.parametrize("name", ["Train_text.XLSX", "train_text.xlsx", "TRAIN_TEXT.Xlsx"])
def test_a_table_is_found_whatever_the_case_of_its_letters(tmp_path, name):
    folder = make_folder(tmp_path)
    (folder / "Train_text.xlsx").rename(folder / name)
    result = inspect(tmp_path)
    assert result.table == folder / name
    assert all(case.report is not None for case in result.cases)


@pytest.mark.parametrize(
    "name",
    ["Train_text.xls", "Train_text.tsv", "Train_text.ods", "Train_texts.xlsx", "Train_text (1).xlsx", "captions.csv"],
)
@pytest.mark.parametrize("in_root", [False, True])
def test_a_table_that_may_hold_the_captions_is_not_passed_over(tmp_path, name, in_root):
    folder = make_folder(tmp_path)
    (folder / "Train_text.xlsx").rename((tmp_path if in_root else folder) / name)
    (problem,) = inspect(tmp_path).problems
    assert (problem.kind, problem.severity) == ("table", "error")
    assert f"there is no Train_text.xlsx, but {name}, which may hold the captions" in str(problem)


def test_tables_of_other_splits_and_other_things_are_no_captions(tmp_path):
    folder = make_folder(tmp_path, captions=False)
    for name in ("Val_text.xlsx", "train_patients.csv", "scores.csv", "~$Train_text.xlsx", "._Train_text.xlsx"):
        (tmp_path / name).write_text("")
    (folder / "patients.xls").write_text("")
    assert inspect(tmp_path).table is None
    assert not [problem for problem in inspect(tmp_path).problems if "captions" in str(problem)]


def test_a_table_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    folder = make_folder(tmp_path, captions=False)
    table = folder / "Train_text.csv"
    table.write_text("Image,Description\n")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (problem,) = inspect(tmp_path).problems
    assert str(problem) == f"{table}: the table cannot be read (Permission denied); check its permissions"


def test_two_tables(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "Train_text.csv").write_text("Image,Description\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Train_text\.xlsx and Train_text\.csv are both there; remove one"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Train_text.xlsx"),
        (b"PK\x03\x04 and then nothing", "Train_text.xlsx"),
    ],
)
def test_an_unreadable_table(tmp_path, content, message):
    folder = make_folder(tmp_path, captions=False)
    (folder / "Train_text.xlsx").write_bytes(content)
    found = inspect(tmp_path)
    assert [problem.kind for problem in found.errors] == ["table"]
    with pytest.raises(ValueError, match=message):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        pytest.param(("Image", "Description"), [], id="empty"),
        pytest.param(("File", "Words"), [("mask_a.png", CAPTION)], id="wrong columns"),
    ],
)
def test_a_table_that_serves_no_one(tmp_path, header, rows):
    folder = make_folder(tmp_path, captions=False)
    write_xlsx(folder / "Train_text.xlsx", rows, header)
    with pytest.raises(ValueError, match=r"Train_text\.xlsx"):
        scan(tmp_path)


def test_of_many_problems_the_first_are_shown(tmp_path):
    names = [f"film{number:03}" for number in range(40)]
    folder = make_folder(tmp_path, names=names)
    for name in names[5:]:
        (folder / "labelcol" / f"mask_{name}.png").unlink()
    with pytest.raises(ValueError) as error:
        scan(tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 12
    assert "problems with the data" in lines[0]
    assert lines[-1].startswith("and ")


# ---- a csv of one's own


def write_csv(folder, text):
    for name in ("one/film.png", "two/film.png", "three.jpg", "masks/m1.png", "masks/m2.png"):
        touch(folder / name)
    path = folder / "films.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("orientation", "left"), [("", "patient"), ("patient", "patient"), ("image", "image")])
def test_free_text_of_a_csv_means_the_patient_s_left_unless_it_is_said(tmp_path, orientation, left):
    rows = f'image,text,split,orientation\nthree.jpg,"Left basal opacity.",train,{orientation}\n'
    (case,) = scan(write_csv(tmp_path, rows))
    assert case.report.text == ("Right basal opacity." if left == "patient" else "Left basal opacity.")


def test_a_csv_of_ones_own(tmp_path):
    path = write_csv(
        tmp_path,
        "image,mask,text,group,split,frame\n"
        f'three.jpg,masks/m1.png,"{ONE_SIDED}",anna,train,patient\n'
        f'two/film.png,masks/m2.png,"{ONE_SIDED}",berta,val,\n'
        "one/film.png,,,,train,\n",
    )
    assert find_splits(path) == ("train", "val")
    first, second = scan(path)
    assert [first.id, second.id] == ["one__film", "three"]
    assert [first.mask, first.report, first.group] == [None, None, None]
    assert second.mask == tmp_path / "masks" / "m1.png"
    assert second.group == "anna"
    assert second.report.orientation == "image"
    assert second.report.zones == {"rlower"}  # the patient's left is the picture's right
    (other,) = scan(path, "val")
    assert other.report.zones == {"llower"}
    assert len(scan(path, "all")) == 3


def test_a_csv_of_images_alone(tmp_path):
    path = write_csv(tmp_path, "\ufeffImage\r\nthree.jpg\r\n\r\none/film.png\r\n")
    assert find_splits(path) == ("all",)
    assert [case.id for case in scan(path, "all")] == ["film", "three"]
    with pytest.raises(ValueError, match=r"no column split, so train is unknown; add it, or ask for the split all"):
        scan(path)


def test_a_csv_as_a_european_spreadsheet_writes_it(tmp_path):
    path = write_csv(tmp_path, f"image;mask;text\r\nthree.jpg;masks/m1.png;{ONE_SIDED}\r\n")
    (case,) = scan(path, "all")
    assert (case.mask.name, case.report.zones) == ("m1.png", {"llower"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"films\.csv: the table is empty; expected a row of column names"),
        ("image\n", r"films\.csv: holds no row; add one row per image"),
        ("film,mask\nthree.jpg,\n", r"no column image; found film, mask; expected"),
        ("image,image\nthree.jpg,three.jpg\n", r"give each column a name of its own"),
        (
            "image,text\nthree.jpg,left, lower\n",
            r"row 2: 3 cells, expected 2 \(image, text\); put text that holds a comma",
        ),
        ("image\nfour.jpg\n", r"row 2, column image: there is no file .*four\.jpg; correct the name"),
        ("image,mask\nthree.jpg,masks/m9.png\n", r"row 2, column mask: there is no file .*m9\.png"),
        ("image,mask\n,masks/m1.png\n", r"row 2, column image: is empty; name a file"),
        ("image\n../secret.png\n", r"row 2, column image: '\.\./secret\.png' lies outside the folder of the csv; copy"),
        ("image\n/etc/passwd\n", r"'/etc/passwd' lies outside"),
        ("image\nthree.jpg\n./three.jpg\n", r"row 3: the image './three\.jpg' was named in row 2 already; keep one"),
        ("image,split\nthree.jpg,training\n", r"row 2: the split is 'training'; write train, val or test"),
        ("image,frame\nthree.jpg,mirror\n", r"row 2, column orientation: the orientation is 'mirror'; write image"),
        ('image\n"three.jpg\n', r"line 2: not a readable csv"),
    ],
)
def test_a_bad_csv(tmp_path, text, message):
    touch(tmp_path / "secret.png")
    path = write_csv(tmp_path / "data", text)
    with pytest.raises(ValueError, match=message):
        scan(path, "all")


def test_a_csv_with_columns_that_are_not_used(tmp_path):
    path = write_csv(tmp_path, "image,maks\nthree.jpg,masks/m1.png\n")
    (problem,) = inspect(path, "all").problems
    assert problem.severity == "warning"
    assert "maks" in str(problem)


def test_other_wrong_roots(tmp_path):
    path = write_csv(tmp_path, "image\nthree.jpg\n")
    with pytest.raises(ValueError, match="leave out the table"):
        scan(path, "all", table="other.xlsx")
    with pytest.raises(ValueError, match="expected a folder that holds Train_Folder, or a csv"):
        scan(tmp_path / "three.jpg")
    (tmp_path / "latin.csv").write_bytes("image\nröntgen.png\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"not a csv in UTF-8.*save it as CSV UTF-8"):
        scan(tmp_path / "latin.csv", "all")


def test_neither_torch_nor_opencv_is_needed():
    code = "import sys, c2fvl.data.scan; sys.exit(any(name in sys.modules for name in ('torch', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- the real tables


def real_root(tmp_path, name):
    """Lay out empty files under the real names, with the real tables: scanning opens no picture."""
    source = REAL / name
    if not source.is_dir():
        pytest.skip("the real data are not beside the checkout")
    tables = {split: source / f"{split}_text.xlsx" for split in ("Train", "Val")}
    for split, table in tables.items():
        rows = openpyxl.load_workbook(table).active.iter_rows(min_row=2, max_col=1, values_only=True)
        folder = tmp_path / f"{split}_Folder"
        for part in ("img", "labelcol"):
            (folder / part).mkdir(parents=True)
        for (mask,) in rows:
            (folder / "img" / mask.removeprefix("mask_")).touch()
            (folder / "labelcol" / mask).touch()
        for path in source.glob(f"{split}_*.xlsx"):
            shutil.copy(path, folder / path.name)
    return tmp_path


@pytest.mark.real
def test_the_whole_of_qata_in_seconds(tmp_path):
    root = real_root(tmp_path, "qata-cov19")
    start = time.process_time()
    train, val = scan(root, "train"), scan(root, "val")
    assert time.process_time() - start < 20
    assert [len(train), len(val)] == [5716, 1429]
    assert len({case.group for case in train} - {None}) == 809
    assert len({case.group for case in val} - {None}) == 847
    revised = (
        inspect(root, "train", table="{split}_text_revised.xlsx").problems
        + inspect(root, "val", table="{split}_text_revised.xlsx").problems
    )
    assert [problem.kind for problem in revised] == ["empty caption"] * 6


@pytest.mark.real
def test_groups_from_names_are_the_patients_of_mosmeddata(tmp_path):
    folder = REAL / "mosmeddata-plus"
    if not folder.is_dir():
        pytest.skip("the real data are not beside the checkout")
    pairs = set()
    for table in folder.glob("*_patients.csv"):
        for line in table.read_text(encoding="utf-8").splitlines()[1:]:
            file, patient = line.split(",")
            pairs.add((group_from_name(file), patient))
    assert len({group for group, _ in pairs}) == len({patient for _, patient in pairs}) == len(pairs) == 15


def test_one_mask_for_two_images_is_an_error(tmp_path):
    from c2fvl.files.images import write_image, write_mask

    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    write_mask(tmp_path / "m.png", np.eye(8, dtype=np.uint8))
    (tmp_path / "set.csv").write_text("image,mask\na.png,m.png\nb.png,m.png\n")
    with pytest.raises(ValueError, match=r"row 3: the mask 'm\.png' was named in row 2 already"):
        scan(tmp_path / "set.csv", "all")


def test_all_wrong_rows_of_a_caption_table_are_listed_at_once(phantom_root, tmp_path):
    import shutil

    root = tmp_path / "set"
    shutil.copytree(phantom_root, root, ignore=shutil.ignore_patterns("*.xlsx"))
    names = sorted(path.name for path in (root / "Val_Folder" / "labelcol").iterdir())
    rows = ["Image,Description", "../../x.png,a", f"{names[0]},b", f"{names[0]},c", ",d"]
    (root / "Val_Folder" / "Val_text.csv").write_text("\n".join(rows) + "\n")
    found = [str(problem) for problem in inspect(root, "val").errors if problem.kind == "table"]
    assert len(found) == 3
    assert [re.search(r"row \d+", text)[0] for text in found] == ["row 2", "row 4", "row 5"]
    assert all(text.count("Val_text.csv") == 1 for text in found)


def test_the_modality_is_in_a_column_or_in_the_names_of_mosmeddata(tmp_path):
    touch(tmp_path / "Morozov_study_0255_1.png")
    rows = "image,modality\nthree.jpg,CT\none/film.png,\ntwo/film.png, film\n"
    cases = {case.id: case.modality for case in scan(write_csv(tmp_path, rows), "all")}
    assert cases == {"three": "ct", "one__film": "film", "two__film": "film"}
    (case,) = scan(write_csv(tmp_path, "image\nMorozov_study_0255_1.png\n"), "all")
    assert case.modality == "ct"
    with pytest.raises(ValueError, match=r"row 2, column modality: the modality is 'MR'; write film .* or ct"):
        scan(write_csv(tmp_path, "image,modality\nthree.jpg,MR\n"), "all")
    folder = tmp_path / "set" / "Test_Folder" / "img"
    for name in ("Morozov_study_0255_1.png", "a.png"):
        touch(folder / name)
    assert [case.modality for case in scan(tmp_path / "set", "test")] == ["ct", "film"]


def test_the_fingerprint_changes_with_images_reports_and_masks(tmp_path):
    """A resumed run and an evaluation that is used again ask it whether the data are the same."""
    folder = make_folder(tmp_path)
    before, masks = fingerprint(scan(tmp_path)), mask_fingerprint(scan(tmp_path))
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved / folder.name)
    assert fingerprint(scan(moved)) == before
    found = {before}
    write_xlsx(
        folder / "Train_text.xlsx", [(f"mask_{name}.png", ONE_SIDED if name == "a" else CAPTION) for name in "bac"]
    )
    found.add(fingerprint(scan(tmp_path)))
    assert mask_fingerprint(scan(tmp_path)) == masks
    (folder / "labelcol" / "mask_a.png").write_bytes(b"not looked aT")
    found.add(fingerprint(scan(tmp_path)))
    assert mask_fingerprint(scan(tmp_path)) != masks
    (folder / "img" / "a.png").write_bytes(b"another size")
    found.add(fingerprint(scan(tmp_path)))
    assert len(found) == 4
