"""docs/extend.md can be followed: its files are written, its commands and its lines of Python run, in their order."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import BLOCK, DOCS, commands_in

from c2fvl.cli.main import main

PAGE = BLOCK.findall((DOCS / "extend.md").read_text(encoding="utf-8"))
TAKE_LONG = {"export", "audit", "compare"}


def file_name(block):
    found = re.match(r"# (\w+\.py)\n", block)
    return found and found[1]


@pytest.fixture
def folder(phantom_root, tmp_path, monkeypatch):
    """A folder with the files of the page and the synthetic images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for _, language, block in PAGE:
        if language == "python" and file_name(block):
            Path(file_name(block)).write_text(block)
    shutil.copytree(phantom_root, tmp_path / "synthetic")
    yield tmp_path
    for name in ("my_network", "my_loss"):
        sys.modules.pop(name, None)


def test_the_network_the_loss_and_the_data_of_the_page_train(folder, capsys):
    ran = []
    for _, language, block in PAGE:
        if language == "python" and not file_name(block):
            exec(compile(block, "extend.md", "exec"), {})
        for words in commands_in(block) if language == "sh" else ():
            if words[0] in {"phantom", *TAKE_LONG} or {"mine.onnx", "runs/wide", "runs/c2fvl"} & set(words):
                continue  # made by the fixture, or asked by the slow test
            shorter = ["train.epochs=1"] if words[0] == "train" else []
            assert main([*words, *shorter]) == 0, capsys.readouterr().err
            ran.append(words[0])
    assert ran == ["train", "evaluate", "predict", "train", "check", "train", "evaluate"]
    assert '"train_certainty"' in Path("runs/focal/log.jsonl").read_text()
    assert len(list(Path("masks").glob("*.png"))) == 6


@pytest.mark.slow(like="test_the_network_the_loss_and_the_data_of_the_page_train")
def test_the_page_can_be_typed(folder):
    shutil.rmtree(folder / "synthetic")
    (folder / "bin").mkdir()
    command = folder / "bin" / "c2fvl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m c2fvl "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _, language, block in PAGE:
        typed = ["bash", "-e", "-c", block] if language == "sh" else [sys.executable, "-c", block]
        done = subprocess.run(typed, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    assert Path("mine.onnx").is_file()
