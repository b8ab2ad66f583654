"""Files inside tar shards: a path such as `OUT/train-000000.tar/NAME.image.png` is read from the tar, by its offset.

A shard has its index beside it, `train-000000.index.json`, with the offset, size and CRC-32 of each image and mask.
Without an index the headers of the tar are read, once in a process. Nothing is unpacked, and a member's name is never
used as a path on the disk.
"""

import functools
import hashlib
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c2fvl.files import storage
from c2fvl.files.parsing import parse_json

ENDING = ".tar"
INDEX_ENDING = ".index.json"
INDEX_FORMAT = "c2fvl-shard-1"
KINDS = ("image", "mask")
_MAX_JSON = 2**20
_MEMBER = re.compile(r"(?P<key>[^./\\\x00][^./\\\x00]*)\.(?:(?P<kind>image|mask)\.\w+(?:\.gz)?|json)")
_AGAIN = "copy the shard and its index again, or write them again with `c2fvl shards`"


@dataclass(frozen=True)
class Member:
    """Where the bytes of a file lie."""

    shard: Path
    offset: int
    size: int
    crc32: int
    """−1 if it is not known."""


def find_member(path: Path | str) -> Member | None:
    """Return where in a shard a file lies; None where the path does not lead into a shard.

    Raises `FileNotFoundError` if the shard has no such file, and `ValueError` for a shard that is damaged.
    """
    folder, name = os.path.split(path)  # it is called for every image
    if not folder.endswith(ENDING):
        return None
    try:
        status = os.stat(folder)  # noqa: PTH116
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder}: the shard is missing; copy it there") from None
    if not stat.S_ISREG(status.st_mode):  # a folder may be called so
        return None
    names, places = _members(Path(folder), (status.st_ino, status.st_size, status.st_mtime_ns))
    encoded = os.fsencode(name)
    index = int(np.searchsorted(names, encoded)) if len(names) else 0
    if index == len(names) or names[index] != encoded:
        raise FileNotFoundError(f"{path}: the shard holds no such file; check the name")
    return Member(Path(folder), *places[index].tolist())


def read_bytes(path: Path | str, *, count: int | None = None) -> bytes:
    """Return the content of a file, on the disk or in a shard, or its first `count` bytes.

    Raises `OSError`, and `ValueError` where a shard is cut short or does not fit its checksum.
    """
    member = find_member(path)
    with open(path if member is None else member.shard, "rb") as file:
        if member is None:
            return file.read() if count is None else file.read(count)
        file.seek(member.offset)
        wanted = member.size if count is None else min(count, member.size)
        data = file.read(wanted)
    if len(data) < wanted:
        raise ValueError(f"{path}: {member.shard.name} is cut short; {_AGAIN}")
    if count is None and member.crc32 >= 0 and zlib.crc32(data) != member.crc32:
        raise ValueError(f"{path}: the file does not fit its checksum, {member.shard.name} is damaged; {_AGAIN}")
    return data


def in_memory(path: Path) -> Path | bytes:
    """Return the content of a file in a shard, and the path of any other: what readers take that open files."""
    return path if find_member(path) is None else read_bytes(path)


def holder_of(path: Path | str) -> Path:
    """Return the file on the disk that holds a file: the shard, or the file itself."""
    member = find_member(path)
    return Path(path) if member is None else member.shard


def file_size(path: Path | str) -> int:
    """Return the bytes of a file, on the disk or in a shard."""
    member = find_member(path)
    return Path(path).stat().st_size if member is None else member.size


def checksum_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; the file may be larger than memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def index_path(shard: Path) -> Path:
    """Return the name of the index of a shard."""
    return shard.with_name(shard.name.removesuffix(ENDING) + INDEX_ENDING)


def read_index(shard: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """Return the index of a shard: its `bytes` and `sha256`, and its `cases`, each with the places of its files.

    Without an index file it is made from the headers of the tar. `sha256` is that of the index file, where it is known.
    Raises `FileNotFoundError` for a missing shard, and `ValueError` for an index that cannot be read or is of another
    file, and for a shard that is cut short or holds anything but cases.
    """
    if not shard.is_file():
        raise FileNotFoundError(f"{shard}: the shard is missing; copy it there, or name the shards that there are")
    path = index_path(shard)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if sha256 is not None:
            raise FileNotFoundError(f"{path}: the index of {shard.name} is missing; copy it there") from None
        return _index_of_tar(shard)
    if sha256 is not None and storage.checksum(content) != sha256:
        raise ValueError(f"{path}: the index does not fit its checksum in {storage.MANIFEST}; {_AGAIN}")
    try:
        index = parse_json(content)
        if index["format"] != INDEX_FORMAT or index["shard"] != shard.name:
            raise ValueError(f"it is the {index['format']} of {index['shard']}")
        size, _ = index["bytes"], index["sha256"]
        for case in index["cases"]:
            _check_place(case["image"], size)
            if case["mask"] is not None:
                _check_place(case["mask"], size)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: this is no index of {shard.name} ({error}); {_AGAIN}") from error
    if shard.stat().st_size != size:
        raise ValueError(
            f"{shard}: the shard has {shard.stat().st_size} bytes, its index says {size}: it is cut short, or the "
            f"index is of another shard; {_AGAIN}"
        )
    return dict(index)


def _check_place(place: Mapping[str, Any], shard_size: int) -> None:
    name, numbers = place["name"], (place["offset"], place["bytes"], place["crc32"], shard_size)
    if not isinstance(name, str) or any(type(number) is not int for number in numbers):
        raise ValueError(f"{name!r} has no place in whole numbers")
    offset, size, crc32, _ = numbers
    fits = offset >= tarfile.BLOCKSIZE and size >= 0 and offset + size <= shard_size and -1 <= crc32 < 2**32
    if not fits or not _MEMBER.fullmatch(name):
        raise ValueError(f"{name!r} at {offset} with {size} bytes does not lie in the shard")


@functools.cache
def _members(shard: Path, _stamp: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted names of a shard's images and masks, and (N, 3) offset, size and CRC-32 of each.

    Arrays take a fifth of the memory of a dict, and forked processes share them.
    """
    rows = sorted(
        (str(case[kind]["name"]).encode(), int(case[kind]["offset"]), int(case[kind]["bytes"]), case[kind]["crc32"])
        for case in read_index(shard)["cases"]
        for kind in KINDS
        if case[kind] is not None
    )
    places = np.array([row[1:] for row in rows], np.int64).reshape(len(rows), 3)
    return np.array([row[0] for row in rows], np.bytes_), places


def _index_of_tar(shard: Path) -> dict[str, Any]:
    """Return the index of a shard that has none, from its headers; checksums are not known."""
    cases: dict[str, dict[str, Any]] = {}
    for key, kind, place, content in _walk(shard):
        case = cases.setdefault(key, {})
        if kind in case:
            raise ValueError(f"{shard}: {place['name']!r} is there twice; keep one of the two")
        case[kind] = place if content is None else content
    found = []
    for key, case in cases.items():
        missing = [kind for kind in ("image", "json") if kind not in case]
        if missing:
            other = ", ".join(sorted(case))
            raise ValueError(f"{shard}: the case {key!r} has {other}, but no {missing[0]}; write the shard again")
        found.append({**case["json"], "image": case["image"], "mask": case.get("mask")})
    return {"bytes": shard.stat().st_size, "sha256": None, "cases": found}


def _walk(shard: Path) -> Iterator[tuple[str, str, dict[str, Any], Mapping[str, Any] | None]]:
    """Yield key, kind, place and, for JSON, the content of each member of a shard."""
    size = shard.stat().st_size
    try:
        with tarfile.TarFile(shard) as archive:
            for member in archive:
                match = _MEMBER.fullmatch(member.name)
                if match is None or not member.isreg() or member.issparse():
                    what = "a plain file" if member.isreg() and not member.issparse() else "no plain file"
                    raise ValueError(
                        f"it holds {member.name!r}, which is {what}; expected KEY.image.png (or another ending), "
                        "KEY.mask.png and KEY.json, without folders and links"
                    )
                if member.offset_data + member.size > size:
                    raise ValueError(f"it is cut short in {member.name!r}")
                place = {"name": member.name, "offset": member.offset_data, "bytes": member.size, "crc32": -1}
                if match["kind"] is not None:
                    yield match["key"], match["kind"], place, None
                    continue
                if member.size > _MAX_JSON:
                    raise ValueError(f"{member.name!r} has {member.size} bytes, more than {_MAX_JSON}")
                file = archive.extractfile(member)
                content = None if file is None else parse_json(file.read())
                if not isinstance(content, dict):
                    raise ValueError(f"{member.name!r} is no JSON object")
                yield match["key"], "json", place, content
            end = archive.offset
        if size < end + tarfile.BLOCKSIZE:
            raise ValueError("it is cut short: its end is missing")
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ValueError(f"{shard}: the shard cannot be read: {error}; {_AGAIN}") from error
