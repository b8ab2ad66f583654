"""A disk whose power goes at any operation."""

import builtins
import os
import shutil
from pathlib import Path

import pytest


class PowerLossError(BaseException):
    """The machine is off: nothing after this happens, no clean-up either."""


class FailingDisk:
    """A disk whose power goes at the n-th operation.

    What was not flushed is then lost: files lose their second half, renames in folders that were not flushed are
    undone where `undo` says so.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int, *, undo: bool) -> None:
        self.count, self.fail_at, self.undo, self.off = 0, fail_at, undo, False
        self.unsynced: dict[Path, None] = {}
        self.renames: list[tuple[Path, Path, bytes | None]] = []
        self.paths: dict[int, Path] = {}
        real_open, real_fsync, real_replace, real_rmtree = builtins.open, os.fsync, os.replace, shutil.rmtree
        real_os_open, real_unlink = os.open, Path.unlink

        def fake_open(path, mode="r", *arguments, **keywords):
            self._operation()
            file = real_open(path, mode, *arguments, **keywords)
            if set(mode) & set("wx"):
                self.unsynced[Path(path)] = None
                self.paths[file.fileno()] = Path(path)
            return file

        def fake_os_open(path, flags, *arguments, **keywords):
            descriptor = real_os_open(path, flags, *arguments, **keywords)
            self.paths[descriptor] = Path(path)
            return descriptor

        def fake_fsync(descriptor):
            self._operation()
            real_fsync(descriptor)
            path = self.paths[descriptor]
            if path.is_dir():
                self.renames = [entry for entry in self.renames if entry[1].parent != path]
            else:
                self.unsynced.pop(path, None)

        def fake_replace(source, target):
            self._operation()
            source, target = Path(source), Path(target)
            before = target.read_bytes() if target.is_file() else None
            real_replace(source, target)
            if source in self.unsynced:
                self.unsynced[target] = self.unsynced.pop(source)
            self.renames.append((source, target, before))

        def fake_rmtree(path, *arguments, **keywords):
            if self.off:
                return
            for entry in sorted(Path(path).rglob("*")) if Path(path).is_dir() else []:
                self._operation()
                entry.unlink(missing_ok=True)
            real_rmtree(path, *arguments, **keywords)

        def fake_unlink(path, *arguments, **keywords):
            if not self.off:
                self._operation()
                real_unlink(path, *arguments, **keywords)

        monkeypatch.setattr(builtins, "open", fake_open)
        monkeypatch.setattr(os, "open", fake_os_open)
        monkeypatch.setattr(os, "fsync", fake_fsync)
        monkeypatch.setattr(os, "replace", fake_replace)
        monkeypatch.setattr(shutil, "rmtree", fake_rmtree)
        monkeypatch.setattr(Path, "unlink", fake_unlink)

    def _operation(self) -> None:
        if self.off:
            raise PowerLossError
        self.count += 1
        if self.count == self.fail_at:
            self.off = True
            raise PowerLossError

    def lose(self) -> None:
        """Do to the files what the power loss did; call after the patches are undone."""
        if self.undo:
            for source, target, before in reversed(self.renames):
                if target.exists():
                    os.replace(target, source)
                if before is not None:
                    target.write_bytes(before)
        for path in self.unsynced:
            if path.is_file():
                data = path.read_bytes()
                path.write_bytes(data[: len(data) // 2])


def every_power_loss(act, prepare):
    """Run `act` with the power going at each of its operations, with and without undone renames; yield folders."""
    fail_at, finished = 0, False
    while not finished:
        fail_at += 1
        for undo in (False, True):
            folder = prepare(fail_at, undo)
            with pytest.MonkeyPatch.context() as monkeypatch:
                disk = FailingDisk(monkeypatch, fail_at, undo=undo)
                try:
                    act(folder)
                    finished = True
                except PowerLossError:
                    finished = False
            if not finished:
                disk.lose()
            yield folder, finished
    assert fail_at > 4, "the act has fewer operations than writing one file takes"
