"""The house: which package may import which, and what must import no torch, read off the tree."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "c2fvl"
LAYERS = (
    {"version", "messages", "progress", "config"},
    {"config_files", "files", "extensions"},
    {"reports"},
    {"data", "metrics", "models"},
    {"checkpoints"},
    {"inference"},
    {"training"},
    {"evaluation"},
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
    "checkpoints.trained_model",
    "inference.cases", "inference.cost", "inference.export", "inference.precision", "inference.torch_engine",
    "training", "evaluation",
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
