"""Read zip archives that are not trusted.

A caller asks for the bytes of a member; nothing is written here. Names that lead out of the archive, links, and sizes
that no data set has are refused before anything is unpacked.
"""

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_MEMBERS = 500_000
MAX_MEMBER_BYTES = 256 * 2**20
MAX_BYTES = 64 * 2**30
"""Unpacked, all members together."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError)
_AGAIN = "download it again"


@dataclass(frozen=True)
class Member:
    """One file in an archive."""

    name: PurePosixPath
    size: int
    """Bytes, unpacked."""
    info: zipfile.ZipInfo


@dataclass(frozen=True)
class Archive:
    """An open zip archive."""

    path: Path
    members: tuple[Member, ...]
    _zip: zipfile.ZipFile

    def read(self, member: Member) -> bytes:
        """Return the bytes of a member. Raises `ValueError` where it is damaged or encrypted."""
        if member.info.flag_bits & 1:
            raise ValueError(f"{self.path}: {member.name} is encrypted; unpack the archive and give the folder")
        try:
            return self._zip.read(member.info)
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: {member.name} is damaged ({error}); {_AGAIN}") from error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip archive for reading; backslashes in its names, as Windows writes them, separate folders.

    Raises `ValueError` for a file that is no zip archive or is cut short, a name that leads out of the archive, a link,
    and for more members or bytes than the limits of this module.
    """
    try:
        opened = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise ValueError(f"{path}: this is no readable zip archive ({error}); {_AGAIN}") from error
    with opened:
        infos = [info for info in opened.infolist() if not info.filename.endswith(("/", "\\"))]
        if len(infos) > MAX_MEMBERS:
            raise ValueError(f"{path}: it holds {len(infos)} files; at most {MAX_MEMBERS} are read")
        members = tuple(Member(_inside(path, info), info.file_size, info) for info in infos)
        total = sum(member.size for member in members)
        large = next((member for member in members if member.size > MAX_MEMBER_BYTES), None)
        if large is not None or total > MAX_BYTES:
            what, limit = ("it", MAX_BYTES) if large is None else (str(large.name), MAX_MEMBER_BYTES)
            size = total if large is None else large.size
            raise ValueError(f"{path}: {what} unpacks to {size} bytes, at most {limit} are read; {_AGAIN}")
        yield Archive(path, members, opened)


def _inside(path: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    """Return the name of a member as a relative path."""
    text = info.filename.replace("\\", "/")
    name = PurePosixPath(text)
    if name.is_absolute() or ".." in name.parts or re.match("[A-Za-z]:", text) or not text.isprintable():
        raise ValueError(f"{path}: it names {info.filename!r}, which lies outside of it; {_AGAIN}")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError(f"{path}: {name} is a link, not a file; unpack the archive and give the folder")
    return name
