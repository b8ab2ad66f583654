"""What lies in examples/ runs as it is: the notebook here, client.py in tests/serve/test_command.py."""

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest

from c2fvl.data.phantom.examples import example

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
TESTED_HERE = {"quickstart.ipynb"}


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    return nbformat.read(NOTEBOOK, as_version=4)


def check_files(folder):
    assert (folder / "films" / "film_1_masks.png").is_file()
    assert (folder / "film_1.png").is_file() and (folder / "film_1.json").is_file()
    assert (folder / "audit" / "audit.html").is_file()


def test_every_example_has_a_test():
    found = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    elsewhere = (Path(__file__).parent / "serve" / "test_command.py").read_text(encoding="utf-8")
    assert {name for name in found if f'"{name}"' not in elsewhere} == TESTED_HERE


def test_the_notebook_is_committed_without_outputs(notebook):
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [None] * 8
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")


def test_the_cells_of_the_notebook_run(notebook, tmp_path, monkeypatch):
    pytest.importorskip("IPython", reason="ipykernel is not installed")
    monkeypatch.chdir(tmp_path)
    said, namespace = io.StringIO(), {}
    with contextlib.redirect_stdout(said):
        for cell in notebook.cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, cell.id, "exec"), namespace)
    assert said.getvalue().startswith(example(0).report)
    assert "no report: lesion" in said.getvalue() and "correct report" in said.getvalue()
    check_files(tmp_path / "quickstart")


@pytest.mark.slow(like="test_the_cells_of_the_notebook_run")
def test_the_notebook_runs_in_a_kernel(notebook, tmp_path, monkeypatch):
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = [output.output_type for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert kinds.count("execute_result") == 2 and "error" not in kinds
    check_files(tmp_path / "quickstart")
