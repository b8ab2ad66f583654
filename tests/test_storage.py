import ast
import builtins
import os
import shutil
from pathlib import Path

import pytest

from c2fvl import storage

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))


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
            if "w" in mode:
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


def test_power_loss_leaves_a_file_old_or_new(tmp_path):
    def prepare(fail_at, undo):
        folder = tmp_path / f"{fail_at}-{undo}"
        storage.write_bytes(folder / "file", b"old " * 100)
        return folder

    seen = set()
    for folder, finished in every_power_loss(
        lambda folder: storage.write_bytes(folder / "file", b"new " * 100), prepare
    ):
        content = (folder / "file").read_bytes()
        assert content in (b"old " * 100, b"new " * 100)
        assert content == b"new " * 100 or not finished
        seen.add(content[:3])
    assert seen == {b"old", b"new"}


def test_power_loss_leaves_a_folder_whole_or_absent(tmp_path):
    files = {"a": b"1" * 50, "b": b"2" * 50}
    results = []

    def prepare(fail_at, undo):
        folder = tmp_path / f"{fail_at}-{undo}"
        folder.mkdir()
        return folder

    for folder, finished in every_power_loss(lambda folder: storage.write_folder(folder / "state", files), prepare):
        if (folder / "state").exists():
            assert storage.read_folder(folder / "state") == files
        results.append((finished, (folder / "state").exists()))
        storage.clear_partial(folder)
        assert {entry.name for entry in folder.iterdir()} <= {"state"}
    assert (True, True) in results
    assert (False, False) in results


def test_failed_write_keeps_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.write_bytes(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("damage", ["shorter", "longer", "changed", "missing", "no manifest", "bad manifest"])
def test_damage_to_a_folder_is_seen(tmp_path, damage):
    folder = tmp_path / "state"
    storage.write_folder(folder, {"a": b"0123456789", "b": b"abc"})
    assert storage.read_folder(folder) == {"a": b"0123456789", "b": b"abc"}
    if damage == "shorter":
        (folder / "a").write_bytes(b"012345678")
    elif damage == "longer":
        (folder / "a").write_bytes(b"0123456789+")
    elif damage == "changed":
        (folder / "a").write_bytes(b"0123456780")
    elif damage == "missing":
        (folder / "a").unlink()
    elif damage == "no manifest":
        (folder / storage.MANIFEST).unlink()
    else:
        (folder / storage.MANIFEST).write_bytes(b'{"a"')
    with pytest.raises(ValueError, match=r"state"):
        storage.read_folder(folder)


def test_a_manifest_cannot_point_outside(tmp_path):
    folder = tmp_path / "state"
    storage.write_folder(folder, {"a": b"x"})
    (tmp_path / "secret").write_bytes(b"x")
    manifest = (folder / storage.MANIFEST).read_text().replace('"a"', '"../secret"')
    (folder / storage.MANIFEST).write_text(manifest)
    with pytest.raises(ValueError, match="outside"):
        storage.read_folder(folder)


def test_folders_are_written_once(tmp_path):
    storage.write_folder(tmp_path / "state", {"a": b"x"})
    with pytest.raises(FileExistsError, match="exists already"):
        storage.write_folder(tmp_path / "state", {"a": b"y"})


def test_json_refuses_what_json_has_not(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json(tmp_path / "file", {"dice": float("nan")})
    assert not (tmp_path / "file").exists()


WRITERS = {
    "write_text", "write_bytes", "imwrite", "savefig", "save_file", "tofile", "savetxt", "savez", "savez_compressed",
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_other_module_writes_files(path):
    """Everything goes through storage.py: no open for writing, and no library's own writer on a path."""
    if path.name == "storage.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        where = f"{path.name}:{node.lineno}"
        if name == "open":
            mode = (
                node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords if k.arg == "mode"), None)
            )
            assert mode is None or (isinstance(mode, ast.Constant) and set(mode.value) <= set("rb")), where
        if name in WRITERS:
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            is_storage = isinstance(owner, ast.Name) and owner.id == "storage"
            to_buffer = bool(node.args) and isinstance(node.args[0], ast.Name) and node.args[0].id == "buffer"
            assert is_storage or to_buffer, f"{where} writes a file by {name}"
        if name == "save":
            assert node.args, where
            target = node.args[0]
            assert isinstance(target, ast.Name) and target.id == "buffer", f"{where} saves elsewhere than to memory"


def test_the_guard_sees_a_writer():
    assert any(path.name == "storage.py" for path in SOURCES)
    assert len(SOURCES) > 15
