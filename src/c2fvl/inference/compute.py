"""What computes: device, batch size, worker processes and precision. No torch."""

from dataclasses import dataclass

PRECISIONS = ("fp32", "bf16", "fp16")
CHOICES = ("auto", *PRECISIONS)
MEASURABLE = ("inference", "training", "loading", "metrics")
"""What `c2fvl bench` can measure."""


@dataclass(frozen=True)
class Compute:
    """What a network is run with on the cases of a data set."""

    device: str = "cpu"
    """cpu or cuda, where the network lies."""
    batch_size: int | None = None
    """Images at once; None for what suits the device."""
    workers: int = 0
    """Processes that read images; 0 for a thread."""
    precision: str = "auto"
    """fp32, bf16 or fp16; auto is what suits network and device, where a trained model predicts."""
