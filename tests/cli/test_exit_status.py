"""What the first and the second Ctrl-C and SIGTERM do, with real signals to real processes."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from support.tiny_runs import TINY

from c2fvl.cli import exit_status
from c2fvl.files.partial import PREFIX
from c2fvl.training.resume_state import load_state
from c2fvl.training.signals import StopSignals

NUMBERS = (signal.SIGINT, signal.SIGTERM)
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}

WAIT = """
import sys, time

def wait(word):
    print(word, flush=True)
    time.sleep(120)
"""
"""A signal interrupts the waiting; nothing else does."""
MAIN = """
from c2fvl.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
IN_A_WRITE = WAIT + "import os\nos.fsync = lambda descriptor: wait('working')\n" + MAIN
IN_THE_PROGRESS = (
    WAIT + "from c2fvl.cli import terminal\n"
    "terminal.TerminalProgress.advance = terminal.TerminalProgress.stage = lambda *_: wait('working')\n"
    "from c2fvl.cli import inference\ninference._print_record = lambda *_, **__: wait('working')\n" + MAIN
)
IN_THE_CLEANING = IN_A_WRITE.replace(
    "import os", "import os, shutil\nshutil.rmtree = lambda *_, **__: wait('cleaning')"
)


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(process, word):
    for line in process.stdout:
        if line == f"{word}\n":
            return
    raise AssertionError(process.communicate()[1])


def end_of(process):
    """Return the status as a shell shows it, and what was said."""
    _, said = process.communicate(timeout=60)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode, said


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_ends_a_command_and_leaves_no_temporary_file(tmp_path, number):
    process = start(IN_A_WRITE, "phantom", tmp_path / "data", "--num-cases", 6)
    until(process, "working")
    assert len(list(tmp_path.iterdir())) == 1  # the hidden folder
    process.send_signal(number)
    assert end_of(process) == (STATUS[number], f"c2fvl: stopped by {number.name}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", NUMBERS)
def test_the_second_signal_ends_a_command_at_once(tmp_path, number):
    process = start(IN_THE_CLEANING, "phantom", tmp_path / "data", "--num-cases", 6)
    until(process, "working")
    process.send_signal(signal.SIGINT)
    until(process, "cleaning")
    process.send_signal(number)
    assert end_of(process)[0] == STATUS[number]


LONG = {
    "evaluate": ("evaluate", "MODEL", "DATA", "--out", "OUT"),
    "audit": ("audit", "MODEL", "DATA", "--out", "OUT"),
    "compare": ("compare", "MODEL", "--root", "DATA", "--no-speed", "--fresh", "--out", "OUT"),
    "calibrate": ("calibrate", "MODEL", "DATA"),
    "fit-ood": ("fit-ood", "MODEL", "DATA"),
    "bench": ("bench", "unet", "--only", "inference", "--out", "OUT"),
    "export": ("export", "MODEL", "OUT/network.onnx"),
    "predict": ("predict", "DATA/Test_Folder/img", "--model", "MODEL", "--out", "OUT"),
    "check": ("check", "DATA", "--deep"),
}


@pytest.mark.slow(like="test_the_first_signal_ends_a_command_and_leaves_no_temporary_file")
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", LONG)
def test_every_long_command_ends_with_the_status_of_the_signal(tiny_run, phantom_root, tmp_path, name, number):
    model, out = tmp_path / "run" / "best", tmp_path / "out"
    shutil.copytree(tiny_run / "best", model)
    before = sorted(tmp_path.rglob("*"))
    values = {"MODEL": model, "DATA": phantom_root, "OUT": out}
    words = [str(values.get(word, word)).replace("OUT/", f"{tmp_path}/") for word in LONG[name]]
    words = [word.replace("DATA/", f"{phantom_root}/") for word in words]
    process = start(IN_THE_PROGRESS, *words)
    until(process, "working")
    process.send_signal(number)
    status, said = end_of(process)
    assert status == STATUS[number], said
    assert said.endswith(f"c2fvl: stopped by {number.name}\n")
    assert "Traceback" not in said
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    if name == "predict":  # each image is whole as soon as it is done
        assert {path.suffix for path in left} == {"", ".png", ".json"}
        left = [path for path in left if path.name.startswith(PREFIX)]
    assert left == []


IN_A_SAVE = (
    WAIT + "from c2fvl.training import loop, saving\nsaves, save = [], saving.save_state\n"
    "def save_state(*arguments):\n"
    "    saves.append(1)\n"
    "    if len(saves) == 2:\n"
    "        wait('saving')\n"
    "    return save(*arguments)\n"
    "saving.save_state = save_state\n"
    "from c2fvl.training.steps import StreamedSteps\n"
    "step = StreamedSteps.step\n"
    "def announced(*arguments):\n"
    "    step(*arguments)\n"
    "    if not saves[1:]:\n"
    "        print('training', flush=True)\n"
    "        sys.stdin.readline()\n"
    "StreamedSteps.step = announced\n" + MAIN
)


@pytest.mark.slow(like="test_a_second_signal_is_that_of_whoever_called")
@pytest.mark.parametrize("second", NUMBERS)
@pytest.mark.parametrize("first", NUMBERS)
def test_a_training_saves_at_the_first_signal_and_ends_at_the_second(phantom_root, tmp_path, first, second):
    run = tmp_path / "run"
    process = start(IN_A_SAVE, "train", "debug", *TINY, f'data.root="{phantom_root}"', "--run-dir", run)
    until(process, "training")
    process.send_signal(first)
    process.stdin.write("\n")
    process.stdin.flush()
    until(process, "saving")
    process.send_signal(second)
    status, said = end_of(process)
    assert status == STATUS[second], said
    assert said.endswith(f"c2fvl: stopped by {second.name}\n")
    assert load_state(run / "last").progress["batches"] == 0  # the state before


@pytest.mark.parametrize("number", NUMBERS)
def test_a_second_signal_is_that_of_whoever_called(number):
    before = [signal.getsignal(each) for each in NUMBERS]
    with (
        pytest.raises(exit_status.Stopped, match=f"stopped by {number.name}"),
        exit_status.stop_by_signals(),
        StopSignals() as signals,
    ):
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == "SIGINT"
        os.kill(os.getpid(), number)
        raise AssertionError("the second signal was not followed")
    assert [signal.getsignal(each) for each in NUMBERS] == before


def test_statuses_are_those_of_a_shell():
    assert {name: exit_status.status_of_signal(name) for name in ("SIGINT", "SIGTERM")} == {
        "SIGINT": 130,
        "SIGTERM": 143,
    }
    assert (exit_status.DONE, exit_status.PROBLEMS, exit_status.WRONG_CALL, exit_status.TIME_IS_UP) == (0, 1, 2, 75)


def test_handlers_are_as_before_after_a_command():
    from c2fvl.cli.main import main

    before = [signal.getsignal(number) for number in NUMBERS]
    assert main(["presets"]) == 0
    assert [signal.getsignal(number) for number in NUMBERS] == before
