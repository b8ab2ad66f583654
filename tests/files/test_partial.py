"""What killed writers leave is removed by the next writer, and what living ones are writing is not."""

import os
import subprocess
import sys

import pytest

from c2fvl.files import partial, storage

WRITER = """
import os, sys
from pathlib import Path
from c2fvl.files import storage

def wait(*_):
    print("writing", flush=True)
    sys.stdin.readline()

folder = Path(sys.argv[1])
if sys.argv[2] == "file":
    storage._replace, rename = (lambda *paths: (wait(), rename(*paths))), storage._replace
    storage.write_bytes(folder / "file", b"whole")
else:
    with storage.new_folder(folder / "new") as building:
        storage.write_bytes(building / "file", b"whole")
        wait()
"""


def start_writer(folder, kind):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    return process


def hidden(folder):
    return [entry for entry in folder.iterdir() if entry.name.startswith(partial.PREFIX)]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_living_writer_keeps_its_hidden_entry_and_a_killed_one_does_not(tmp_path, kind):
    alive, killed = start_writer(tmp_path, kind), start_writer(tmp_path, kind)
    assert len(hidden(tmp_path)) == 2
    killed.kill()
    killed.communicate()
    storage.write_bytes(tmp_path / "other", b"")  # the first write of this process to the folder
    assert len(hidden(tmp_path)) == 1
    alive.communicate("\n")
    assert alive.returncode == 0
    assert (tmp_path / ("file" if kind == "file" else "new/file")).read_bytes() == b"whole"
    assert not hidden(tmp_path)


def test_without_locks_only_old_entries_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "fcntl", None)
    young, old = (tmp_path / f"{partial.PREFIX}{name}" for name in ("young", "old"))
    for entry in (young, old):
        entry.write_bytes(b"x")
    os.utime(old, (0, 0))
    partial.clear_partial(tmp_path)
    assert young.exists() and not old.exists()


def test_what_is_no_file_or_folder_of_ours_stays(tmp_path):
    pipe, link, named = tmp_path / f"{partial.PREFIX}pipe", tmp_path / f"{partial.PREFIX}link", tmp_path / "mine"
    os.mkfifo(pipe)
    named.mkdir()
    (named / "image.png").write_bytes(b"x")
    link.symlink_to(named)
    partial.clear_partial(tmp_path)  # a pipe that is opened would wait for ever
    assert sorted(tmp_path.iterdir()) == sorted((pipe, link, named))
    assert (named / "image.png").read_bytes() == b"x"


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(tmp_path):
    """The old folder is hidden at that moment; the next write puts it back."""
    storage.write_folder(tmp_path / "scores", {"a": b"old"})
    script = (
        "import os, sys\nfrom c2fvl.files import storage\nrename, calls = storage._replace, []\n"
        "def replace(*paths):\n    calls.append(paths)\n    os._exit(9) if len(calls) == 2 else rename(*paths)\n"
        "with storage.new_folder(sys.argv[1], replace=True) as folder:\n"
        "    storage.write_bytes(folder.parent / 'a', b'new')\n    storage._replace = replace\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "scores")], check=False).returncode == 9
    assert not (tmp_path / "scores").exists()
    with storage.new_folder(tmp_path / "another") as folder:
        storage.write_bytes(folder / "b", b"")
    assert storage.read_folder(tmp_path / "scores") == {"a": b"old"}
    assert not hidden(tmp_path)


def test_a_replacement_that_cannot_be_renamed_leaves_the_old_folder(tmp_path, monkeypatch):
    storage.write_folder(tmp_path / "scores", {"a": b"old"})
    rename, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    with (
        pytest.raises(OSError, match=r"scores cannot be written: No space left on device; free some space"),
        storage.new_folder(tmp_path / "scores", replace=True),
    ):
        monkeypatch.setattr(os, "replace", full)
    assert storage.read_folder(tmp_path / "scores") == {"a": b"old"}
    assert not hidden(tmp_path)
