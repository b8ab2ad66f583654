"""What every network returns, and checks of its arguments and inputs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class FindingLogits(NamedTuple):
    """The findings that a network predicts from the image, and how far it agrees with the report."""

    zones: Tensor
    """(B, 6) log-odds, in the order of `report.ZONES`."""
    number: Tensor
    """(B, N) logits of 0, 1, … areas, the last of so many or more."""
    side: Tensor
    """(B, 3) logits, in the order of `report.SIDES`."""
    agreement: Tensor
    """(B, 8) log-odds that side, number and zones are as the report says, given trust, image and report."""


class Output(NamedTuple):
    """What every network returns."""

    logits: Tensor
    """(B, C, H, W); no network applies a sigmoid or a softmax."""
    aux: tuple[Tensor, ...] = ()
    """Maps or vectors that only a loss reads, such as side maps."""
    findings: FindingLogits | None = None
    """Of a network that predicts the findings from the image."""

    def row(self, index: int) -> "Output":
        """Return the output for one image of the batch, as a batch of one."""
        one = slice(index, index + 1)
        findings = None if self.findings is None else FindingLogits(*(values[one] for values in self.findings))
        return Output(self.logits[one], tuple(side_map[one] for side_map in self.aux), findings)


Loss = Callable[..., dict[str, Tensor]]
"""(Output, mask (B, H, W) of classes, text (B, T, F) or None, findings (B, 9) or None) → terms.

The term "loss" is the sum that is minimised. Losses on predicted findings read text and findings.
"""


@runtime_checkable
class TrustNetwork(Protocol):
    """A network with an adjustable trust in reports, which encodes an image once for several reports."""

    trust: float

    def with_trust(self, trust: float) -> Any:
        """Return the network with another trust; both share their weights. `ValueError` for one outside of 0 … 1."""

    def encode_image(self, image: Tensor) -> Any:
        """Return what the network computes of images (B, C, H, W) before it reads a report."""

    def decode(self, features: Any, text: Tensor) -> Output:
        """Return the output for encoded images and their reports (B, T, F)."""


def check_positive(**numbers: int | Sequence[int]) -> None:
    """Raise `ValueError` that names the argument unless all these whole numbers are at least 1."""
    for name, value in numbers.items():
        if min([value] if isinstance(value, int) else value) < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")


def check_size(height: int, width: int, step: int) -> None:
    """Raise `ValueError` that names the nearest size that works unless both sides are multiples of `step`."""
    if height <= 0 or width <= 0 or height % step or width % step:
        nearest = tuple(max(step, round(side / step) * step) for side in (height, width))
        raise ValueError(
            f"the image is {height}×{width} (height × width); both must be multiples of {step}, "
            f"such as {nearest[0]}×{nearest[1]}"
        )


def check_text(text: Tensor, batch: int, tokens: int, features: int) -> None:
    """Raise `ValueError` unless text is (batch, tokens, features)."""
    if tuple(text.shape) != (batch, tokens, features):
        raise ValueError(
            f"text has the shape {tuple(text.shape)}; expected {(batch, tokens, features)}: {tokens} × {features} "
            f"numbers for each of the {batch} images"
        )
