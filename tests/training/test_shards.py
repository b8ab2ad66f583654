"""Training from tar shards: the same run as from the folder, to the bit, in one process and on several machines."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.same_runs import assert_same_run
from support.tiny_runs import TINY

from c2fvl.config_files import load_config
from c2fvl.data.shard_writer import cases_of, write_shards
from c2fvl.training.loop import train


@pytest.fixture(scope="module")
def shards(phantom_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "out"
    write_shards(cases_of(phantom_root), out, size=40_000)
    return out


def test_an_epoch_from_shards_and_one_from_the_folder_are_the_run_from_the_folder(
    tiny_run, phantom_root, shards, tmp_path
):
    """The same cases, order, draws and scores; and the state of the run takes them for the same data."""
    pattern = f'data.root="{shards}/{{train,val}}-*.tar"'
    run = train(load_config("debug", [*TINY, pattern, "train.epochs=1"]), run=tmp_path / "run").run
    train(resume=run, overrides=("train.epochs=2", f'data.root="{phantom_root}"'))
    assert_same_run(run, tiny_run)


@pytest.mark.slow(like="test_an_epoch_from_shards_and_one_from_the_folder_are_the_run_from_the_folder")
def test_two_machines_train_from_shards_as_two_processes_from_the_folder(phantom_root, shards, tmp_path):
    """Two calls of torchrun that meet, as on two machines, with an interruption; one call of two processes."""
    settings = [*TINY, "train.device=auto", "train.ema=0.8"]
    one_machine = ["--standalone", "--nproc_per_node=2"]
    torchrun(one_machine, "train", "debug", *settings, f'data.root="{phantom_root}"', "--run-dir", tmp_path / "folder")
    first = ["train", "debug", *settings, f'data.root="{shards}"', "train.epochs=1", "--run-dir", tmp_path / "shards"]
    on_two_machines(*first)
    on_two_machines("train", "--resume", tmp_path / "shards", "train.epochs=2")
    assert_same_run(tmp_path / "folder", tmp_path / "shards")


def on_two_machines(*arguments):
    meeting = f"--rdzv_endpoint=127.0.0.1:{free_port()}"
    options = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", meeting]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: torchrun(options, *arguments), range(2)))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(options, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", "c2fvl", *map(str, arguments)],
        capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
