"""The packages for clinical files are loaded when one is written, and named where they are missing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from c2fvl.inference import outputs
from c2fvl.inference.outputs.nifti_nrrd import grid_of_film, nifti, nrrd
from c2fvl.inference.outputs.result_info import ResultInfo
from c2fvl.inference.outputs.secondary_capture import secondary_capture
from c2fvl.inference.outputs.seg import segmentation
from c2fvl.inference.outputs.structured_report import report

MODULES = sorted(path.stem for path in Path(outputs.__file__).parent.glob("*.py") if path.stem != "__init__")
ABOUT = ResultInfo("filmfirst", "ab" * 32)
MASK = np.zeros((8, 6), np.uint8)


def test_importing_the_outputs_loads_no_package_for_clinical_files():
    code = f"""
import importlib, sys
for name in {MODULES!r}:
    importlib.import_module("c2fvl.inference.outputs." + name)
print(*{{"pydicom", "highdicom", "nibabel"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("missing", ["pydicom", "highdicom"])
@pytest.mark.parametrize(
    "write",
    [
        lambda: segmentation([], MASK, ABOUT),
        lambda: secondary_capture([], np.zeros((8, 6, 3), np.uint8), ABOUT),
        lambda: report([], "No lesion.", ABOUT),
    ],
)
def test_a_missing_package_for_dicom_is_named_with_the_remedy(missing, write, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"^DICOM results need pydicom and highdicom.*pip install 'c2fvl\[dicom\]'$"):
        write()


def test_a_missing_package_for_nifti_is_named_and_nrrd_needs_none(monkeypatch):
    for name in ("nibabel", "pydicom", "highdicom"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"^NIfTI results need nibabel.*pip install 'c2fvl\[nifti\]'$"):
        nifti(MASK, grid_of_film(MASK.shape))
    assert nrrd(MASK, grid_of_film(MASK.shape)).startswith(b"NRRD0004\n")
