"""The house: which package may import which, and what must import no torch, read off the tree."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "c2fvl"
LAYERS = (
    {"version", "messages", "progress", "config", "devices", "extras"},
    {"files"},
    {"config_files", "extensions"},
    {"reports"},
    {"data", "metrics", "models"},
    {"checkpoints"},
    {"inference"},
    {"training"},
    {"evaluation", "serve", "dicomweb"},
    {"cluster"},
    {"cli"},
    {"__main__"},
)
"""From bottom to top: a module imports from its own package or from a lower layer."""

NEEDS_TORCH = {
    "data.batch_transforms", "data.batches", "data.dataset", "data.on_device",
    "models.layers", "models.inference_model", "models.output",
    "models.c2fvl", "models.filmfirst", "models.lvit", "models.medt", "models.transunet", "models.uctransnet",
    "models.unet",
    "checkpoints.foreign", "checkpoints.official", "checkpoints.packing", "checkpoints.provenance",
    "checkpoints.trained_model", "checkpoints.weights",
    "inference.cases", "inference.cost", "inference.export", "inference.export_folder", "inference.onnx_translation",
    "inference.precision", "inference.speed",
    "inference.torch_engine",
    "training", "evaluation", "cluster.evaluate",
}  # fmt: skip
"""Modules and packages that may import torch; every other module answers without it."""


def module_of(path):
    """Return the dotted name of a file below `c2fvl`, of a package's `__init__` that of the package."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name: path for path in sorted(SOURCE.rglob("*.py")) if (name := module_of(path))}


def imports_of(path):
    """Return the modules of c2fvl that a file imports anywhere, dotted, without `c2fvl.`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "c2fvl":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("c2fvl."):
            yield node.module.removeprefix("c2fvl.")
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("c2fvl.") for alias in node.names if alias.name.startswith("c2fvl."))


def layer_of(module):
    """Return how high a module stands; an assertion fails for one that belongs to no layer."""
    top = module.split(".")[0]
    places = [place for place, packages in enumerate(LAYERS) if top in packages]
    assert places, f"{module} belongs to no layer"
    return places[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_its_own_package_or_a_lower_one(module):
    for imported in imports_of(MODULES[module]):
        same = imported.split(".")[0] == module.split(".")[0]
        assert same or layer_of(imported) < layer_of(module), f"{module} imports {imported}"


def test_every_package_has_its_layer():
    tops = {module.split(".")[0] for module in MODULES}
    assert tops == set().union(*LAYERS)
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert len(packages) == 13, packages


MAX_LINES, MAX_FUNCTION = 400, 60


def long_functions(path):
    """Yield the functions of a file that are too long, each with the reason that is given for it, or none.

    The reason stands in a comment `# long: reason` above the function or in it.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MAX_FUNCTION:
            about = "\n".join(lines[max(0, node.lineno - 3) : node.end_lineno])
            reason = re.search(r"# long: (.+)", about)
            yield node.name, reason[1] if reason else ""


def test_modules_and_functions_are_short():
    too_long = [name for name, path in MODULES.items() if len(path.read_text("utf-8").splitlines()) > MAX_LINES]
    assert not too_long, f"split them: {too_long}"
    functions = [(f"{name}.{each}", reason) for name, path in MODULES.items() for each, reason in long_functions(path)]
    for name, reason in functions:
        print(f"{name} is long: {reason}")
    unreasoned = [name for name, reason in functions if not reason]
    assert not unreasoned, f"split them, or say why not in a comment `# long: reason` at them: {unreasoned}"


def may_import_torch(module):
    return any(module == name or module.startswith(name + ".") for name in NEEDS_TORCH)


LIGHT = [module for module in MODULES if not may_import_torch(module) and module != "__main__"]


def test_light_modules_import_no_torch():
    code = f"""
import importlib, sys
for name in {LIGHT!r}:
    importlib.import_module("c2fvl." + name)
    if "torch" in sys.modules:
        sys.exit(f"{{name}} imports torch")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.name)
def test_no_torchvision_and_its_dependants(path):
    pattern = r"^\s*(import|from) (torchvision|timm|segmentation_models_pytorch|albumentations)"
    assert not re.search(pattern, path.read_text(encoding="utf-8"), re.M)
