"""Data sets as tar shards: what is written, what is read, and what is refused."""

import gzip
import io
import json
import os
import pickle
import tarfile

import cv2
import numpy as np
import pytest
from support.dicom import as_bytes, film

from c2fvl.cli.main import main
from c2fvl.data import shard_writer
from c2fvl.data.captions import write_captions
from c2fvl.data.check.check import check
from c2fvl.data.check.deep import DeepOptions
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.data.scan import find_splits, fingerprint, inspect, mask_fingerprint, scan
from c2fvl.data.shard_writer import cases_of, write_shards
from c2fvl.files import shards, storage
from c2fvl.files.images import read_image, read_mask, read_spacing
from c2fvl.files.partial import PREFIX, sole_user
from c2fvl.files.read_volume import read_volume
from c2fvl.inference.requests import collect
from c2fvl.inference.series_requests import is_volume
from c2fvl.inference.shard_requests import cases_or_images

FILM = as_bytes(film(np.arange(4096, dtype=np.uint16).reshape(64, 64)))
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards") / "phantom"
    write_phantom(root, num_cases=20, seed=3, size=64)
    return root


@pytest.fixture
def out(root, tmp_path):
    """Shards of the phantom: several of train, one of val and of test."""
    write_shards(cases_of(root), tmp_path / "out", size=40_000)
    return tmp_path / "out"


def all_of(cases):
    """Return everything that a case says, its files by their content."""
    return [
        (
            case.id, case.report, case.report and (case.report.text, case.report.unread), case.group, case.columns,
            case.modality, shards.read_bytes(case.image), case.mask and shards.read_bytes(case.mask),
        )
        for case in cases
    ]  # fmt: skip


def test_shards_are_read_like_the_folder(root, out):
    names = sorted(path.name for path in out.iterdir())
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["shards"]) > 3
    assert all(shard["bytes"] <= 40_000 for shard in manifest["shards"])
    assert {"train-000000.tar", "train-000000.index.json", "train-000001.tar", "val-000000.tar"} < set(names)
    assert find_splits(out) == find_splits(root) == SPLITS
    assert find_splits(f"{out}/{{train,val}}-*.tar") == ("train", "val")
    for split in SPLITS:
        before = scan(root, split)
        for given in (out, f"{out}/{{train,val,test}}-*.tar", f"{out}/*.tar"):
            after = scan(given, split)
            assert all_of(after) == all_of(before)
            assert fingerprint(after) == fingerprint(before)
            assert mask_fingerprint(after) == mask_fingerprint(before)
        assert np.array_equal(read_image(after[0].image), read_image(before[0].image))
        assert np.array_equal(read_mask(after[0].mask), read_mask(before[0].mask))
    assert pickle.loads(pickle.dumps(after)) == after, "worker processes are given the cases"
    assert [str(entry) for entry in check(out).problems] == [str(entry) for entry in check(root).problems]


def test_columns_groups_and_reports_of_a_csv_come_back(root, tmp_path):
    """Reports of a radiologist, without attributes, and none at all; names with dots and letters of other languages."""
    image = (root / "Train_Folder/img").glob("*.png")
    texts = [("Opacity at the left base; b/l effusions", "patient"), ("", ""), ("one infected area, lung", "image")]
    rows = ["image,text,orientation,group,split,scanner,modality"]
    for number, (text, orientation) in enumerate(texts):
        name = f"fïlm.{number}.v1 %2E.png"
        storage.write_bytes(tmp_path / "csv" / name, next(image).read_bytes())
        rows.append(f'{name},"{text}",{orientation},p{number},test,AB,{"ct" if number else "film"}')
    storage.write_text(tmp_path / "csv/cases.csv", "\n".join(rows))
    write_shards(cases_of(tmp_path / "csv/cases.csv"), tmp_path / "out")
    before, after = scan(tmp_path / "csv/cases.csv", "test"), scan(tmp_path / "out", "test")
    assert all_of(after) == all_of(before)
    assert before[0].report.text != texts[0][0], "the report was turned to the orientation of the image"
    assert fingerprint(after) == fingerprint(before)


def test_a_report_in_the_words_of_a_radiologist_is_turned(tmp_path):
    """Shards of another tool: the words mean the patient's left unless the JSON says otherwise."""
    words = "Bilateral opacities, more on the left"
    for given, expected in ((None, "right"), ("patient", "right"), ("image", "left")):
        about = {"id": "a", "split": "train", "report": words, "orientation": given}
        tar_of(tmp_path / "a.tar", ("a.image.png", b"x"), ("a.json", json.dumps(about).encode()))
        assert scan(tmp_path / "a.tar")[0].report.text == f"Bilateral opacities, more on the {expected}"


def test_cases_come_in_the_order_of_their_ids_whatever_shard_holds_them(tmp_path):
    for shard, name in (("0", "b"), ("1", "a")):
        about = json.dumps({"id": name, "split": "train"}).encode()
        tar_of(tmp_path / f"{shard}.tar", (f"{name}.image.png", b"x"), (f"{name}.json", about))
    assert [case.id for case in scan(tmp_path / "*.tar")] == ["a", "b"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_readers_of_webdataset_read_the_shards(root, out):
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(map(str, out.glob("train-*.tar")))
    found = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    before = scan(root, "train")
    assert [json.loads(sample["json"])["id"] for sample in found] == [case.id for case in before]
    for sample, case in zip(found, before, strict=True):
        assert sample["image.png"] == case.image.read_bytes()
        assert sample["mask.png"] == case.mask.read_bytes()
        assert json.loads(sample["json"])["report"] == str(case.report.text)


def test_the_layout_is_that_of_webdataset(root, out):
    with tarfile.open(out / "train-000000.tar") as archive:
        names = archive.getnames()
        about = json.loads(archive.extractfile(names[2]).read())
    key = scan(root, "train")[0].id
    assert names[:3] == [f"{key}.image.png", f"{key}.mask.png", f"{key}.json"]
    assert (about["id"], about["split"], about["orientation"]) == (key, "train", "image")


def test_shards_without_index_and_manifest_are_read_from_their_headers(root, out, tmp_path):
    for path in out.glob("*.tar"):
        storage.write_bytes(tmp_path / "bare" / path.name, path.read_bytes())
    for split in SPLITS:
        assert all_of(scan(tmp_path / "bare/*.tar", split)) == all_of(scan(root, split))
    with pytest.raises(FileNotFoundError, match=r"bare/\*.tar"):
        scan(tmp_path / "bare")


def test_jpeg_says_how_far_it_is_and_keeps_masks_exact(root, tmp_path):
    cases = cases_of(root, splits=["val"])
    small = write_shards(cases, tmp_path / "small", jpeg_quality=80)
    large = write_shards(cases, tmp_path / "large")
    assert small["shards"][0]["bytes"] < large["shards"][0]["bytes"]
    assert (large["mean_error_grey_levels"], large["max_error_grey_levels"]) == (0, 0)
    errors = []
    for old, new in zip(scan(root, "val"), scan(tmp_path / "small", "val"), strict=True):
        assert new.image.suffix == ".jpg"
        errors.append(np.abs(read_image(new.image) - read_image(old.image)) * 255)
        assert np.array_equal(read_mask(new.mask), read_mask(old.mask))
    assert np.mean(errors) == pytest.approx(small["mean_error_grey_levels"], abs=1e-3)
    assert np.max(errors) == pytest.approx(small["max_error_grey_levels"], abs=1e-3)


@pytest.mark.parametrize("value", [1, 7])
def test_masks_of_other_values_keep_them_as_the_smallest_png(root, tmp_path, value):
    mask = (np.arange(64 * 64).reshape(64, 64) % 3 == 0).astype(np.uint8) * value
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert np.array_equal(
        cv2.imdecode(np.frombuffer(shard_writer._smallest_mask(tmp_path / "mask.png"), np.uint8), -1), mask
    )


# Interrupted, repeated and competing writers


@pytest.mark.parametrize("last", ["train-000001.tar", "train-000001.index.json", "test-000000.tar"])
def test_a_call_that_was_stopped_goes_on_and_ends_with_the_same_bytes(root, out, tmp_path, monkeypatch, last):
    """The power goes when a file is about to take its name: what is there is whole, and is not written again."""
    real = storage._replace

    def stop(source, target):
        if target.name == last:
            raise KeyboardInterrupt
        real(source, target)

    other = tmp_path / "other"
    monkeypatch.setattr(storage, "_replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_shards(cases_of(root), other, size=40_000)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"writing the shards was interrupted; run `c2fvl shards` again"):
        scan(other)
    there = {path: path.stat().st_ino for path in other.glob("*.tar")}
    write_shards(cases_of(root), other, size=40_000)
    again = {path: path.stat().st_ino for path in there if shards.index_path(path).stat().st_ino and path.name != last}
    if last.endswith(".tar"):
        assert all(there[path] == number for path, number in again.items())
    assert {path.name: path.read_bytes() for path in other.iterdir()} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }


def test_a_complete_folder_stays_as_it_is_and_a_missing_shard_is_written_again(root, out):
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in out.glob("*.tar")}
    lost = out / "train-000001.tar"
    lost.unlink()
    write_shards(cases_of(root), out, size=40_000)
    assert {path: path.read_bytes() for path in before} == {path: data for path, (_, data) in before.items()}
    assert all(path.stat().st_ino == number for path, (number, _) in before.items() if path != lost)


def test_a_full_disk_loses_nothing(root, out, tmp_path, monkeypatch):
    other, real, count = tmp_path / "other", os.fsync, 0

    def full(descriptor):
        nonlocal count
        count += 1
        if count > 12:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot be written: No space left on device; free some space"):
        write_shards(cases_of(root), other, size=40_000)
    monkeypatch.undo()
    assert list(other.glob("*.tar")) and not list(other.glob(f"{PREFIX}*"))
    write_shards(cases_of(root), other, size=40_000)
    assert sorted(path.read_bytes() for path in other.iterdir()) == sorted(path.read_bytes() for path in out.iterdir())


def test_two_writers_of_one_folder(root, out):
    with sole_user(out), pytest.raises(ValueError, match="another process writes shards there"):
        write_shards(cases_of(root), out, size=40_000)


def test_other_settings_other_cases_and_other_files_are_refused(root, out, tmp_path):
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match="written with other settings"):
        write_shards(cases_of(root), out, size=70_000)
    with pytest.raises(ValueError, match=r"train-000000.tar was written of other cases"):
        write_shards(cases_of(root)[1:], out, size=40_000)
    with pytest.raises(ValueError, match=r"holds more cases than there are now|is no shard of these cases"):
        write_shards(cases_of(root)[:-1], out, size=40_000)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    storage.write_text(tmp_path / "full/notes.txt", "mine")
    with pytest.raises(FileExistsError, match="holds files that are no shards"):
        write_shards(cases_of(root), tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_a_mask_that_was_changed_since_is_not_passed_over(root, tmp_path):
    import shutil

    copy = shutil.copytree(root, tmp_path / "copy")
    write_shards(cases_of(copy), tmp_path / "out")
    mask = next((copy / "Train_Folder/labelcol").iterdir())
    later = (tmp_path / "out/train-000000.index.json").stat().st_mtime_ns + 10**9
    os.utime(mask, ns=(later, later))
    with pytest.raises(ValueError, match="was changed since"):
        write_shards(cases_of(copy), tmp_path / "out")


@pytest.mark.parametrize("quality", [0, 101])
def test_a_bad_quality_is_refused(root, tmp_path, quality):
    with pytest.raises(ValueError, match=f"quality must be between 1 and 100, got {quality}"):
        write_shards(cases_of(root), tmp_path / "out", jpeg_quality=quality)
    assert not (tmp_path / "out").exists()


# Shards that do not fit


def problems_of(given, split="train"):
    return "\n".join(map(str, inspect(given, split).problems))


def change(path, position=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)


def test_a_shard_cut_short_a_missing_one_and_a_wrong_index(out):
    (out / "train-000000.tar").write_bytes((out / "train-000000.tar").read_bytes()[:-2000])
    (out / "train-000001.tar").unlink()
    change(out / "train-000002.index.json")
    for given in (out, out / "train-*.tar"):
        said = problems_of(given)
        assert "train-000000.tar: the shard has" in said and "it is cut short, or the index is of another shard" in said
        assert "train-000001.tar: the shard is missing; copy it there" in said
        assert "train-000002.index.json: the index does not fit its checksum in manifest.json" in said
        with pytest.raises(ValueError, match=r"\d problems with the data"):
            scan(given)


def test_a_changed_byte_is_found_when_the_image_is_read_and_by_check(root, out):
    case = scan(out, "val")[0]
    member = shards.find_member(case.image)
    change(out / "val-000000.tar", member.offset + member.size // 2)
    with pytest.raises(ValueError, match=r"does not fit its checksum, val-000000.tar is damaged; copy the shard"):
        read_image(scan(out, "val")[0].image)
    assert any(entry.kind == "checksum" and "val-000000.tar" in entry.where for entry in check(out).problems)


def test_an_index_of_another_set_gives_no_wrong_image(root, out, tmp_path):
    """Without a manifest, with an index of a shard of the same name and size: nothing of it fits."""
    write_phantom(tmp_path / "phantom", num_cases=20, seed=4, size=64)
    write_shards(cases_of(tmp_path / "phantom"), tmp_path / "others", size=40_000)
    index = json.loads((tmp_path / "others/train-000000.index.json").read_text())
    index["bytes"] = (out / "train-000000.tar").stat().st_size
    (out / "manifest.json").unlink()
    for text, match in (
        (json.dumps(index | {"shard": "val-000000.tar"}), "this is no index of train-000000.tar"),
        ("{", "this is no index of train-000000.tar"),
        ('{"format": "c2fvl-shard-1"}', "this is no index of train-000000.tar"),
    ):
        (out / "train-000000.index.json").write_text(text)
        assert match in problems_of(out / "train-000000.tar")
    (out / "train-000000.index.json").write_text(json.dumps(index))
    for case in scan(out / "train-000000.tar"):
        with pytest.raises(ValueError, match=r"does not fit its checksum|cut short"):
            read_mask(case.mask)


def tar_of(path, *members):
    """Write a tar of (name, content) or ready members."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            name, data = member if isinstance(member, tuple) else (member, b"")
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def link(name, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


ABOUT = json.dumps({"id": "a", "split": "train"}).encode()
BAD_MEMBERS = {
    "above": [("../a.image.png", b"x"), ("a.json", ABOUT)],
    "absolute": [("/a.image.png", b"x"), ("a.json", ABOUT)],
    "folder": [("x/a.image.png", b"x"), ("a.json", ABOUT)],
    "symbolic link": [link("a.image.png", tarfile.SYMTYPE), ("a.json", ABOUT)],
    "hard link": [link("a.image.png", tarfile.LNKTYPE), ("a.json", ABOUT)],
    "device": [link("a.image.png", tarfile.CHRTYPE), ("a.json", ABOUT)],
    "pipe": [link("a.image.png", tarfile.FIFOTYPE), ("a.json", ABOUT)],
    "sparse": [link("a.image.png", tarfile.GNUTYPE_SPARSE), ("a.json", ABOUT)],
    "other file": [("a.image.png", b"x"), ("a.json", ABOUT), ("readme", b"x")],
}


@pytest.mark.parametrize("kind", BAD_MEMBERS)
def test_members_that_are_no_plain_files_of_cases_are_refused(tmp_path, kind):
    said = problems_of(tar_of(tmp_path / "a.tar", *BAD_MEMBERS[kind]))
    assert "a.tar: the shard cannot be read: " in said
    assert not os.path.lexists(tmp_path / "a.image.png")


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([("a.image.png", b"x")], "the case 'a' has image, but no json"),
        ([("a.mask.png", b"x"), ("a.json", ABOUT)], "the case 'a' has json, mask, but no image"),
        ([("a.image.png", b"x"), ("a.image.jpg", b"x"), ("a.json", ABOUT)], "'a.image.jpg' is there twice"),
        ([("a.image.png", b"x"), ("a.json", b" " * 2**21)], "'a.json' has 2097152 bytes, more than"),
        ([("a.image.png", b"x"), ("a.json", b"[1]")], "'a.json' is no JSON object"),
        ([("a.image.png", b"x"), ("a.json", b'{"split": "train"}')], "cannot be read from its JSON (KeyError('id'))"),
        ([("a.image.png", b"x"), ("a.json", b'{"id": "../../a", "split": "train"}')], "is no file name"),
        ([("a.image.png", b"x"), ("a.json", b'{"id": "a", "split": "val"}')], "no case is of split train"),
        ([], "no case is of split train; the shards hold no case"),
    ],
)  # fmt: skip
def test_a_member_without_its_twin_and_json_that_says_nothing(tmp_path, members, match):
    assert match in problems_of(tar_of(tmp_path / "a.tar", *members))


def test_a_tar_without_index_that_is_cut_short(root, out, tmp_path):
    whole = (out / "train-000000.tar").read_bytes()
    for end in (100, 512, 5000, len(whole) - 1024):
        (tmp_path / "a.tar").write_bytes(whole[:end])
        assert "the shard cannot be read: " in problems_of(tmp_path / "a.tar"), end


def test_a_huge_image_is_not_read(tmp_path, monkeypatch):
    tar_of(tmp_path / "a.tar", ("a.image.png", b"x" * 4096), ("a.json", ABOUT))
    (case,) = scan(tmp_path / "a.tar")
    from c2fvl.files.images import read_image_bytes

    monkeypatch.setattr("c2fvl.files.images._SPARE_BYTES", 0)
    with pytest.raises(ValueError, match="4096 bytes are more than an image of 100 pixels needs"):
        read_image_bytes(case.image, max_pixels=100)


def test_one_case_in_two_shards(root, out):
    (out / "manifest.json").unlink()
    storage.write_bytes(out / "train-000009.tar", (out / "train-000000.tar").read_bytes())
    said = problems_of(out / "train-*.tar")
    assert f"the case {scan(root)[0].id} is in train-000000.tar already" in said


def test_a_pattern_that_matches_nothing_and_other_captions(root, out):
    with pytest.raises(FileNotFoundError, match=r"best-\*.tar: no shard has this name"):
        scan(f"{out}/{{train,best}}-*.tar")
    with pytest.raises(ValueError, match="problem with the data"):  # a folder that a pattern finds has its manifest too
        (out / "val-000000.tar").unlink()
        scan(out.parent / "o*" / "*.tar", "val")
    with pytest.raises(ValueError, match="the shards hold those of the data set's own tables; leave out the table"):
        scan(out, "train", table="Other.xlsx")
    with pytest.raises(FileNotFoundError, match="holds no such file"):
        read_image(out / "train-000000.tar" / "nobody.image.png")


@pytest.mark.parametrize("content", [b"{", b'{"format": "c2fvl-shards-1"}',
                                     b'{"format": "c2fvl-shards-1", "shards": [{"file": "../a.tar"}]}'])  # fmt: skip
def test_a_manifest_that_cannot_be_read(out, content):
    (out / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json cannot be read as the manifest of shards"):
        scan(out)


# Images without masks, and what is predicted


def test_images_that_are_to_be_predicted_keep_their_bytes_and_get_names(root, tmp_path):
    source = tmp_path / "archive/p10"
    storage.write_bytes(source / "1.2.840.7", FILM)
    storage.write_bytes(source / "b.png", next((root / "Test_Folder/img").iterdir()).read_bytes())
    write_shards(cases_or_images(tmp_path / "archive"), tmp_path / "out")
    requests = collect([str(tmp_path / "out/all-*.tar")])
    assert [request.name for request in requests] == ["p10__1.2.840", "p10__b"]
    assert [request.image.suffix for request in requests] == [".dcm", ".png"]
    assert shards.read_bytes(requests[0].image) == FILM
    assert find_splits(tmp_path / "out") == ("all",)
    assert len(scan(tmp_path / "out", "all")) == 2


def test_requests_from_shards_have_the_reports_and_ids_of_their_cases(root, out):
    found = collect([f"{out}/test-*.tar"])
    before = scan(root, "test")
    assert [(each.name, each.report, each.orientation) for each in found] == [
        (case.id, case.report.text, "image") for case in before
    ]
    assert [each.name for each in collect([str(out)])] == [case.id for split in SPLITS for case in scan(root, split)]


def test_the_spacing_in_a_file_is_read_in_a_shard_too(tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "a.png", dpi=(181, 181))
    tar_of(tmp_path / "a.tar", ("a.image.png", (tmp_path / "a.png").read_bytes()), ("a.json", ABOUT))
    assert read_spacing(tmp_path / "a.tar/a.image.png") == read_spacing(tmp_path / "a.png") is not None


def test_a_volume_in_a_shard_is_that_of_its_file(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.arange(12 * 10 * 8, dtype=np.int16).reshape(12, 10, 8)
    data = gzip.compress(nibabel.Nifti1Image(values, np.diag([-0.7, -0.8, 2.0, 1.0])).to_bytes())
    storage.write_bytes(tmp_path / "ct/thorax.nii.gz", data)
    write_shards(cases_or_images(tmp_path / "ct"), tmp_path / "out")
    (request,) = collect([str(tmp_path / "out")])
    assert request.name == "thorax" and is_volume(request)
    assert np.array_equal(read_volume(request.image).values, read_volume(tmp_path / "ct/thorax.nii.gz").values)


def test_new_splits_and_captions_are_made_of_the_data_set_not_of_shards(out, tmp_path):
    """A csv names files, so one of members of shards would lead nowhere."""
    with pytest.raises(ValueError, match="lies in a shard, and the splits of shards are those they were written with"):
        check(out, deep=DeepOptions(splits=tmp_path / "new.csv"))
    with pytest.raises(ValueError, match="these are shards, whose captions are written with them"):
        write_captions(out, tmp_path / "captions.csv")
    assert list(tmp_path.glob("*.csv")) == []


def test_the_command(root, tmp_path, capsys):
    arguments = ["shards", str(root), str(tmp_path / "out"), "--split", "val", "--jpeg-quality", "90", "--size", "1MB"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: {len(scan(root, 'val'))} cases in val; 1 shards" in said
    assert "of 255 grey levels on average" in said
    assert main(arguments) == 0
    assert main([*arguments[:-1], "2MB"]) == 2
    with pytest.raises(SystemExit):
        main([*arguments[:-1], "many"])
    assert "must be a size such as 256MB or 1GB, got many" in capsys.readouterr().err
