"""`prepare`: small downloads in the form of the public ones, as folders and archives, sound and faulty."""

import json
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from c2fvl.cli.main import main
from c2fvl.data.prepare import tables as tables_module
from c2fvl.data.prepare.prepare import RECORD, prepare
from c2fvl.data.scan import find_splits, scan
from c2fvl.files import archive as archive_module
from c2fvl.files import storage
from c2fvl.files.images import read_mask
from c2fvl.files.tables import read_cells, write_cells
from c2fvl.reports.from_mask import report_from_mask
from c2fvl.reports.report import ATTRIBUTES

SENTENCE = "Unilateral pulmonary infection, one infected area, lower left lung."
TRAIN = [f"sub-S{number}_ses-E1_run-{run}_dx" for number in range(10, 15) for run in (1, 2)]
TEST = ["covid_1", "covid_2"]
SLICES = [f"Jun_coronacases_case{case}_{number}" for case in range(1, 41) for number in (7, 8)]


def png(seed, *, mask=False, size=(24, 32)):
    """Return a PNG of noise, or of a mask with one lesion at the lower left."""
    pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    if mask:
        pixels = np.zeros(size, np.uint8)
        pixels[14 : 18 + seed % 4, 3:9] = 255
    return cv2.imencode(".png", pixels)[1].tobytes()


def qata(names=TRAIN, test=TEST, top="QaTa-COV19/QaTa-COV19-v2"):
    """Return name → bytes of the files of QaTa-COV19 as Kaggle has them."""
    files = {}
    for folder, chosen, first in (("Train Set", names, 0), ("Test Set", test, 100)):
        for number, name in enumerate(chosen, start=first):
            files[f"{top}/{folder}/Images/{name}.png"] = png(number)
            files[f"{top}/{folder}/Ground-truths/mask_{name}.png"] = png(number, mask=True)
    return files


def mosmed(names=SLICES):
    """Return name → bytes of the files of MosMedData+ as Kaggle has them."""
    return {
        f"{folder}/{name}.png": png(number, mask=folder == "masks")
        for number, name in enumerate(names)
        for folder in ("frames", "masks")
    }


def monuseg():
    """Return name → bytes of the files of MoNuSeg as the repository of LViT has them."""
    files = {}
    for number, folder in enumerate(("Train_Folder", "Val_Folder", "Test_Folder")):
        name = f"TCGA-A{number}-567{number}-01Z-00-DX1"
        files[f"LViT-main/datasets/MoNuSeg/{folder}/img/{name}.png"] = png(number)
        files[f"LViT-main/datasets/MoNuSeg/{folder}/labelcol/{name}.png"] = png(number, mask=True)
    return files


def put(folder, files):
    """Write files into a folder and return it."""
    for name, data in files.items():
        storage.write_bytes(folder / name, data, durable=False)
    return folder


def packed(path, files, separator="/"):
    """Write a zip archive and return its path."""
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in files.items():
            opened.writestr(name.replace("/", separator), data)
    return path


def table(path, names, *columns):
    """Write a table of names, with a column of captions unless `columns` are given, and return its path."""
    header = ["Image", *(columns or ["Description"])]
    write_cells(path, [header[: 1 if columns == ("",) else None], *([name, SENTENCE][: len(header)] for name in names)])
    return path


def partition(folder):
    """Write the partition of the authors: eight images of train, two of val, named as their masks without ending."""
    for name, some in (("Train_ID", TRAIN[:8]), ("Val_ID", TRAIN[8:])):
        write_cells(folder / f"{name}.xlsx", [["Image"], *([f"mask_{each}"] for each in some)])
    return [folder / "Train_ID.xlsx", folder / "Val_ID.xlsx"]


def authors_tables(folder):
    """Write the tables of LViT for QaTa-COV19 under the names that they were given out with."""
    return [
        *partition(folder),
        table(folder / "Train_text_for_Covid19.xlsx", [f"mask_{name}" for name in TRAIN]),
        table(folder / "Test_text_for_Covid19.xlsx", TEST),
    ]


def ids(root, split):
    return [case.id for case in scan(root, split)]


def is_untouched(folder):
    """Tell whether a folder holds no data set and nothing hidden."""
    return not (folder / "out").exists() and not [entry for entry in folder.iterdir() if entry.name.startswith(".c2")]


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_qata_with_the_tables_of_its_authors(tmp_path, form):
    download = put(tmp_path / "qata", qata()) if form == "folder" else packed(tmp_path / "archive.zip", qata())
    found = prepare("qata", download, tmp_path / "out", tables=authors_tables(tmp_path))
    assert ids(tmp_path / "out", "train") == sorted(TRAIN[:8])
    assert ids(tmp_path / "out", "val") == sorted(TRAIN[8:])
    assert ids(tmp_path / "out", "test") == TEST
    for split in find_splits(tmp_path / "out"):
        for case in scan(tmp_path / "out", split):
            top = f"QaTa-COV19/QaTa-COV19-v2/{'Test' if split == 'test' else 'Train'} Set"
            assert case.image.read_bytes() == qata()[f"{top}/Images/{case.id}.png"]
            assert case.mask.read_bytes() == qata()[f"{top}/Ground-truths/mask_{case.id}.png"]
            assert case.report.text == SENTENCE
    assert found.counts == {"train": 8, "val": 2, "test": 2}
    assert found.differences[0] == "train: 8 images, published 5716"
    assert not found.left_over
    assert not found.check.errors
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["images"] == found.counts
    assert record["published"] == {"train": 5716, "val": 1429, "test": 2113}


def test_files_are_hard_links_unless_copies_are_asked_for(tmp_path):
    download = put(tmp_path / "qata", qata())
    for name, copy in (("links", False), ("copies", True)):
        found = prepare("qata", download, tmp_path / name, tables=partition(tmp_path), copy=copy)
        assert found.files == ("24 copies" if copy else "24 hard links to the download")
        new = tmp_path / name / "Train_Folder" / "img" / f"{TRAIN[0]}.png"
        old = download / "QaTa-COV19/QaTa-COV19-v2/Train Set/Images" / new.name
        assert new.samefile(old) is not copy
        assert new.read_bytes() == old.read_bytes()


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    download = put(tmp_path / "qata", qata())

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert prepare("qata", download, tmp_path / "out", tables=partition(tmp_path)).files == "24 copies"
    assert ids(tmp_path / "out", "val") == sorted(TRAIN[8:])


def test_names_of_other_systems_and_more_folders(tmp_path):
    files = {name.replace("Images", "images").replace("Train Set", "train_set"): data for name, data in qata().items()}
    files = {f"archive/archive/{name}": data for name, data in files.items()}
    upper = next(iter(files))
    files[upper.replace(".png", ".PNG").replace("sub-S10", "SUB-s10")] = files.pop(upper)
    files["__MACOSX/archive/QaTa-COV19/QaTa-COV19-v2/train_set/images/._covid_1.png"] = b"junk"
    files["archive/.DS_Store"] = files["archive/QaTa-COV19/Thumbs.db"] = b"junk"
    files["archive/QaTa-COV19/QaTa-COV19-v1/Images/covid_9.png"] = png(9)
    files["archive/readme.txt"] = b"text"
    download = packed(tmp_path / "archive.zip", files, "\\")
    found = prepare("qata", download, tmp_path / "out", tables=authors_tables(tmp_path))
    assert ids(tmp_path / "out", "train") == sorted(["SUB-s10_ses-E1_run-1_dx", *TRAIN[1:8]])
    assert all(case.report is not None for case in scan(tmp_path / "out", "train"))
    assert list(found.left_over) == ["1 images in archive/QaTa-COV19/QaTa-COV19-v1/Images"]


@pytest.mark.parametrize("ending", [" 1.xlsx", " 1(in).csv"])
def test_mosmed_with_the_tables_of_its_authors(tmp_path, ending):
    download = packed(tmp_path / "archive.zip", mosmed())
    for split, names in (("Train", SLICES[:60]), ("Val", SLICES[60:78]), ("Test", SLICES[78:])):
        path = tmp_path / "tables" / f"{split}_text_MosMedData+{ending}"
        table(path, [f"{name}.png" for name in names], *(["text"] if ending.endswith("csv") else []))
    found = prepare("mosmed", download, tmp_path / "out", tables=[tmp_path / "tables"])
    assert found.counts == {"train": 60, "val": 18, "test": 2}
    (case, _) = scan(tmp_path / "out", "test")
    assert (case.id, case.mask.name, case.modality) == (SLICES[78], f"{SLICES[78]}.png", "ct")
    assert case.report.text == SENTENCE


def test_the_tables_inside_a_download_are_taken(tmp_path):
    files = monuseg()
    for name in list(files):
        if "/labelcol/" in name:
            folder = Path(name).parents[1]
            split = folder.name.removesuffix("_Folder")
            table(tmp_path / "one.xlsx", [Path(name).name])
            files[f"{folder}/{split}_text.xlsx"] = (tmp_path / "one.xlsx").read_bytes()
    found = prepare("monuseg", packed(tmp_path / "LViT-main.zip", files), tmp_path / "out")
    assert found.counts == {"train": 1, "val": 1, "test": 1}
    assert scan(tmp_path / "out", "test")[0].report.text == SENTENCE


def test_attributes_stay_attributes(tmp_path):
    download = put(tmp_path / "qata", qata())
    for split, names in (("Train", TRAIN[:8]), ("Val", TRAIN[8:])):
        rows = [[f"mask_{name}.png", 1, 2, 1, 0, 0, 0, 0, 1] for name in names]
        write_cells(tmp_path / f"{split}_text.xlsx", [["Image", *ATTRIBUTES], *rows])
    tables = [tmp_path / "Train_text.xlsx", tmp_path / "Val_text.xlsx"]
    prepare("qata", download, tmp_path / "out", tables=tables)
    report = scan(tmp_path / "out", "val")[0].report
    assert (report.side, report.number, report.zones) == ("bilateral", 2, {"lupper", "rlower"})
    assert all(case.report is None for case in scan(tmp_path / "out", "test"))


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_without_tables_no_patient_is_in_two_splits(tmp_path, form):
    download = put(tmp_path / "mos", mosmed()) if form == "folder" else packed(tmp_path / "archive.zip", mosmed())
    found = prepare("mosmed", download, tmp_path / "out")
    cases = {split: scan(tmp_path / "out", split) for split in ("train", "val", "test")}
    groups = {split: {case.group for case in some} for split, some in cases.items()}
    assert {split: len(some) for split, some in cases.items()} == found.counts
    assert sum(found.counts.values()) == len(SLICES)
    assert abs(found.counts["train"] - 64) < 6
    assert not groups["train"] & groups["val"] | groups["train"] & groups["test"] | groups["val"] & groups["test"]
    assert "not the published ones" in "\n".join(found.lines())
    again = prepare("mosmed", download, tmp_path / "again")
    assert [ids(again.out, split) for split in cases] == [[case.id for case in some] for some in cases.values()]
    assert prepare("mosmed", download, tmp_path / "third", seed=1).counts == found.counts


def test_new_splits_need_nothing_of_the_extras(tmp_path, monkeypatch):
    for name in ("scipy", "torch", "matplotlib", "jinja2"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    assert prepare("mosmed", put(tmp_path / "mos", mosmed()), tmp_path / "out").is_divided


def test_by_patient_takes_only_captions_from_the_tables(tmp_path):
    download = put(tmp_path / "qata", qata())
    prepare("qata", download, tmp_path / "out", tables=authors_tables(tmp_path), by_patient=True)
    train, val = (scan(tmp_path / "out", split) for split in ("train", "val"))
    assert {case.group for case in train}.isdisjoint(case.group for case in val)
    assert len(train) == 8
    assert all(case.report.text == SENTENCE for case in train + val)
    assert ids(tmp_path / "out", "test") == TEST


def test_captions_of_the_masks_say_what_they_are(tmp_path):
    download = put(tmp_path / "qata", qata())
    found = prepare("qata", download, tmp_path / "out", tables=partition(tmp_path), captions_from_masks=True)
    for split in ("train", "val", "test"):
        for case in scan(tmp_path / "out", split):
            assert case.report == report_from_mask(read_mask(case.mask), modality="film")
        name = split.capitalize()
        rows = read_cells(tmp_path / "out" / f"{name}_Folder" / f"{name}_text.xlsx")
        assert {row[1][2] for row in rows[1:]} == {"made from the mask by c2fvl"}
    assert "made from the masks" in found.captions
    with pytest.raises(ValueError, match="MoNuSeg shows nuclei"):
        prepare("monuseg", tmp_path, tmp_path / "other", captions_from_masks=True)


def test_what_fits_nothing_is_named(tmp_path):
    download = put(tmp_path / "qata", qata())
    tables = partition(tmp_path)
    write_cells(tables[1], [["Image"], [f"mask_{TRAIN[8]}"], ["mask_sub-S99"]])
    text = table(tmp_path / "Train_Val_text.xlsx", [f"mask_{name}.png" for name in TRAIN[:7]] + ["mask_nobody.png"])
    found = prepare("qata", download, tmp_path / "out", tables=[*tables, text])
    assert [words.replace("QaTa-COV19/QaTa-COV19-v2/", "") for words in found.left_over] == [
        f"1 images are in no table: Train Set/Images/{TRAIN[9]}.png",
        "1 of 2 rows of Val_ID.xlsx name no image: mask_sub-s99",
        "1 of 8 rows of Train_Val_text.xlsx name no image: mask_nobody",
        f"1 images of train have no caption in any table: {TRAIN[7]}",
    ]
    assert [case.report is None for case in scan(tmp_path / "out", "train")].count(True) == 1
    assert ids(tmp_path / "out", "val") == [TRAIN[8]]


def test_a_dry_run_writes_nothing(tmp_path):
    download = put(tmp_path / "qata", qata())
    tables = authors_tables(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = prepare("qata", download, tmp_path / "out", tables=tables, dry_run=True)
    assert found.counts == {"train": 8, "val": 2, "test": 2}
    assert "dry run" in found.lines()[-1]
    assert prepare("qata", download, tmp_path / "out", dry_run=True).counts == {}
    assert sorted(tmp_path.rglob("*")) == before


def without(files, part):
    return {name: data for name, data in files.items() if part not in name}


def changed(files, part, data):
    return {name: data if part in name else old for name, old in files.items()}


FIRST = f"mask_{TRAIN[0]}.png"
FAULTY = {
    "no mask": (without(qata(), FIRST), rf"not complete: 1 problems.*{TRAIN[0]}.png has no mask mask_{TRAIN[0]}"),
    "no image": (without(qata(), f"Images/{TRAIN[3]}"), rf"mask_{TRAIN[3]}.png has no image"),
    "size": (changed(qata(), FIRST, png(0, mask=True, size=(24, 30))), rf"{FIRST}: the mask is 30 x 24 .*32 x 24"),
    "no picture": (changed(qata(), FIRST, b"<html>"), rf"Train Set/Ground-truths/{FIRST}: "),
    "cut": (changed(qata(), f"Images/{TRAIN[0]}", png(0)[:-30]), rf"Train Set/Images/{TRAIN[0]}.png: "),
    "grey mask": (changed(qata(), FIRST, png(0)), rf"{FIRST}: the mask is not binary"),
    "twice": (qata() | {f"QaTa-COV19/QaTa-COV19-v2/Train Set/Images/{TRAIN[0].upper()}.jpg": png(0)}, "the same name"),
    "two places": (qata() | qata(top="copy"), "in 2 places: QaTa-COV19/QaTa-COV19-v2, copy"),
    "two train sets": (
        qata() | {f"QaTa-COV19/QaTa-COV19-v2/Train_Folder/img/{TRAIN[0]}.png": png(0)},
        "can be in Train Set and in Train_Folder",
    ),
    "other set": (mosmed(), "does not look like QaTa-COV19: expected QaTa-COV19-v2/Train Set.*found frames, masks"),
    "other names": (qata(["x1", "x2"], ["y1"]), "no image is named as in QaTa-COV19, the first is"),
    "other set with such folders": (
        {name.replace("sub-S", "Jun_").replace("covid_", "Jun_"): data for name, data in qata().items()},
        "no image is named as in QaTa-COV19",
    ),
    "empty": ({"readme.txt": b""}, "does not look like QaTa-COV19.*found readme.txt"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_download_is_refused_and_nothing_is_written(tmp_path, fault, form):
    files, message = FAULTY[fault]
    download = put(tmp_path / "qata", files) if form == "folder" else packed(tmp_path / "archive.zip", files)
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        prepare("qata", download, tmp_path / "out", tables=partition(tmp_path))
    assert str(download) in str(error.value)
    assert ".c2fvl-partial" not in str(error.value)
    assert is_untouched(tmp_path)


def link_member(opened, name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    opened.writestr(info, "/etc/passwd")


@pytest.mark.parametrize("name", ["../../evil.png", "/evil.png", "C:/evil.png", "a/../../evil.png", "link"])
def test_an_archive_that_leads_out_of_itself_is_refused(tmp_path, name):
    path = packed(tmp_path / "archive.zip", qata())
    with zipfile.ZipFile(path, "a") as opened:
        if name == "link":
            link_member(opened, "QaTa-COV19/link.png")
        else:
            opened.writestr(name, png(0))
    with pytest.raises(ValueError, match="is a link, not a file" if name == "link" else "lies outside of it"):
        prepare("qata", path, tmp_path / "out")
    assert is_untouched(tmp_path)


def damaged(tmp_path, fault):
    path = packed(tmp_path / "archive.zip", qata())
    data = path.read_bytes()
    if fault == "cut":
        data = data[: len(data) // 2]
    elif fault == "flipped":
        inside = data.index(png(0))
        data = data[: inside + 50] + bytes([data[inside + 50] ^ 1]) + data[inside + 51 :]
    elif fault == "encrypted":
        entries = data.split(b"PK\x01\x02")
        data = b"PK\x01\x02".join([entries[0], *(entry[:4] + b"\x01" + entry[5:] for entry in entries[1:])])
    elif fault == "no archive":
        data = b"text"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("fault", "message"),
    [("cut", "no readable zip"), ("flipped", r"\.png is damaged.*CRC"), ("encrypted", r"\.png is encrypted"),
     ("no archive", "no readable zip")],
)  # fmt: skip
def test_a_damaged_archive_is_refused(tmp_path, fault, message):
    with pytest.raises(ValueError, match=message):
        prepare("qata", damaged(tmp_path, fault), tmp_path / "out", tables=partition(tmp_path))
    assert is_untouched(tmp_path)


@pytest.mark.parametrize("limit", ["MAX_MEMBER_BYTES", "MAX_BYTES", "MAX_MEMBERS"])
def test_an_archive_beyond_the_limits_is_refused(tmp_path, monkeypatch, limit):
    path = packed(tmp_path / "archive.zip", qata())
    monkeypatch.setattr(archive_module, limit, 10)
    with pytest.raises(ValueError, match="at most 10 are read"):
        prepare("qata", path, tmp_path / "out")
    assert is_untouched(tmp_path)


def test_a_full_disk_is_known_before_anything_is_unpacked(tmp_path, monkeypatch):
    path = packed(tmp_path / "archive.zip", qata())
    free = type("Usage", (), {"free": 17 * 2**20})
    monkeypatch.setattr("c2fvl.data.prepare.write.shutil.disk_usage", lambda _: free)
    prepare("qata", path, tmp_path / "fits", tables=partition(tmp_path))
    free.free = 16 * 2**20
    big = packed(tmp_path / "big.zip", changed(qata(), f"Images/{TRAIN[0]}", bytes(17 * 2**20)))
    with pytest.raises(ValueError, match="17 MiB are needed and 16 MiB are free"):
        prepare("qata", big, tmp_path / "out", tables=partition(tmp_path))
    assert is_untouched(tmp_path)


def wrong_tables(tmp_path, fault):
    train, val = partition(tmp_path)
    if fault == "contradiction":
        write_cells(val, [["Image"], *([f"mask_{name}"] for name in TRAIN[7:])])
    elif fault == "other data":
        return [train, val, table(tmp_path / "Val_text.xlsx", SLICES[:3])]
    elif fault == "train alone":
        return [train]
    elif fault == "two captions":
        first = table(tmp_path / "Train_text.xlsx", TRAIN[:8])
        second = tmp_path / "Train_text_revised.xlsx"
        write_cells(second, [["Image", "Description"], [TRAIN[2], "Something else."]])
        return [train, val, first, second]
    elif fault == "two forms":
        first = table(tmp_path / "Train_text.xlsx", TRAIN[:4])
        second = tmp_path / "Train_attributes.xlsx"
        write_cells(second, [["Image", *ATTRIBUTES], [TRAIN[5], 1, 2, 1, 0, 0, 0, 0, 1]])
        return [train, val, first, second]
    elif fault == "bad attribute":
        write_cells(tmp_path / "Val_text.xlsx", [["Image", *ATTRIBUTES], [TRAIN[8], 1, 2, 7, 0, 0, 0, 0, 1]])
        return [train, val, tmp_path / "Val_text.xlsx"]
    elif fault == "row twice":
        rows = [[TRAIN[8], SENTENCE], [f"{TRAIN[8]}.png", "No pulmonary infection, zero infected areas."]]
        write_cells(tmp_path / "Val_text.xlsx", [["Image", "Description"], *rows])
        return [train, val, tmp_path / "Val_text.xlsx"]
    elif fault == "path":
        write_cells(val, [["Image"], ["../mask_x.png"], ["C:\\mask_y.png"]])
    elif fault == "columns":
        write_cells(val, [["Patient"], ["anna"]])
    elif fault == "missing":
        return [train, tmp_path / "no.xlsx"]
    elif fault == "empty folder":
        storage.make_folder(tmp_path / "nothing")
        return [tmp_path / "nothing"]
    return [train, val]


@pytest.mark.parametrize(
    ("fault", "message"),
    [("other data", "Val_text.xlsx: none of its 3 rows names an image of the download"),
     ("contradiction", f"1 images are in the tables of two splits.*{TRAIN[7]}: Train_ID.xlsx and Val_ID.xlsx"),
     ("train alone", "name the train images, 8 of 10, but none names those of val; give the table of val too"),
     ("two captions", f"have different captions of {TRAIN[2]}; give only one"),
     ("two forms", "another table of train has Description; give only one form"),
     ("bad attribute", r"Val_text.xlsx: 1 rows are wrong.*row 2: .*is 7, expected 0 or 1"),
     ("row twice", "row 3: .* is there twice, with different captions"),
     ("path", "2 rows are wrong.*leads out of its folder"),
     ("columns", "no column Image"), ("missing", "no such table"), ("empty folder", "no table in this folder")],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused(tmp_path, fault, message):
    download = put(tmp_path / "qata", qata())
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}"):
        prepare("qata", download, tmp_path / "out", tables=wrong_tables(tmp_path, fault))
    assert is_untouched(tmp_path)


def test_a_table_of_a_split_that_was_not_downloaded_is_left_over(tmp_path):
    download = put(tmp_path / "qata", without(qata(), "Test Set"))
    found = prepare("qata", download, tmp_path / "out", tables=authors_tables(tmp_path))
    assert found.counts == {"train": 8, "val": 2}
    assert list(found.left_over) == ["2 of 2 rows of Test_text_for_Covid19.xlsx name no image: covid_1, covid_2"]


def test_a_damaged_table_inside_an_archive_is_named_as_it_is_there(tmp_path):
    path = packed(tmp_path / "archive.zip", qata() | {"tables/Train_text.csv": b"Image,Description\nf\xe9vrier,x\n"})
    with pytest.raises(ValueError, match=r"archive.zip/tables/Train_text.csv: not a csv in UTF-8"):
        prepare("qata", path, tmp_path / "out")
    assert is_untouched(tmp_path)


@pytest.mark.parametrize("fault", ["size", "no picture", "cut", "grey mask"])
@pytest.mark.parametrize("more", [{}, {"by_patient": True}, {"captions_from_masks": True}])
def test_faulty_files_are_left_out_and_named_where_that_is_asked_for(tmp_path, fault, more):
    download = packed(tmp_path / "archive.zip", FAULTY[fault][0])
    found = prepare("qata", download, tmp_path / "out", tables=partition(tmp_path), skip_faulty=True, **more)
    assert sum(found.counts.values()) == 11
    everything = [name for split in ("train", "val", "test") for name in ids(tmp_path / "out", split)]
    assert sorted(everything) == sorted([*TRAIN[1:], *TEST])
    assert found.left_over[0].startswith(f"QaTa-COV19/QaTa-COV19-v2/Train Set/Images/{TRAIN[0]}.png: left out, ")
    assert ".c2fvl-partial" not in "".join(found.left_over)
    assert not found.check.errors


def test_a_row_that_repeats_another_is_no_fault(tmp_path):
    tables = partition(tmp_path)
    write_cells(tables[1], [["Image"], *([f"mask_{name}"] for name in [*TRAIN[8:], TRAIN[8]])])
    found = prepare("qata", put(tmp_path / "qata", qata()), tmp_path / "out", tables=tables)
    assert found.counts == {"train": 8, "val": 2, "test": 2}
    assert list(found.left_over) == ["1 rows of Val_ID.xlsx repeat another row"]


def test_a_subset_alone_names_the_folder_to_give(tmp_path):
    download = put(tmp_path / "qata", qata())
    with pytest.raises(ValueError, match=r"Train Set does not look like .*give the folder above it"):
        prepare("qata", download / "QaTa-COV19/QaTa-COV19-v2/Train Set", tmp_path / "out")


def test_a_name_in_both_subsets_needs_a_table_with_its_split(tmp_path):
    download = put(tmp_path / "qata", qata(names=TRAIN, test=[TRAIN[0]]))
    both = table(tmp_path / "captions.xlsx", [TRAIN[0]])
    with pytest.raises(ValueError, match="give the table a name with its split"):
        prepare("qata", download, tmp_path / "out", tables=[*partition(tmp_path), both])
    of_test = table(tmp_path / "Test_text.xlsx", [TRAIN[0]])
    prepare("qata", download, tmp_path / "out", tables=[*partition(tmp_path), of_test])
    assert [case.report.text for case in scan(tmp_path / "out", "test")] == [SENTENCE]
    assert all(case.report is None for case in scan(tmp_path / "out", "train"))


def test_train_alone_that_names_every_image_divides_nothing(tmp_path):
    download = put(tmp_path / "qata", qata())
    found = prepare("qata", download, tmp_path / "out", tables=[table(tmp_path / "Train_text.xlsx", TRAIN)])
    assert found.is_divided
    assert found.counts == {"train": 8, "val": 2, "test": 2}


def test_test_images_may_have_no_masks_and_others_may_not(tmp_path):
    files = without(qata(), "Test Set/Ground-truths")
    prepare("qata", put(tmp_path / "qata", files), tmp_path / "out", tables=authors_tables(tmp_path))
    assert [(case.mask, case.report.text) for case in scan(tmp_path / "out", "test")] == [(None, SENTENCE)] * 2
    with pytest.raises(ValueError, match="10 problems"):
        prepare("qata", put(tmp_path / "other", without(qata(), "Train Set/Ground-truths")), tmp_path / "no")


def test_what_is_there_is_never_replaced(tmp_path):
    download = put(tmp_path / "qata", qata())
    put(tmp_path / "out", {"mine.txt": b"mine"})
    for out in (tmp_path / "out", tmp_path / "out" / "mine.txt"):
        with pytest.raises(FileExistsError, match="exists already and nothing is overwritten"):
            prepare("qata", download, out, tables=partition(tmp_path))
    assert (tmp_path / "out" / "mine.txt").read_bytes() == b"mine"
    with pytest.raises(FileNotFoundError, match="no such folder or archive"):
        prepare("qata", tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(ValueError, match="archives of this kind are not read; unpack it"):
        prepare("qata", put(tmp_path, {"data.tar.gz": b"x"}) / "data.tar.gz", tmp_path / "new")


@pytest.mark.parametrize("stage", ["unpacking", "linking", "checking"])
def test_a_stop_on_the_way_leaves_nothing(tmp_path, stage):
    class Stopping:
        def stage(self, text):
            if text == stage:
                raise KeyboardInterrupt

        def advance(self, done, total):
            pass

    download = packed(tmp_path / "archive.zip", qata())
    with pytest.raises(KeyboardInterrupt):
        prepare("qata", download, tmp_path / "out", tables=partition(tmp_path), progress=Stopping())
    assert is_untouched(tmp_path)


def test_the_names_of_the_tables_say_the_split():
    for name, splits in (
        ("Train_ID", ("train",)), ("Val_text_MosMedData+ 1(in)", ("val",)), ("Train_Val_text", ("train", "val")),
        ("Train_text_for_Covid19", ("train",)), ("all_val_captions", ("val",)), ("prompt", ()), ("Testament", ()),
    ):  # fmt: skip
        assert tables_module.splits_in(name) == splits


def test_the_command(tmp_path, capsys):
    download = packed(tmp_path / "archive.zip", qata())
    tables = [str(path) for path in authors_tables(tmp_path)]
    arguments = ["prepare", "qata", str(download), str(tmp_path / "out"), "--captions", *tables]
    assert main([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "QaTa-COV19: 12 images (8 in train, 2 in val, 2 in test); splits of the folders and tables" in said
    assert "other than published: val: 2 images, published 1429" in said
    assert "0 errors" in said
    assert main(["check", str(tmp_path / "out")]) == 0
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
