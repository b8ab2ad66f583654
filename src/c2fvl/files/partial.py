"""Hidden names for what is being written, and the removal of what killed processes left under such names.

A writer holds a lock on its hidden file or folder until it is renamed. The kernel gives the lock back when the process
ends, however it ends, so an entry that can be locked has no writer. Folders of an evaluation that is being replaced are
put back, not removed.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

PREFIX = ".c2fvl-partial-"
_REPLACED = f"{PREFIX}old-"
_SECONDS_WITHOUT_LOCKS = 24 * 60 * 60
"""Age from which an entry counts as abandoned where the file system has no locks."""


def hidden_name(folder: Path) -> Path:
    """Return a hidden path in `folder` that nobody else uses."""
    return folder / f"{PREFIX}{os.urandom(8).hex()}"


def replaced_name(path: Path) -> Path:
    """Return the hidden path of a folder while a new one takes its name."""
    return path.with_name(f"{_REPLACED}{path.name}")


def hold(descriptor: int, path: Path) -> bool:
    """Lock an open entry as in use until it is closed; return False if it was removed before the lock was there."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def sole_user(folder: Path | str, *, admits: bool = False) -> Iterator[bool]:
    """Yield whether no other process uses `folder` within this context, which all of them must enter.

    The kernel notices the end of a process, however it ends. A file system without locks gives True. A user who
    `admits` others keeps out whoever does not `share`, once it has become the only one.
    """
    if fcntl is None:
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        is_sole = _is_locked(descriptor)
        if is_sole and admits:
            share(folder, descriptor)
        yield is_sole
    finally:
        os.close(descriptor)


def share(folder: Path | str, descriptor: int | None = None) -> int | None:
    """Use `folder` together with others that share it, and return the descriptor that does so until it is closed.

    While anybody shares a folder it has no `sole_user`. `descriptor` is that of a sole user who admits others. None
    where the system or the file system has no locks.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY) if descriptor is None else descriptor
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _is_locked(descriptor: int) -> bool:
    """Lock an open entry unless another process has it locked; return whether it may be used."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def clear_partial(folder: Path | str) -> None:
    """Remove what killed processes left in `folder`, and put a replaced folder back whose successor never came.

    Entries of living processes stay, and so does what cannot be removed.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 - faster than paths in folders of many files
            if name.startswith(PREFIX):
                with contextlib.suppress(OSError):
                    _clear(Path(folder) / name)


def _clear(entry: Path) -> None:
    if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
        return
    descriptor = None if os.name != "posix" else os.open(entry, os.O_RDONLY)
    try:
        if _is_abandoned(entry, descriptor):
            _remove(entry)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_abandoned(entry: Path, descriptor: int | None) -> bool:
    if fcntl is not None and descriptor is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return time.time() - entry.stat().st_mtime > _SECONDS_WITHOUT_LOCKS


def _remove(entry: Path) -> None:
    if not entry.is_dir():
        entry.unlink(missing_ok=True)
        return
    if entry.name.startswith(_REPLACED):
        path = entry.with_name(entry.name.removeprefix(_REPLACED))
        if not path.exists():
            os.replace(entry, path)
            return
    shutil.rmtree(entry, ignore_errors=True)
