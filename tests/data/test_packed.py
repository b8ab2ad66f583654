"""Data sets as tar parts, and back."""

import io
import json
import tarfile

import cv2
import numpy as np
import pytest

from c2fvl.cli.main import main
from c2fvl.data.packed import pack, read_manifest, read_packed, unpack
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.data.scan import scan
from c2fvl.files import storage
from c2fvl.files.images import read_image, read_mask


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("packed") / "phantom"
    write_phantom(root, num_cases=20, seed=3, size=64)
    return root


@pytest.fixture
def parts(root, tmp_path):
    pack(root, tmp_path / "parts", max_bytes=60_000)
    return tmp_path / "parts"


@pytest.mark.parametrize("compress", [False, True])
def test_a_data_set_comes_back_whole(root, tmp_path, compress):
    manifest = pack(root, tmp_path / "parts", name="phantom", max_bytes=60_000, compress=compress)
    files = sorted(path.name for path in (tmp_path / "parts").iterdir())
    ending = ".tar.gz" if compress else ".tar"
    assert files == ["manifest.json", *(f"phantom-{number:06d}{ending}" for number in range(len(manifest["parts"])))]
    assert len(manifest["parts"]) > 2
    assert all(part["bytes"] <= 60_000 for part in manifest["parts"])
    assert manifest["max_error_grey_levels"] == 0
    table = unpack(tmp_path / "parts", tmp_path / "out", threads=2)
    for split in ("train", "val", "test"):
        before, after = scan(root, split), scan(table, split)
        assert manifest["num_cases"][split] == len(before) > 0
        for old, new in zip(before, after, strict=True):
            assert (new.id, new.report, new.group) == (old.id, old.report, old.group)
            assert new.image.read_bytes() == old.image.read_bytes()
            assert np.array_equal(read_mask(new.mask), read_mask(old.mask))


def test_jpeg_says_how_far_it_is_and_keeps_masks_exact(root, tmp_path):
    small = pack(root, tmp_path / "small", jpeg_quality=80, splits=["val"])
    large = pack(root, tmp_path / "large", splits=["val"])
    assert small["parts"][0]["bytes"] < large["parts"][0]["bytes"]
    after = scan(unpack(tmp_path / "small", tmp_path / "out"), "val")
    errors = []
    for old, new in zip(scan(root, "val"), after, strict=True):
        assert new.image.suffix == ".jpg"
        errors.append(np.abs(read_image(new.image) - read_image(old.image)) * 255)
        assert np.array_equal(read_mask(new.mask), read_mask(old.mask))
    assert np.mean(errors) == pytest.approx(small["mean_error_grey_levels"], abs=1e-3)
    assert np.max(errors) == pytest.approx(small["max_error_grey_levels"], abs=1e-3)


def test_the_layout_is_that_of_webdataset(parts):
    with tarfile.open(parts / "data-000000.tar") as archive:
        names = archive.getnames()
        about = json.loads(archive.extractfile("train-000000.json").read())
    assert names[:3] == ["train-000000.image.png", "train-000000.mask.png", "train-000000.json"]
    assert set(about) == {"id", "split", "group", "report", "orientation", "columns"}


def test_a_split_can_be_read_without_unpacking(root, parts):
    cases = list(read_packed(parts, "val"))
    assert [case.id for case in cases] == [case.id for case in scan(root, "val")]
    assert all(case.split == "val" and case.mask for case in cases)


def test_masks_of_other_values_keep_them(root, tmp_path):
    for value in (1, 7):
        folder = tmp_path / str(value)
        write_phantom(folder / "root", num_cases=6, size=64)
        path = next((folder / "root/Val_Folder/labelcol").iterdir())
        mask = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0).astype(np.uint8) * value
        cv2.imwrite(str(path), mask)
        pack(folder / "root", folder / "parts", splits=["val"])
        (case,) = [case for case in read_packed(folder / "parts") if f"mask_{case.id}.png" == path.name]
        assert np.array_equal(cv2.imdecode(np.frombuffer(case.mask, np.uint8), cv2.IMREAD_UNCHANGED), mask)


def test_a_missing_part_is_named_with_its_checksum(parts, tmp_path):
    expected = read_manifest(parts)["parts"][1]["sha256"]
    (parts / "data-000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=f"data-000001.tar is missing; copy the part with SHA-256 {expected}"):
        unpack(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_part_is_named_with_its_checksum(parts):
    path = parts / "data-000001.tar"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"data-000001.tar is damaged: .* expected .*; copy it again"):
        list(read_packed(parts))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": "other", "parts": []}', b"[1]"])
def test_no_manifest_or_another(parts, content):
    (parts / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json is no manifest of packed data"):
        list(read_packed(parts))


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", ""])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        about = {"id": name, "split": "train", "group": None, "report": "", "orientation": "image"}
        for file, data in (("train-0.image.png", b"x"), ("train-0.json", json.dumps(about).encode())):
            member = tarfile.TarInfo(file)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    data = buffer.getvalue()
    part = {"file": "data-000000.tar", "bytes": len(data), "sha256": storage.checksum(data)}
    (tmp_path / "data-000000.tar").write_bytes(data)
    manifest = {"format": "c2fvl-packed-1", "num_cases": {"train": 1}, "parts": [part]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="which is no file name"):
        unpack(tmp_path, tmp_path / "out")


def test_a_bad_quality_and_a_full_folder_are_refused(root, parts):
    with pytest.raises(ValueError, match="quality must be between 1 and 100, got 0"):
        pack(root, parts.parent / "other", jpeg_quality=0)
    with pytest.raises(FileExistsError):
        pack(root, parts)


def test_the_commands_pack_and_unpack(root, tmp_path, capsys):
    packed, out = str(tmp_path / "parts"), str(tmp_path / "out")
    assert main(["pack-data", str(root), packed, "--split", "val", "--jpeg-quality", "90", "--name", "few"]) == 0
    said = capsys.readouterr().out
    assert f"{packed}: {len(scan(root, 'val'))} cases in val; 1 parts" in said
    assert "of 255 grey levels on average" in said
    assert main(["unpack-data", packed, out]) == 0
    assert [case.id for case in scan(f"{out}/cases.csv", "val")] == [case.id for case in scan(root, "val")]
    assert main(["unpack-data", packed, out]) != 0
