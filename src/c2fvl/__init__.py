"""Segmentation of medical images with the help of a report.

`load_model`, `Predictor`, `build_model` and `parse_report` are loaded when they are first asked for, so that
`import c2fvl` stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from c2fvl.extras import missing_extra
from c2fvl.version import __version__

if TYPE_CHECKING:
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.inference.predictor import Predictor
    from c2fvl.models import build_model
    from c2fvl.reports.report import Report, parse_report

__all__ = ["Predictor", "Report", "__version__", "build_model", "load_model", "parse_report"]

_HOMES = {
    "Predictor": "c2fvl.inference.predictor",
    "Report": "c2fvl.reports.report",
    "build_model": "c2fvl.models",
    "load_model": "c2fvl.checkpoints.trained_model",
    "parse_report": "c2fvl.reports.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'c2fvl' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        remedy = missing_extra(error)
        if remedy is None:
            raise
        raise ModuleNotFoundError(f"c2fvl.{name}: {remedy}", name=error.name) from error
