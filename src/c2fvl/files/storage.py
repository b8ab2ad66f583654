"""The one way to write a file: whole or not at all.

A file is written under a temporary name beside its target, flushed to the disk, renamed over the target, and the
folder is flushed as well. A crash, a full disk or a power cut leaves either the old file or the new one, never a
part. Nothing else in the package opens a file for writing; a test reads the syntax tree to keep it so.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_TEMPORARY = ".c2fvl-partial-"


def write_bytes(path: Path | str, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`, replacing what is there, whole or not at all.

    The folder is made where it is missing. `OSError` is passed on with the old file untouched. What can be made again
    need not be `durable`: it is then not waited for until the disk has it, and may be damaged by a power cut.
    """
    path = Path(path)
    make_folder(path.parent)
    writer = f"{os.getpid()}-{threading.get_native_id()}"  # threads, too, may write one file at a time
    temporary = path.with_name(f"{_TEMPORARY}{writer}-{path.name}"[:250])
    try:
        if durable:
            _write_and_sync(temporary, data)
        else:
            temporary.write_bytes(data)
        _replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_folder(path.parent)


def cache_folder(given: str, kind: str) -> Path:
    """Return the folder that settings name, or else c2fvl/<kind> in the folder that the system has for caches."""
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "c2fvl" / kind


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON; a NaN or an infinity is an error, for JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_folder(path: Path | str, files: Mapping[str, bytes]) -> None:
    """Write a new folder that holds `files` and a manifest of their SHA-256, whole or not at all.

    A folder cannot be replaced in one step, so whoever keeps several versions gives each a name of its own. Raises
    `FileExistsError` before anything is written where `path` is there already.
    """
    if MANIFEST in files:
        raise ValueError(f"the name {MANIFEST} is taken by the folder's own list of checksums")
    with new_folder(path) as building:
        for name, data in files.items():
            _write_and_sync(building / name, data)
        manifest = {name: {"bytes": len(data), "sha256": checksum(data)} for name, data in files.items()}
        _write_and_sync(building / MANIFEST, json.dumps(manifest, indent=2).encode())


@contextlib.contextmanager
def new_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside `path` to fill by this module's functions; it becomes `path` when all went well.

    After an error or a crash `path` is not there. Raises `FileExistsError` where it is already there and not empty;
    with `replace` the folder there stays until the new one is full, and only a crash just then leaves neither.
    """
    path = Path(path)
    if path.is_file() or (not replace and path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{path} exists already; a folder is written once, under a new name")
    make_folder(path.parent)
    building = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
    building.chmod(0o755)  # mkdtemp makes it for the user alone
    try:
        yield building
        _sync_folder(building)
        if replace and path.is_dir():
            remove_folder(path)
        _replace(building, path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def read_folder(path: Path | str) -> dict[str, bytes]:
    """Read a folder that `write_folder` wrote, after checking every byte against its manifest.

    Raises `ValueError` that names the first file that is missing, too short, too long or changed.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        entries = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has no readable {MANIFEST} ({error}); it was not written whole") from error
    files = {}
    for name, (size, expected) in entries.items():
        if Path(name).name != name:
            raise ValueError(f"{path / MANIFEST} names {name!r}, which lies outside its folder")
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{path / name} is listed in the manifest but cannot be read ({error})") from error
        if len(data) != size or checksum(data) != expected:
            raise ValueError(f"{path / name} does not match its checksum: the file is damaged")
        files[name] = data
    return files


def make_folder(path: Path | str) -> None:
    """Make a folder with those above it, each of them on the disk when this returns; it may be there already."""
    path = Path(path)
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def remove_folder(path: Path | str) -> None:
    """Remove a folder so that a crash on the way leaves it whole or out of sight, never half under its name."""
    path = Path(path)
    doomed = path.with_name(f"{_TEMPORARY}old-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    _replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def check_folder(path: Path | str, *, what: str) -> Path:
    """Return the folder that `what` goes to; `ValueError` where a file is in its place."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder for the {what}")
    return path


def remove_file(path: Path | str) -> None:
    """Remove a file if it is there."""
    Path(path).unlink(missing_ok=True)


def clear_partial(folder: Path | str) -> None:
    """Remove what an interrupted write left in `folder`; nothing that was written whole is touched."""
    for entry in Path(folder).glob(f"{_TEMPORARY}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def checksum(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _write_and_sync(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
