"""Faster gradients on a CPU; the results are the same up to the order of sums.

PyTorch computes both gradients of a convolution by oneDNN, whose weight gradient is three times slower than the other
for channels-last maps. Here it is a sum of matrix products of shifted maps, one for each position of the kernel
(`docs/performance.md` has the measurements).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

MIN_CHANNELS, MIN_WORK = 32, 600_000
"""Matrix products are faster from so many channels on, and from so many pixels times channels."""
MAX_PATCH = 8
"""For larger patches the copy costs what the products save."""


def convolve(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution (B, out, H, W) of (B, in, H, W) by (out, in, K, K), K odd, that keeps height and width."""
    if _products_pay(features, weight):
        return _Convolution.apply(features, weight, bias)
    return functional.conv2d(features, weight, bias, padding=weight.shape[2] // 2)


def _matters(features: Tensor, weight: Tensor) -> bool:
    """Tell whether the gradient of the weight will be computed on a CPU, without a compiler."""
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and features.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def _products_pay(features: Tensor, weight: Tensor) -> bool:
    channels, pixels = min(weight.shape[:2]), features.shape[0] * features.shape[2] * features.shape[3]
    return (
        _matters(features, weight)
        and weight.shape[2] == 3
        and channels >= MIN_CHANNELS
        and channels * pixels >= MIN_WORK
    )


def convolve_patches(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution (B, out, H / P, W / P) of (B, in, H, W) by (out, in, P, P) with the stride P.

    In training it is a matrix product over the patches, whose gradients are matrix products too.
    """
    patch = weight.shape[2]
    height, width = features.shape[2:]
    if not _matters(features, weight) or patch > MAX_PATCH or height % patch or width % patch:
        return functional.conv2d(features, weight, bias, stride=patch)
    blocks = features.permute(0, 2, 3, 1).unflatten(1, (-1, patch)).unflatten(3, (-1, patch))  # (B, h, P, w, P, in)
    rows = blocks.transpose(2, 3).flatten(3)
    return functional.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)


class _Convolution(Function):
    @staticmethod
    def forward(context: Any, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(features, weight)
        context.has_bias = bias is not None
        return functional.conv2d(features, weight, bias, padding=weight.shape[2] // 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        features, weight = context.saved_tensors
        by_features = by_weight = by_bias = None
        if context.needs_input_grad[0]:
            padding = [weight.shape[2] // 2] * 2
            by_features = torch.ops.aten.convolution_backward(
                gradient, features, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [True, False, False]
            )[0]
        if context.needs_input_grad[1]:
            by_weight = gradient_by_weight(features, gradient, weight.shape[2])
        if context.has_bias and context.needs_input_grad[2]:
            by_bias = gradient.sum((0, 2, 3))
        return by_features, by_weight, by_bias


def gradient_by_weight(features: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Return the gradient (out, in, size, size) of the weight of a convolution.

    `features` (B, in, H, W) is its input, `gradient` (B, out, H, W) the gradient of its output. Both become rows of
    pixels with a margin of zeros around each map, so that a position of the kernel is a distance between rows.
    """
    margin = size // 2
    width = features.shape[3] + 2 * margin
    inputs, outputs = _rows(features, margin), _rows(gradient, margin)
    first = margin * width + margin
    last = len(inputs) - first
    parts = features.shape[0]
    length = (last - first) // parts
    even = outputs[first : first + length * parts].unflatten(0, (parts, length)).transpose(1, 2)
    rest = outputs[first + length * parts : last].t()
    found = features.new_empty(size, size, gradient.shape[1], features.shape[1])
    for row in range(size):
        for column in range(size):
            shift = (row - margin) * width + column - margin
            shifted = inputs[first + shift : last + shift]
            pairs = shifted[: length * parts].unflatten(0, (parts, length))
            torch.sum(torch.bmm(even, pairs), 0, out=found[row, column])
            if len(shifted) > length * parts:
                found[row, column].addmm_(rest, shifted[length * parts :])
    return found.permute(2, 3, 0, 1)


def _rows(features: Tensor, margin: int) -> Tensor:
    """Return a map (B, C, H, W) with a margin of zeros as one row for each pixel, (B · (H + 2m) · (W + 2m), C)."""
    batch, channels, height, width = features.shape
    rows = features.new_empty(batch, height + 2 * margin, width + 2 * margin, channels)
    for edge in (rows[:, :margin], rows[:, -margin:], rows[:, :, :margin], rows[:, :, -margin:]):
        edge.zero_()
    rows[:, margin:-margin, margin:-margin] = features.permute(0, 2, 3, 1)
    return rows.flatten(0, 2)


class _AverageAndMaximum(Function):
    @staticmethod
    def forward(context: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        for_average, for_maximum = maps.chunk(2, dim=1)
        highest, index = for_maximum.max(dim=1, keepdim=True)
        context.save_for_backward(maps, highest, index)
        return for_average.relu().mean(dim=1, keepdim=True), highest.relu()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        by_average, by_maximum = gradients
        maps, highest, index = context.saved_tensors
        found = torch.empty_like(maps)
        half = maps.shape[1] // 2
        torch.mul(maps[:, :half] > 0, by_average / half, out=found[:, :half])
        found[:, half:].zero_().scatter_(1, index, by_maximum * (highest > 0))
        return found


def average_and_maximum(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and maximum over the channels of activated maps (B, 2C, H, W), each (B, 1, H, W).

    The maps are given before their activation. The mean is over the first half of the channels, the maximum over the
    second.
    """
    if torch.is_grad_enabled() and maps.requires_grad and maps.device.type == "cpu":
        return _AverageAndMaximum.apply(maps)
    for_average, for_maximum = maps.chunk(2, dim=1)
    return for_average.relu().mean(dim=1, keepdim=True), for_maximum.amax(dim=1, keepdim=True).relu()
