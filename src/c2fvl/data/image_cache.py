"""A cache of images and masks at the network's size, so that each file is decoded and resized once.

The name of an entry is a checksum of the file contents, and its folder a checksum of the settings: a changed file or
setting has another entry, so no entry is ever out of date. A process that has read a file does not read it again while
the file system reports it as unchanged. Entries are safetensors files, written whole, which several processes may
share; a damaged entry is made again. Nothing depends on the cache: without it images are read from their files.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as to_safetensors

from c2fvl.files import shards, storage
from c2fvl.files.images import DECODER, read_image_bytes
from c2fvl.files.parsing import parse_json

logger = logging.getLogger(__name__)

SETTLED = 2.0
"""Seconds since a file's last change from which its times show the next one; within a clock tick they would not."""
_ABOUT = "about"
"""The one key of an entry's metadata, because safetensors writes several in any order."""
_ENTRIES = 2
"""Raised when an entry holds more than before, so that older ones are made again."""
_WHOLE_NUMBERS = (np.dtype(np.uint8), np.dtype(np.uint16))
_Stamp = tuple[int, ...]


@dataclass(frozen=True)
class StoredImage:
    """An image and its mask at the network's size, before augmentation."""

    image: np.ndarray
    """(S, S, 3) RGB, or (S, S) where the image is grey; float32 in [0, 1]."""
    mask: np.ndarray | None
    """(S, S) uint8, the class of each pixel."""
    original_mask: np.ndarray | None
    """(H, W) uint8 as in the file; None exactly where `mask` is None."""
    remarks: tuple[str, ...] = ()
    """What is odd about the image file, to be said each time."""
    mask_remarks: tuple[str, ...] = ()


def as_grey(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) as (H, W) if its channels are equal, else unchanged."""
    if image.ndim == 3 and (image[:, :, :1] == image[:, :, 1:]).all():
        return np.ascontiguousarray(image[:, :, 0])
    return image


class ImageCache:
    """The entries for one way of reading images, in `folder`.

    `settings` names everything that decides what is made of a file. If the folder cannot be written, one warning is
    logged and entries are only read.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        libraries = f"opencv {cv2.__version__}, decoder {DECODER}, entries {_ENTRIES}"
        self.folder = folder / hashlib.sha256(f"{settings}; {libraries}".encode()).hexdigest()[:16]
        self.can_write = True
        self._keys: dict[tuple[Path, Path | None], tuple[_Stamp, str]] = {}
        self._verified: dict[str, _Stamp] = {}
        try:
            storage.make_folder(self.folder)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(f"{self.folder} is read-only")
        except OSError as error:
            self._stop_writing(error)

    def get(self, image: Path, mask: Path | None, decode: Callable[[bytes, bytes | None], StoredImage]) -> StoredImage:
        """Return an image and its mask from their entry, or decode the contents of their files and store the result.

        Raises as `read_image_bytes` and `decode`.
        """
        files, began = (image, mask), time.time()
        stamp = _stamp(image, mask)
        known = self._keys.get(files)
        if known is not None and known[0] == stamp:
            stored = self.load(known[1])
            if stored is not None:
                return stored
        contents = read_image_bytes(image), None if mask is None else read_image_bytes(mask)
        key = _key(*contents)
        stored = self.load(key)
        if stored is None:
            stored = decode(*contents)
            self.store(key, stored)
        if _settled(stamp, began):
            self._keys[files] = stamp, key
        return stored

    def load(self, key: str) -> StoredImage | None:
        """Return an entry, or None if it is missing or damaged."""
        path, began = os.path.join(self.folder, key), time.time()  # noqa: PTH118 - it is called for every image
        stamp = _stamp(path)
        try:
            with open(path, "rb", buffering=0) as file:
                content = file.read()
            arrays = parse_safetensors(content)
            header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
            about = parse_json(header["__metadata__"][_ABOUT])
            remarks = about["remarks"]
            if self._verified.get(key) != stamp and about["crc32"] != _checksum(arrays, remarks):
                return None
            stored = _from_arrays(arrays, *map(tuple, remarks))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        if _settled(stamp, began):
            self._verified[key] = stamp
        return stored

    def store(self, key: str, stored: StoredImage) -> None:
        """Write an entry, if the folder can be written."""
        if not self.can_write:
            return
        try:
            storage.write_bytes(self.folder / key, _to_bytes(stored), durable=False)
        except OSError as error:
            self._stop_writing(error)

    def _stop_writing(self, error: OSError) -> None:
        self.can_write = False
        logger.warning(
            "the image cache cannot be written (%s), so images are decoded again each time; name another folder by "
            "data.image_cache=FOLDER, or set data.image_cache=none",
            error,
        )


def _key(image: bytes, mask: bytes | None) -> str:
    """Return the name of the entry of these file contents."""
    digest = hashlib.sha256(f"{len(image)} {-1 if mask is None else len(mask)} ".encode())
    digest.update(image)
    digest.update(mask or b"")
    return digest.hexdigest()


def _stamp(*files: Path | str | None) -> _Stamp:
    """Return what a file system changes with each file's content; nothing for a file that is missing."""
    stamp: _Stamp = ()
    for file in files:
        if file is not None:
            try:
                status = os.stat(shards.holder_of(file))  # noqa: PTH116 - it is called for every image
            except OSError:
                continue
            stamp += (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return stamp


def _settled(stamp: _Stamp, now: float) -> bool:
    return all(changed / 1e9 < now - SETTLED for start in (2, 3) for changed in stamp[start::4])


def _to_bytes(stored: StoredImage) -> bytes:
    """Return an entry as safetensors; the original mask is left out if equal to the mask, and packed if binary."""
    arrays = {"image": _smallest(stored.image)}
    if stored.mask is not None and stored.original_mask is not None:
        arrays["mask"], original = np.ascontiguousarray(stored.mask), stored.original_mask
        if original.max(initial=0) > 1 and not np.array_equal(stored.mask, original):
            arrays["original_mask"] = np.ascontiguousarray(original)
        elif not np.array_equal(stored.mask, original):
            arrays |= {"packed_mask": np.packbits(original), "packed_shape": np.array(original.shape, np.int32)}
    remarks = [list(stored.remarks), list(stored.mask_remarks)]
    return to_safetensors(arrays, {_ABOUT: json.dumps({"crc32": _checksum(arrays, remarks), "remarks": remarks})})


def _from_arrays(
    arrays: Mapping[str, np.ndarray], remarks: tuple[str, ...], mask_remarks: tuple[str, ...]
) -> StoredImage:
    stored, mask = arrays["image"], arrays.get("mask")
    image = stored if stored.dtype == np.float32 else _scaled(stored)
    original = arrays.get("original_mask", mask)
    if "packed_mask" in arrays:
        height, width = arrays["packed_shape"].tolist()
        original = np.unpackbits(arrays["packed_mask"], count=height * width).reshape(height, width)
    return StoredImage(image, mask, original, remarks, mask_remarks)


def _checksum(arrays: Mapping[str, np.ndarray], remarks: list[list[str]]) -> int:
    """Return the CRC-32 of the remarks and of all names, types, shapes and values."""
    crc = zlib.crc32(json.dumps(remarks).encode())
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(array.data, zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc))
    return crc


def _smallest(image: np.ndarray) -> np.ndarray:
    """Return the image in the smallest type that holds it exactly."""
    for dtype in _WHOLE_NUMBERS:
        whole = np.rint(image * np.float32(np.iinfo(dtype).max)).astype(dtype)
        if np.array_equal(_scaled(whole), image):
            return whole
    return np.ascontiguousarray(image)


def _scaled(whole: np.ndarray) -> np.ndarray:
    return np.divide(whole, np.float32(np.iinfo(whole.dtype).max), dtype=np.float32)
