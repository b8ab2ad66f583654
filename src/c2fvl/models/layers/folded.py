"""Parts of an inference model: convolutions with their norms folded in, which can be packed for oneDNN."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda values: values,
    "relu": functional.relu,
    "relu6": functional.relu6,
}
_ATTRIBUTES: dict[str, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}
"""How oneDNN calls them, with their numbers."""


class Convolution(nn.Module):
    """A convolution with its norm folded in; packed, it activates and adds a summand in the same pass."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: int,
        padding: int,
        activation: str = "none",
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.stride, self.padding, self.activation, self.groups = stride, padding, activation, groups
        self.packed: PackedConvolution | None = None

    @classmethod
    def of(cls, convolution: nn.Conv2d, weight: Tensor, *, activation: str = "none") -> "Convolution":
        """Return a convolution by `weight` with the stride, padding, groups and bias of another."""
        (stride, _), padding = convolution.stride, convolution.padding
        assert isinstance(padding, tuple)
        return cls(
            weight, convolution.bias, stride=stride, padding=padding[0], activation=activation,
            groups=convolution.groups,
        )  # fmt: skip

    def pack(self, input_shape: torch.Size) -> None:
        """Put the weight into the memory order of oneDNN for inputs of that shape."""
        if self.packed is None:
            self.packed = PackedConvolution(self, input_shape)
            self.weight = None  # type: ignore[assignment]

    def forward(self, features: Tensor, added: Tensor | None = None) -> Tensor:
        """Return the convolved features, plus `added`, activated."""
        if self.packed is not None:
            return self.packed(features, added)
        convolved = functional.conv2d(features, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        if added is not None:
            convolved = convolved + added
        return ACTIVATIONS[self.activation](convolved)


class PackedConvolution(nn.Module):
    """The same with its weight in the memory order of oneDNN."""

    def __init__(self, unpacked: Convolution, input_shape: torch.Size) -> None:
        super().__init__()
        self.stride, self.padding = [unpacked.stride] * 2, [unpacked.padding] * 2
        self.attribute, self.scalars = _ATTRIBUTES[unpacked.activation]
        self.groups, self.bias = unpacked.groups, unpacked.bias
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
            unpacked.weight.detach().to_mkldnn(), self.padding, self.stride, [1, 1], self.groups, list(input_shape)
        )

    def forward(self, features: Tensor, added: Tensor | None = None) -> Tensor:
        """Return the convolved features, plus `added`, activated."""
        if added is None:
            return torch.ops.mkldnn._convolution_pointwise(
                features, self.weight, self.bias, self.padding, self.stride, [1, 1], self.groups, self.attribute,
                self.scalars, "",
            )  # fmt: skip
        activation = None if self.attribute == "none" else self.attribute
        return torch.ops.mkldnn._convolution_pointwise.binary(
            features, added, self.weight, self.bias, self.padding, self.stride, [1, 1], self.groups, "add", 1.0,
            activation, self.scalars, "",
        )  # fmt: skip


class UpsamplingConvolution(nn.Module):
    """The transposed convolution by a 4 × 4 kernel that upsamples and convolves at once."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.packed: PackedUpsamplingConvolution | None = None

    def pack(self, input_shape: torch.Size) -> None:
        """Put the weight into the memory order of oneDNN for inputs of that shape."""
        if self.packed is None:
            self.packed = PackedUpsamplingConvolution(self, input_shape)
            self.weight = None  # type: ignore[assignment]

    def forward(self, coarse: Tensor) -> Tensor:
        """Return the convolved map at twice the size."""
        if self.packed is not None:
            return self.packed(coarse)
        return functional.conv_transpose2d(coarse, self.weight, stride=2, padding=1)


class PackedUpsamplingConvolution(nn.Module):
    """The same with its weight in the memory order of oneDNN."""

    def __init__(self, unpacked: UpsamplingConvolution, input_shape: torch.Size) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            unpacked.weight.detach(), [1, 1], [0, 0], [2, 2], [1, 1], 1, list(input_shape)
        )

    def forward(self, coarse: Tensor) -> Tensor:
        """Return the convolved map at twice the size."""
        return torch.ops.mkldnn._convolution_transpose_pointwise(
            coarse, self.weight, None, [1, 1], [0, 0], [2, 2], [1, 1], 1, "none", [], ""
        )


class FoldedSkipFusion(nn.Module):
    """Two convolutions over [skip, upsampled coarse map]; see `SkipFusion`."""

    def __init__(self, from_skip: Convolution, from_coarse: UpsamplingConvolution, second: Convolution) -> None:
        super().__init__()
        self.from_skip, self.from_coarse, self.second = from_skip, from_coarse, second

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return the decoded map."""
        return self.second(self.from_skip(skip, self.from_coarse(coarse)))


class FoldedPixelGate(nn.Module):
    """One factor for each pixel of a skip connection, from the mean and the maximum over its channels.

    The bottleneck reads the sum of both, or with `keeps_both` mean, maximum and sum.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, bottleneck: nn.Module, *, keeps_both: bool) -> None:
        super().__init__()
        self.convolution = Convolution(weight, bias, stride=1, padding=0, activation="relu")
        self.bottleneck, self.keeps_both = bottleneck, keeps_both

    def forward(self, skip: Tensor) -> Tensor:
        """Return the weighted skip."""
        for_average, for_maximum = self.convolution(skip).chunk(2, dim=1)
        average, maximum = for_average.mean(dim=1, keepdim=True), for_maximum.amax(dim=1, keepdim=True)
        both = average + maximum
        return self.bottleneck(torch.cat([average, maximum, both], dim=1) if self.keeps_both else both) * skip
