"""The cache gives back what the files give, whatever happens to its folder, and never what they gave before."""

import dataclasses
import logging
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from c2fvl.config import DataConfig
from c2fvl.data.batches import collate
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.image_cache import ImageCache, StoredImage, as_grey
from c2fvl.data.scan import scan
from c2fvl.files import images as image_files

SIDE = 16
GREY_8 = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 256 / np.float32(255)).astype(np.float32)
LESION = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3 == 0).astype(np.uint8)


def settings(cache, **changes):
    return DataConfig(**{"image_size": 32, "text": "none", "image_cache": str(cache), **changes})


def entries(cache) -> list[Path]:
    return sorted(entry for entry in Path(cache).rglob("*") if entry.is_file())


def same(first, second) -> bool:
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


@pytest.mark.parametrize(
    ("image", "smallest"),
    [
        (GREY_8, 1),
        (np.stack([GREY_8, GREY_8[::-1], GREY_8.T], axis=2), 3),
        (np.divide(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 251, np.float32(65535)), 2),
        (np.random.default_rng(0).random((SIDE, SIDE), np.float32), 4),
        (np.random.default_rng(0).random((SIDE, SIDE, 3), np.float32), 12),
    ],
    ids=["8 bit", "8 bit colour", "16 bit", "resized", "resized colour"],
)
def test_images_come_back_to_the_bit(tmp_path, image, smallest):
    cache = ImageCache(tmp_path, "a way")
    cache.store("name", StoredImage(image.astype(np.float32), None, None))
    found = cache.load("name")
    assert found.image.dtype == np.float32
    assert np.array_equal(found.image, image) and found.mask is None and found.original_mask is None
    (file,) = entries(tmp_path)
    assert SIDE * SIDE * smallest <= file.stat().st_size < SIDE * SIDE * (smallest + 1)


@pytest.mark.parametrize(
    "original", [LESION, np.tile(LESION, (3, 2))[:41, :23], LESION * 7, np.zeros((5, 9), np.uint8)]
)
def test_masks_come_back_to_the_bit(tmp_path, original):
    cache = ImageCache(tmp_path, "a way")
    mask = LESION if original.max() <= 1 else LESION * 7
    cache.store("name", StoredImage(GREY_8, mask, original))
    found = cache.load("name")
    assert np.array_equal(found.mask, mask) and np.array_equal(found.original_mask, original)
    assert found.mask.dtype == found.original_mask.dtype == np.uint8


def test_grey_is_told_from_colour():
    colour = np.stack([GREY_8, GREY_8, GREY_8.T], axis=2)
    assert as_grey(np.repeat(GREY_8[:, :, None], 3, axis=2)).shape == (SIDE, SIDE)
    assert as_grey(colour) is colour


def test_items_are_the_same_with_and_without_a_cache_and_the_second_time(phantom_root, tmp_path):
    cases = scan(phantom_root, "train")[:6]
    for rule in ("exact", "published"):
        plain = CaseDataset(cases, settings("none", resize=rule), augment=True, seed=3)
        cached = CaseDataset(cases, settings(tmp_path, resize=rule), augment=True, seed=3)
        again = CaseDataset(cases, settings(tmp_path, resize=rule), augment=True, seed=3)
        for place in range(6):
            expected = plain[2, place]
            assert same(cached[2, place], expected)
            assert same(again[2, place], expected)
            assert same(again[2, place], expected)  # a second look changes nothing either
    assert len(entries(tmp_path)) == 12  # an image by two rules is two entries


def test_the_second_time_nothing_is_unpacked(phantom_root, tmp_path, monkeypatch):
    cases = scan(phantom_root, "val")[:3]
    first = [CaseDataset(cases, settings(tmp_path))[0, place] for place in range(3)]

    def refuse(*arguments):
        raise AssertionError("a film was unpacked")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    assert all(same(CaseDataset(cases, settings(tmp_path))[0, place], first[place]) for place in range(3))


def test_what_is_odd_about_a_file_is_said_from_the_cache_too(tmp_path, caplog):
    """Each process says it once, whether it decodes the files or takes them from the cache."""
    root, exif = tmp_path / "data", Image.Exif()
    exif[0x0112] = 6
    image, mask = root / "Val_Folder/img/a.png", root / "Val_Folder/labelcol/mask_a.png"
    for file in (image, mask):
        file.parent.mkdir(parents=True)
    Image.fromarray(np.full((32, 32), 3000, np.uint16)).save(image, exif=exif)
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(mask, exif=exif)
    found = []
    for cache in ("none", tmp_path / "cache", tmp_path / "cache"):
        image_files._warn_once.cache_clear()  # as in a new process
        caplog.clear()
        cases = CaseDataset(scan(root, "val"), settings(cache))
        assert same(cases[0, 0], cases[0, 0])
        found.append(sorted(record.getMessage() for record in caplog.records))
    assert len(entries(tmp_path / "cache")) == 1
    assert len(found[0]) == 3  # the tags of both, and the range of the image
    assert sum(f"{mask}: the orientation tag" in message for message in found[0]) == 1
    assert found[0] == found[1] == found[2]


def test_a_changed_image_or_mask_is_read_anew(tmp_path):
    root = tmp_path / "data"
    image, mask = root / "Val_Folder/img/a.png", root / "Val_Folder/labelcol/mask_a.png"
    for file in (image, mask):
        file.parent.mkdir(parents=True)
    cv2.imwrite(str(image), np.full((32, 32), 51, np.uint8))
    cv2.imwrite(str(mask), np.zeros((32, 32), np.uint8))
    images = CaseDataset(scan(root, "val"), settings(tmp_path / "cache"))
    assert images[0, 0].image.max() == np.float32(0.2) and images[0, 0].mask.max() == 0
    stamp = image.stat()
    cv2.imwrite(str(image), np.full((32, 32), 102, np.uint8))
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a copy that keeps the time does
    assert images[0, 0].image.max() == np.float32(0.4)
    cv2.imwrite(str(mask), np.full((32, 32), 255, np.uint8))
    assert images[0, 0].mask.min() == 1


def test_files_are_read_once_in_a_process_while_they_are_unchanged(phantom_root, tmp_path, monkeypatch):
    monkeypatch.setattr("c2fvl.data.image_cache.SETTLED", 0.0)
    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    cases = scan(root, "val")[:2]
    images, read = CaseDataset(cases, settings(tmp_path / "cache")), []
    monkeypatch.setattr("c2fvl.data.image_cache.read_image_bytes", lambda path: read.append(path) or path.read_bytes())
    first = [images[0, place] for place in range(2)]
    assert read == [path for case in cases for path in (case.image, case.mask)]
    assert all(same(images[1, place], first[place]) for place in range(2))
    assert len(read) == 4
    before = cases[0].image.stat()
    time.sleep(0.02)
    content = bytearray(cases[1].image.read_bytes())
    cases[0].image.write_bytes(content)
    os.utime(cases[0].image, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps the time does
    assert np.array_equal(images[2, 0].image, first[1].image)
    assert len(read) == 6
    for entry in entries(tmp_path / "cache"):
        entry.unlink()
    assert same(images[3, 1], first[1])
    assert entries(tmp_path / "cache")


def test_files_that_have_just_changed_are_read_again(phantom_root, tmp_path, monkeypatch):
    """Two changes within one tick of the file system's clock would look like one."""
    root, read = tmp_path / "data", []
    shutil.copytree(phantom_root, root, copy_function=shutil.copyfile)
    images = CaseDataset(scan(root, "val")[:1], settings(tmp_path / "cache"))
    monkeypatch.setattr("c2fvl.data.image_cache.read_image_bytes", lambda path: read.append(path) or path.read_bytes())
    assert same(images[0, 0], images[1, 0])
    assert len(read) == 4


def test_an_entry_that_is_damaged_while_it_is_in_use_is_made_again(phantom_root, tmp_path, monkeypatch):
    monkeypatch.setattr("c2fvl.data.image_cache.SETTLED", 0.0)
    images = CaseDataset(scan(phantom_root, "val")[:1], settings(tmp_path))
    first = images[0, 0]
    assert same(images[1, 0], first)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    time.sleep(0.02)
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert same(images[2, 0], first)
    assert entry.read_bytes() == whole


@pytest.mark.parametrize("damage", ["cut", "turned", "empty", "foreign", "longer"])
def test_a_damaged_entry_is_made_again(phantom_root, tmp_path, damage):
    cases = scan(phantom_root, "val")[:1]
    expected = CaseDataset(cases, settings(tmp_path))[0, 0]
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    turned = bytearray(whole)
    turned[-1] ^= 1
    entry.write_bytes(
        {"cut": whole[:-1], "turned": bytes(turned), "empty": b"", "foreign": b"GIF89a" * 40, "longer": whole + b"0"}[
            damage
        ]
    )
    assert same(CaseDataset(cases, settings(tmp_path))[0, 0], expected)
    assert entry.read_bytes() == whole


def test_another_way_of_reading_is_another_entry(phantom_root, tmp_path):
    cases = scan(phantom_root, "val")[:1]
    for config in (settings(tmp_path), settings(tmp_path, image_size=48), settings(tmp_path, mask="above_half")):
        assert CaseDataset(cases, config)[0, 0].image.shape[0] == config.image_size
    assert len(entries(tmp_path)) == 3


def test_a_folder_that_cannot_be_written_is_said_once(phantom_root, tmp_path, caplog):
    cases = scan(phantom_root, "val")[:3]
    file = tmp_path / "file"
    file.write_text("not a folder")
    images = CaseDataset(cases, settings(file / "cache"))
    plain = CaseDataset(cases, settings("none"))
    assert all(same(images[0, place], plain[0, place]) for place in range(3))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "data.image_cache" in record.getMessage()


def test_a_full_disk_is_said_once_and_leaves_no_half_entry(phantom_root, tmp_path, monkeypatch, caplog):
    cases = scan(phantom_root, "val")[:3]
    images, plain = CaseDataset(cases, settings(tmp_path)), CaseDataset(cases, settings("none"))

    def full(path, data, durable=True):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("c2fvl.files.storage.write_bytes", full)
    assert all(same(images[0, place], plain[0, place]) for place in range(3))
    (record,) = caplog.records
    assert "No space left" in record.getMessage()
    assert entries(tmp_path) == []


def test_a_mask_of_too_many_classes_is_refused_from_the_cache_too(tmp_path):
    root = tmp_path / "data"
    for name, pixels in (("img/a.png", np.zeros((32, 32))), ("labelcol/mask_a.png", np.full((32, 32), 3))):
        file = root / "Val_Folder" / name
        file.parent.mkdir(parents=True)
        cv2.imwrite(str(file), pixels.astype(np.uint8))
    config = settings(tmp_path / "cache", mask="labels")
    assert CaseDataset(scan(root, "val"), config, num_classes=4)[0, 0].mask.max() == 3
    with pytest.raises(ValueError, match="class 3"):
        CaseDataset(scan(root, "val"), config, num_classes=3)[0, 0]


def _fill(root, cache, answers):
    images = CaseDataset(scan(root, "train"), settings(cache))
    answers.put(float(sum(images[0, place].image.sum(dtype=np.float64) for place in range(len(images)))))


def test_several_processes_share_it(phantom_root, tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_fill, args=(phantom_root, tmp_path, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    sums = {answers.get(timeout=300) for _ in processes}
    for process in processes:
        process.join()
    assert len(sums) == 1
    images = CaseDataset(scan(phantom_root, "train"), settings(tmp_path))
    assert len(entries(tmp_path)) == len(images)  # nothing is left over from writing
    assert sums == {float(sum(images[0, place].image.sum(dtype=np.float64) for place in range(len(images))))}


def test_grey_and_colour_images_go_into_one_batch(phantom_root):
    film = CaseDataset(scan(phantom_root, "val"), settings("none"))[0, 0]
    colour = np.stack([film.image, film.image / 2, film.image / 4], axis=2)
    batch = collate([film, dataclasses.replace(film, image=colour)])
    assert batch.image.shape == (2, 3, 32, 32)
    assert all(np.array_equal(batch.image[0, channel], film.image) for channel in range(3))
    assert np.array_equal(batch.image[1, 2], colour[:, :, 2])


def test_no_mutated_entry_gives_other_pixels(tmp_path):
    generator = np.random.default_rng(0)
    cache = ImageCache(tmp_path, "a way")
    stored = StoredImage(GREY_8, LESION, np.tile(LESION, (3, 2))[:41, :23])
    cache.store("name", stored)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    for _ in range(1500):
        mutated, place = bytearray(whole), int(generator.integers(len(whole)))
        if generator.random() < 0.5:
            mutated[place] ^= 1 << int(generator.integers(8))
        else:
            mutated[place : place + int(generator.integers(3))] = generator.bytes(int(generator.integers(4)))
        entry.write_bytes(bytes(mutated))
        found = cache.load("name")
        assert found is None or same(found, stored)
