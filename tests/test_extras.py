"""What is said where an extra is not installed, and that the extras name what the package imports."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from c2fvl.extras import PACKAGES, missing_extra

PROJECT = Path(__file__).parents[1]
IMPORTED_AS = {"Pillow": "PIL", "pillow": "PIL", "opencv-python-headless": "cv2", "python-gdcm": "gdcm"}
AT_THE_TOP = {"numpy", "cv2", "PIL", "onnxruntime", "openpyxl", "rich", "safetensors"}


def requirements(extra=None):
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    names = (re.split(r"[<>=\[]", entry)[0] for entry in entries if not entry.startswith("c2fvl["))
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def imported():
    for path in (PROJECT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            yield from ((name.partition(".")[0], path) for name in names)


def test_the_package_alone_requires_what_prediction_imports():
    assert requirements() == AT_THE_TOP


def test_every_package_that_is_imported_is_required_or_in_an_extra():
    known = {*AT_THE_TOP, "c2fvl", *(name for packages in PACKAGES.values() for name in packages)}
    known |= {"_typeshed", "gdcm", "pylibjpeg", "jpeg_ls", "openjpeg", "urllib3"}  # come with packages of extras
    known |= {"markupsafe"}  # comes with jinja2
    unknown = {(name, path.name) for name, path in imported() if name not in known | sys.stdlib_module_names}
    assert not unknown


def test_each_extra_names_packages_that_it_installs():
    for extra, packages in PACKAGES.items():
        asked = requirements(extra)
        missing = {name for name in packages if name not in asked and name != "onnx_ir"}  # comes with onnxscript
        assert not missing, f"{extra} does not install {missing}"


def test_a_missing_extra_is_named():
    found = missing_extra(ModuleNotFoundError("no", name="torch.nn"))
    assert found == "this needs torch, which is not installed: pip install 'c2fvl[train]'"
    assert missing_extra(ModuleNotFoundError("no", name="something_else")) is None


def test_in_python_the_extra_is_named_too():
    code = "import sys; sys.modules['torch'] = None\nimport c2fvl\nc2fvl.load_model"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: c2fvl.load_model: this needs torch, which is not installed: pip install 'c2fvl[train]'"
    )
