"""The examples of the page on clinical files run, in a folder with a real chest film."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from support.clinical_files import dicom, validation_errors

pytest.importorskip("highdicom", reason="highdicom is not installed")
PAGE = Path(__file__).parents[3] / "docs" / "clinical.md"


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dicom("RG1_UNCR.dcm").save_as("film.dcm")
    found = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(found) == 3
    said, namespace = io.StringIO(), {}
    for block in found:
        with contextlib.redirect_stdout(said):
            exec(compile(block, PAGE.name, "exec"), namespace)
    record, first, second = said.getvalue().splitlines()
    assert "'window_source': 'window'" in record
    assert first.startswith("Of the patient: ")
    assert "right" in first
    assert second == "Of the patient: lower zone of lung, right."
    assert validation_errors("film_seg.dcm") == []
