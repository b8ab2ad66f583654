"""Films and masks kept as the network takes them, so that each file is unpacked and resized once.

An entry is named by the content of its files and by all that decides how they are read; where a file or a setting
changes, another entry is looked for, so that none is ever stale. A process that has read a file does not read it again
while the system says that it is unchanged. Entries are written whole under their own names, which makes them safe to
share between processes, and are mapped into memory to be read. A damaged one is made again. Nothing needs the cache:
without it films are read from their files.
"""

import hashlib
import logging
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from c2fvl.files import storage
from c2fvl.files.images import read_image_bytes

logger = logging.getLogger(__name__)

_MAGIC = b"c2fvl-film-1"
_HEADER = struct.Struct("<12sIBBBxIIII")
"""Magic, checksum, type and channels of the film, kind of the file's own mask, side, that mask's height and width,
bytes behind."""
_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
SETTLED = 2.0
"""Seconds since a change after which a file's times tell the next: within one tick of the clock they would not."""
_Stamp = tuple[int, ...]
_NO_MASK, _SAME_MASK, _PACKED_MASK, _PLAIN_MASK = range(4)


@dataclass(frozen=True)
class StoredImage:
    """A film and its mask at the network's size, before anything is drawn at random."""

    image: np.ndarray
    """(S, S, 3) RGB, or (S, S) where the film is grey; float32 in [0, 1]."""
    mask: np.ndarray | None
    """(S, S) uint8, the class of each pixel."""
    original_mask: np.ndarray | None
    """(H, W) uint8 as in the file."""


def as_grey(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) as (H, W) where its channels are equal, else as it is."""
    if image.ndim == 3 and (image[:, :, :1] == image[:, :, 1:]).all():
        return np.ascontiguousarray(image[:, :, 0])
    return image


class ImageCache:
    """Entries for one way of reading films, in `folder`.

    `settings` names all that decides what is made of a file. Where the folder cannot be written to, this is said once
    and entries are only read.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        libraries = f"opencv {cv2.__version__}"
        self.folder = folder / hashlib.sha256(f"{settings}; {libraries}".encode()).hexdigest()[:16]
        self.can_write = True
        self._known: dict[tuple[Path, Path | None], tuple[_Stamp, str]] = {}
        self._whole: dict[str, _Stamp] = {}
        try:
            storage.make_folder(self.folder)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(f"{self.folder} is read-only")
        except OSError as error:
            self._give_up(error)

    def film(self, image: Path, mask: Path | None, unpack: Callable[[bytes, bytes | None], StoredImage]) -> StoredImage:
        """Return a film and its mask from their entry, or else as `unpack` makes them of the contents of their files.

        Raises as `read_image_bytes` and `unpack`.
        """
        files, began = (image, mask), time.time()
        stamp = _stamp(image, mask)
        known = self._known.get(files)
        if known is not None and known[0] == stamp:
            stored = self.load(known[1])
            if stored is not None:
                return stored
        contents = read_image_bytes(image), None if mask is None else read_image_bytes(mask)
        key = self.key(*contents)
        stored = self.load(key)
        if stored is None:
            stored = unpack(*contents)
            self.store(key, stored)
        if _settled(stamp, began):
            self._known[files] = stamp, key
        return stored

    def key(self, image: bytes, mask: bytes | None) -> str:
        """Return the name of the entry of a film's and its mask's file contents."""
        digest = hashlib.sha256(f"{len(image)} {-1 if mask is None else len(mask)} ".encode())
        digest.update(image)
        digest.update(mask or b"")
        return digest.hexdigest()

    def load(self, key: str) -> StoredImage | None:
        """Return an entry, or None where there is none or a damaged one. Its arrays cannot be written to."""
        try:
            with open(f"{self.folder}/{key}", "rb", buffering=0) as file:
                stamp, began = _stamp(file.fileno()), time.time()
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # not there, or empty
            return None
        stored = _unpack(content, check=self._whole.get(key) != stamp)
        if stored is not None and _settled(stamp, began):
            self._whole[key] = stamp
        return stored

    def store(self, key: str, image: StoredImage) -> None:
        """Write an entry if that can be done."""
        if not self.can_write:
            return
        try:
            storage.write_bytes(self.folder / key, _pack(image), durable=False)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.can_write = False
        logger.warning(
            "the cache of films cannot be written (%s), so films are unpacked anew each time; name another folder by "
            "data.image_cache=FOLDER, or set data.image_cache=none",
            error,
        )


def _stamp(*files: Path | int | None) -> _Stamp:
    """Return what a file system changes with each file's content; nothing for a file that is not there."""
    stamp: _Stamp = ()
    for file in files:
        if file is not None:
            try:
                found = os.stat(file)  # noqa: PTH116 - a file or its number
            except OSError:
                continue
            stamp += (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return stamp


def _settled(stamp: _Stamp, now: float) -> bool:
    return all(changed / 1e9 < now - SETTLED for start in (2, 3) for changed in stamp[start::4])


def _pack(film: StoredImage) -> bytes:
    stored = _smallest(film.image)
    mask, original = film.mask, film.original_mask
    parts = [np.ascontiguousarray(stored).tobytes()]
    kind, shape = _NO_MASK, (0, 0)
    if mask is not None and original is not None:
        parts.append(np.ascontiguousarray(mask).tobytes())
        shape = (int(original.shape[0]), int(original.shape[1]))
        if np.array_equal(mask, original):
            kind = _SAME_MASK
        elif original.max(initial=0) <= 1:
            kind = _PACKED_MASK
            parts.append(np.packbits(original).tobytes())
        else:
            kind = _PLAIN_MASK
            parts.append(np.ascontiguousarray(original).tobytes())
    payload = b"".join(parts)
    channels = 1 if stored.ndim == 2 else 3
    about = (_TYPES.index(stored.dtype), channels, kind, stored.shape[0], *shape, len(payload))
    checksum = zlib.crc32(payload, zlib.crc32(repr(about).encode()))
    return _HEADER.pack(_MAGIC, checksum, *about) + payload


def _unpack(content: memoryview, *, check: bool = True) -> StoredImage | None:
    if len(content) < _HEADER.size:
        return None
    magic, checksum, *about = _HEADER.unpack_from(content)
    payload = content[_HEADER.size :]
    if (
        magic != _MAGIC
        or about[-1] != len(payload)
        or (check and zlib.crc32(payload, zlib.crc32(repr(tuple(about)).encode())) != checksum)
    ):
        return None
    number, channels, kind, side, height, width, _ = about
    shape = (side, side) if channels == 1 else (side, side, channels)
    stored = np.frombuffer(payload, _TYPES[number], count=side * side * channels).reshape(shape)
    image = stored if stored.dtype == np.float32 else _scaled(stored)
    if kind == _NO_MASK:
        return StoredImage(image, None, None)
    start = stored.nbytes
    mask = np.frombuffer(payload, np.uint8, count=side * side, offset=start).reshape(side, side)
    if kind == _SAME_MASK:
        return StoredImage(image, mask, mask)
    rest = np.frombuffer(payload, np.uint8, offset=start + mask.nbytes)
    original = np.unpackbits(rest, count=height * width) if kind == _PACKED_MASK else rest
    return StoredImage(image, mask, original.reshape(height, width))


def _smallest(image: np.ndarray) -> np.ndarray:
    """Return the film by as few bytes as hold it exactly."""
    for dtype in _TYPES[:2]:
        whole = np.rint(image * np.float32(np.iinfo(dtype).max)).astype(dtype)
        if np.array_equal(_scaled(whole), image):
            return whole
    return image


def _scaled(whole: np.ndarray) -> np.ndarray:
    return np.divide(whole, np.float32(np.iinfo(whole.dtype).max), dtype=np.float32)
