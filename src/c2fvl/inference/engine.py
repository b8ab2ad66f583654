"""What an engine is: the protocol that PyTorch and ONNX Runtime both answer. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from c2fvl.config import Config
from c2fvl.metrics.out_of_distribution import OodDetector


@dataclass(frozen=True)
class Computed:
    """The output of a network for several images."""

    probability: np.ndarray
    """(B, S, S) of the lesion, or (B, C, S, S) of three classes and more, float32."""
    logits: tuple[np.ndarray, ...] = ()
    """(B, …) each, in the order of `LOGITS`; empty for a network that predicts no findings."""

    def row(self, index: int) -> "Computed":
        """Return the output for one image, without the first axis."""
        return Computed(self.probability[index], tuple(values[index] for values in self.logits))


@runtime_checkable
class Engine(Protocol):
    """What computes: a network of PyTorch or of ONNX Runtime, with the settings it was trained by."""

    config: Config
    path: Path
    metrics: dict[str, Any]
    calibration: dict[str, Any] | None
    """The content of `calibration.json`, if there is one."""
    ood_detector: OodDetector | None
    """Of the training images, if there is one."""
    batch_size: int
    """The number of images that it computes best at once."""

    def compute(self, images: np.ndarray, text: np.ndarray | None) -> Computed:
        """Return the output for images (B, 3, S, S) float32 and their text (B, T, F)."""
