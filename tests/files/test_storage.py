import ast
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.power_loss import every_power_loss

from c2fvl.files import partial, storage

SOURCES = sorted((Path(__file__).parents[2] / "src").rglob("*.py"))


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
        partial.clear_partial(folder)
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


ERRORS = {28: "No space left on device; free some space", 122: "Disk quota exceeded; free some space",
          30: "Read-only file system; name a folder in which you may write", 13: "Permission denied; name a folder",
          27: "File too large; the system limits"}  # fmt: skip


@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize("act", ["file", "folder", "in a folder"])
def test_an_error_of_the_system_names_what_was_written_and_says_what_to_do(tmp_path, monkeypatch, number, act):
    """Never the hidden name: a folder that is filled is named as it will be called."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    def write():
        if act == "folder":
            monkeypatch.setattr(Path, "mkdir", fail)
            storage.make_folder(tmp_path / "out")
        elif act == "file":
            monkeypatch.setattr(os, "fsync", fail)
            storage.write_bytes(tmp_path / "out", b"x")
        else:
            with storage.new_folder(tmp_path / "new") as folder:
                monkeypatch.setattr(os, "fsync", fail)
                storage.write_bytes(folder / "out", b"x")

    with pytest.raises(OSError, match=ERRORS[number]) as caught:
        write()
    monkeypatch.undo()
    path = tmp_path / "new" / "out" if act == "in a folder" else tmp_path / "out"
    assert str(caught.value).startswith(f"{path} cannot be written: ")
    assert caught.value.errno == number
    assert type(caught.value) is type(OSError(number, ""))
    assert list(tmp_path.iterdir()) == []


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


def test_a_folder_is_replaced_by_a_full_one_only(tmp_path):
    storage.write_folder(tmp_path / "model", {"a": b"old"})
    with pytest.raises(ValueError, match="damaged"), storage.new_folder(tmp_path / "model", replace=True) as folder:
        storage.write_bytes(folder / "b", b"new")
        raise ValueError("damaged")
    assert storage.read_folder(tmp_path / "model") == {"a": b"old"}
    with storage.new_folder(tmp_path / "model", replace=True) as folder:
        storage.write_bytes(folder / "b", b"new")
    assert [entry.name for entry in (tmp_path / "model").iterdir()] == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_json_refuses_what_json_has_not(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json(tmp_path / "file", {"dice": float("nan")})
    assert not (tmp_path / "file").exists()


WRITERS = {
    "write_text", "write_bytes", "imwrite", "savefig", "save_file", "tofile", "savetxt", "savez", "savez_compressed",
    "save", "copy", "copy2", "copyfile", "copytree", "move", "rename", "renames", "link", "symlink", "mkstemp",
    "mkdtemp", "NamedTemporaryFile", "TemporaryFile", "symlink_to", "hardlink_to", "touch", "ZipFile",
}  # fmt: skip


def writes(call):
    """Tell whether a call could write a file otherwise than through storage.py."""
    function, arguments = call.func, call.args
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    owner = function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
    first = arguments[0].id if arguments and isinstance(arguments[0], ast.Name) else ""
    if name == "open" and owner == "os":
        return ast.unparse(arguments[1]) != "os.O_RDONLY"
    if any(keyword.arg == "fileobj" and ast.unparse(keyword.value) == "buffer" for keyword in call.keywords):
        return False  # an archive in memory
    if name == "open" and owner == "archive":  # a member of a zip file that is being read
        return len(arguments) > 1
    if name == "open":
        position = 1 if isinstance(function, ast.Name) or owner in ("Image", "io") else 0
        mode = arguments[position] if len(arguments) > position else None
        mode = next((keyword.value for keyword in call.keywords if keyword.arg == "mode"), mode)
        return mode is not None and not (isinstance(mode, ast.Constant) and set(str(mode.value)) <= set("rbt"))
    if name == "ZipFile":
        return len(arguments) > 1 and first != "buffer"
    if name == "copy" and (owner == "copy" or not arguments):  # of an object in memory, a dictionary, an array
        return False
    return name in WRITERS and owner != "storage" and first != "buffer"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_other_module_writes_files(path):
    """Everything goes through storage.py: no open for writing, and no library's own writer on a path."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = [f"{path.name}:{call.lineno} {ast.unparse(call)}" for call in calls if writes(call)]
    assert bool(found) == (path.name == "storage.py"), found


@pytest.mark.parametrize(
    "source",
    ["open(p, 'w')", "open(p, mode='ab')", "open(p, m)", "path.open('w')", "path.open(mode='x')",
     "os.open(p, os.O_RDWR)", "cv2.imwrite(p, a)", "shutil.copy(a, b)", "ZipFile(p, 'w')", "zipfile.ZipFile(p, 'a')",
     "np.savez(p, a)", "tarfile.open(p, 'w')", "tarfile.open(fileobj=file, mode='w')",
     "torch.save(a, p)", "path.write_text(t)", "figure.savefig(p)", "path.rename(q)"],
)  # fmt: skip
def test_the_guard_sees_writers(source):
    assert writes(ast.parse(source, mode="eval").body)


@pytest.mark.parametrize(
    "source",
    ["open(p)", "open(p, 'rb')", "path.open()", "path.open('rb')", "os.open(p, os.O_RDONLY)", "Image.open(p)",
     "storage.write_text(p, t)", "image.save(buffer, 'PNG')", "zipfile.ZipFile(p)", "settings.copy()",
     "tarfile.open(fileobj=buffer, mode='w')"],
)  # fmt: skip
def test_the_guard_lets_readers_pass(source):
    assert not writes(ast.parse(source, mode="eval").body)


def test_threads_that_write_one_file_leave_it_whole(tmp_path):
    contents = [bytes([number]) * 20_000 for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda number: storage.write_bytes(tmp_path / "file", contents[number % 4], durable=False), range(400)
            )
        )
    assert (tmp_path / "file").read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("replaced", [False, True])
def test_rights_and_space_are_known_before_the_work(tmp_path, monkeypatch, replaced):
    out = tmp_path / "new" / "out"
    assert storage.check_folder(out, what="masks", replaced=replaced) == out
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 2**20))
    with pytest.raises(ValueError, match=r"out: only 1 MiB are free in .*make room"):
        storage.check_folder(out, what="masks", replaced=replaced)
    monkeypatch.undo()
    asked = []

    def refuse(*, dir):  # noqa: A002 - the name of the standard library
        asked.append(dir)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    out = tmp_path / "there"
    out.mkdir()
    with pytest.raises(ValueError, match=r"there: nothing can be written in .*\(Permission denied\).*masks.*lost"):
        storage.check_folder(out, what="masks", replaced=replaced)
    assert asked == [tmp_path if replaced else out]
