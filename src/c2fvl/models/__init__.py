"""Networks, one file each. What needs torch is loaded when it is first asked for."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c2fvl.models.build import MODELS, build_model
    from c2fvl.models.output import FindingLogits, Output, SegmentationModel

__all__ = ["MODELS", "FindingLogits", "Output", "SegmentationModel", "build_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'c2fvl.models' has no attribute {name!r}")
    home = "build" if name in ("MODELS", "build_model") else "output"
    return getattr(importlib.import_module(f"c2fvl.models.{home}"), name)
