"""Networks, one file each. What needs torch is loaded when it is first asked for."""

import importlib
from typing import TYPE_CHECKING, Any

from c2fvl.models.registry import build_model

if TYPE_CHECKING:
    from c2fvl.models.output import FindingLogits, Output

__all__ = ["FindingLogits", "Output", "build_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'c2fvl.models' has no attribute {name!r}")
    return getattr(importlib.import_module("c2fvl.models.output"), name)
