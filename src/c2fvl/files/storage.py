"""The one way to write a file: completely or not at all.

A file is written under a temporary name beside its target, flushed to disk and renamed over the target; then the folder
is flushed. After a crash, a full disk or a power cut there is either the old file or the new one, never a part of it.
No other module opens a file for writing; a test reads the syntax trees to check this.
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

from c2fvl.files.parsing import parse_json

MANIFEST = "manifest.json"
_TEMPORARY = ".c2fvl-partial-"
_MIN_FREE_BYTES = 16 * 2**20


def write_bytes(path: Path | str, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`, completely or not at all; an old file is replaced.

    A missing folder is made. After an `OSError` the old file is untouched. Use `durable=False` for files that can be
    made again: the call then does not wait for the disk, and a power cut may damage the file.
    """
    path = Path(path)
    make_folder(path.parent)
    writer = f"{os.getpid()}-{threading.get_native_id()}"  # several threads may write the same file
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
    """Return the folder `given` by the settings, or c2fvl/<kind> in the cache folder of the user."""
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "c2fvl" / kind


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are errors, because JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_folder(path: Path | str, files: Mapping[str, bytes]) -> None:
    """Write a new folder with `files` and a manifest of their SHA-256, completely or not at all.

    A folder cannot be replaced in one step, so give each version a new name. Raises `FileExistsError`, before anything
    is written, if `path` exists.
    """
    if MANIFEST in files:
        raise ValueError(f"the name {MANIFEST} is reserved for the folder's checksums")
    with new_folder(path) as building:
        for name, data in files.items():
            _write_and_sync(building / name, data)
        manifest = {name: {"bytes": len(data), "sha256": checksum(data)} for name, data in files.items()}
        _write_and_sync(building / MANIFEST, json.dumps(manifest, indent=2).encode())


@contextlib.contextmanager
def new_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside `path`, to be filled by this module's functions; on success it becomes `path`.

    After an error or a crash there is no `path`. Raises `FileExistsError` if `path` exists and is not empty. With
    `replace` the old folder stays until the new one is full; only a crash at that moment leaves neither.
    """
    path = Path(path)
    if path.is_file() or (not replace and path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{path} exists already; give another name")
    make_folder(path.parent)
    building = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
    building.chmod(0o755)  # mkdtemp lets only the user read it
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
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def remove_folder(path: Path | str) -> None:
    """Remove a folder; a crash on the way leaves it complete or hidden, never incomplete under its name."""
    path = Path(path)
    doomed = path.with_name(f"{_TEMPORARY}old-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
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
        with tempfile.NamedTemporaryFile(prefix=_TEMPORARY, dir=parent):  # knows more than the rights do
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


def clear_partial(folder: Path | str) -> None:
    """Remove what interrupted writes left in `folder`; complete files stay."""
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
