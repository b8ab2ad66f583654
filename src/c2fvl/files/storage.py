"""The one way to write a file: completely or not at all.

A file is written under a temporary name beside its target, flushed to disk and renamed over the target; then the folder
is flushed. After a crash, a full disk or a power cut there is either the old file or the new one, never a part of it.
No other module opens a file for writing; a test reads the syntax trees to check this.

The first write of a process to a folder removes what killed processes left there (`partial.py`). An error of the system
names the file that was to be written and says what to do.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from c2fvl.files.parsing import parse_json
from c2fvl.files.partial import clear_partial, hidden_name, hold, replaced_name

MANIFEST = "manifest.json"
_MIN_FREE_BYTES = 16 * 2**20
_MAKE_ROOM = "free some space there, or name another folder"
_OTHER_FOLDER = "name a folder in which you may write"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "the system limits the size of files here; raise the limit, or name another folder",
    errno.EROFS: _OTHER_FOLDER,
    errno.EACCES: _OTHER_FOLDER,
    errno.EPERM: _OTHER_FOLDER,
    errno.EIO: "the disk may be damaged; name a folder on another one",
}
_targets: dict[Path, Path] = {}
"""Hidden folders that are being filled, and the names that they will have."""


def write_bytes(path: Path | str, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`, completely or not at all; an old file is replaced.

    A missing folder is made. After an `OSError` the old file is untouched. Use `durable=False` for files that can be
    made again: the call then does not wait for the disk, and a power cut may damage the file.
    """
    with new_file(path, durable=durable) as file:
        file.write(data)


@contextlib.contextmanager
def new_file(path: Path | str, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a hidden file that becomes `path` when the context ends without an error; otherwise as `write_bytes`.

    An `OSError` in the context counts as one of writing, so read everything before it.
    """
    path = Path(path)
    make_folder(path.parent)
    _clear_once(path.parent.absolute())
    with _explained(path), _hidden_file(path.parent) as (temporary, file):
        yield file
        file.flush()
        if durable:
            os.fsync(file.fileno())
        if os.name != "posix":  # Windows renames no open file
            file.close()
        _replace(temporary, path)
        if durable:
            _sync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> bool:
    """Make `target` a hard link to the file `source`, or a copy where the file system has no link; tell if it is one.

    A link takes no room; whoever changes the content of one name changes that of both. `target` must not exist.
    """
    make_folder(target.parent)
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        raise
    except OSError:  # another disk, or a file system without hard links
        write_bytes(target, source.read_bytes(), durable=False)
        return False
    return True


def cache_folder(given: str, kind: str) -> Path:
    """Return the folder `given` by the settings, or c2fvl/<kind> in the cache folder of the user."""
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "c2fvl" / kind


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are errors, because JSON has neither."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return `value` as `write_json` writes it: in UTF-8, with what is not printable escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if not text.replace("\n", "").isprintable():
        text = "".join(each if each == "\n" or each.isprintable() else json.dumps(each)[1:-1] for each in text)
    return f"{text}\n".encode()


def write_folder(path: Path | str, files: Mapping[str, bytes]) -> None:
    """Write a new folder with `files` and a manifest of their SHA-256, completely or not at all.

    A folder cannot be replaced in one step, so give each version a new name. Raises `FileExistsError`, before anything
    is written, if `path` exists.
    """
    if MANIFEST in files:
        raise ValueError(f"the name {MANIFEST} is reserved for the folder's checksums")
    with new_folder(path) as building:
        for name, data in files.items():
            _write_new(building / name, data)
        manifest = {name: {"bytes": len(data), "sha256": checksum(data)} for name, data in files.items()}
        _write_new(building / MANIFEST, json.dumps(manifest, indent=2).encode())


@contextlib.contextmanager
def new_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside `path`, to be filled by this module's functions; on success it becomes `path`.

    After an error or a crash there is no `path`. Raises `FileExistsError` if `path` exists and is not empty. With
    `replace` the old folder stays until the new one is full. After a crash between the two renames that follow, the
    next write into the parent folder puts the old folder back.
    """
    path = Path(path)
    check_new_folder(path, replace=replace)
    make_folder(path.parent)
    clear_partial(path.parent)
    with _explained(path):
        building, descriptor = _hidden_folder(path.parent)
    _targets[building] = path
    try:
        yield building
        with _explained(path):
            _sync_folder(building)
            if replace and path.is_dir():
                _exchange(building, path)
            else:
                _replace(building, path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        del _targets[building]
        if descriptor is not None:
            os.close(descriptor)
    _sync_folder(path.parent)


@contextlib.contextmanager
def scratch_folder(parent: Path | str) -> Iterator[Path]:
    """Yield a new hidden folder in `parent`, readable by this user alone, that is removed with its files at the end.

    What a killed process left is removed by the next call for the same `parent`.
    """
    parent = Path(parent)
    make_folder(parent)
    clear_partial(parent)
    with _explained(parent):
        folder, descriptor = _hidden_folder(parent)
    try:
        folder.chmod(0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def check_new_folder(path: Path | str, *, replace: bool = False) -> None:
    """Raise `FileExistsError` where `new_folder` would, before the work that fills it."""
    path = Path(path)
    if path.is_file() or (not replace and path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{path} exists already and nothing is overwritten; give another name")


def read_folder(path: Path | str) -> dict[str, bytes]:
    """Read a folder that `write_folder` wrote, and check every file against the manifest.

    Raises `ValueError` that names the first file that is missing, too short, too long or changed.
    """
    path = Path(path)
    try:
        manifest = parse_json((path / MANIFEST).read_bytes())
        entries = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has no readable {MANIFEST} ({error}); the folder is incomplete") from error
    files = {}
    for name, (size, expected) in entries.items():
        if Path(name).name != name:
            raise ValueError(f"{path / MANIFEST} names {name!r}, which is outside its folder")
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{path / name} is listed in the manifest but cannot be read ({error})") from error
        if len(data) != size or checksum(data) != expected:
            raise ValueError(f"{path / name} does not match its checksum: the file is damaged")
        files[name] = data
    return files


def make_folder(path: Path | str) -> None:
    """Make a folder and its parents, all flushed to disk; it may exist already."""
    path = Path(path)
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    with _explained(path):
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def remove_folder(path: Path | str) -> None:
    """Remove a folder; a crash on the way leaves it complete or hidden, never incomplete under its name."""
    path = Path(path)
    doomed = hidden_name(path.parent)
    _replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def check_folder(path: Path | str, *, what: str, replaced: bool = False) -> Path:
    """Return `path`, the folder for `what`, once it is known that it can be written: call it before long work.

    A folder that is `replaced` as a whole is written beside itself. Raises `ValueError` if `path` is a file, if nothing
    can be written there, or if the disk is as good as full.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder for the {what}")
    parent = path.absolute().parent if replaced else path.absolute()
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):  # knows more than the rights do
            pass
    except OSError as error:
        raise ValueError(
            f"{path}: nothing can be written in {parent} ({error.strerror}), so the {what} would be lost; name another "
            "folder"
        ) from error
    free = shutil.disk_usage(parent).free
    if free < _MIN_FREE_BYTES:
        raise ValueError(
            f"{path}: only {free / 2**20:.0f} MiB are free in {parent}, too little for the {what}; make room, or name "
            "another folder"
        )
    return path


def remove_file(path: Path | str) -> None:
    """Remove a file if it exists."""
    Path(path).unlink(missing_ok=True)


def checksum(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _write_new(path: Path, data: bytes) -> None:
    """Write a file of a folder that is being filled."""
    with _explained(path), open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _hidden_file(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Yield the path of a new hidden file and the file; after an error it is removed."""
    while True:
        path = hidden_name(folder)
        file = open(path, "xb")  # noqa: SIM115 - it is closed below
        if hold(file.fileno(), path):
            break
        file.close()
    try:
        yield path, file
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    finally:
        with contextlib.suppress(OSError):  # what could not be written was said already
            file.close()


def _hidden_folder(parent: Path) -> tuple[Path, int | None]:
    """Return a new hidden folder and the descriptor that holds it, which Windows does not have."""
    while True:
        path = hidden_name(parent)
        path.mkdir()
        if os.name != "posix":
            return path, None
        descriptor = os.open(path, os.O_RDONLY)
        if hold(descriptor, path):
            return path, descriptor
        os.close(descriptor)


def _exchange(building: Path, path: Path) -> None:
    """Put a filled folder in the place of `path`; after an error `path` is the old one again."""
    old = replaced_name(path)
    descriptor = None if os.name != "posix" else os.open(path, os.O_RDONLY)
    try:
        if descriptor is not None:
            hold(descriptor, path)
        _replace(path, old)
        try:
            _replace(building, path)
        except BaseException:
            _replace(old, path)
            raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
    remove_folder(old)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of the system into errors of the same kind that name `path` and say what to do."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # not of the system, or explained already
            raise
        shown = next((end / path.relative_to(at) for at, end in _targets.items() if path.is_relative_to(at)), path)
        remedy = _REMEDIES.get(error.errno or 0)
        explained = type(error)(f"{shown} cannot be written: {error.strerror}{f'; {remedy}' if remedy else ''}")
        explained.errno = error.errno
        raise explained from error


_clear_once = functools.cache(clear_partial)
"""The first write to a folder clears it; later ones of the process do not look again."""


def _replace(source: Path, target: Path) -> None:
    os.replace(source, target)


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder; its rename is written through
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
