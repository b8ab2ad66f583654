"""The shorter ways to a gradient against the gradients that PyTorch works out itself, in double precision."""

import pytest
import torch
from torch.nn import functional

from c2fvl.models.layers import cpu_gradients as gradients
from c2fvl.models.layers.blocks import add_upsampled, upsample_nearest


def channels_last(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values.contiguous(memory_format=torch.channels_last).requires_grad_() if len(shape) == 4 else values


def compare(first, second, inputs):
    """Compare two functions and their gradients by every input, for one random gradient of their outputs."""
    results = []
    for function in (first, second):
        for value in inputs:
            value.grad = None
        found = function(*inputs)
        found = found if isinstance(found, tuple) else (found,)
        torch.autograd.backward(
            found, [torch.linspace(-1, 1, part.numel()).reshape(part.shape).double() for part in found]
        )
        results.append([part.detach() for part in found] + [value.grad.clone() for value in inputs])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("batch", "before", "after", "height", "width"), [(1, 32, 32, 5, 9), (3, 40, 33, 6, 4)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_convolution(batch, before, after, height, width, has_bias, monkeypatch):
    monkeypatch.setattr(gradients, "MIN_WORK", 0)
    inputs = [channels_last(batch, before, height, width), channels_last(after, before, 3, 3, seed=1)]
    if has_bias:
        inputs.append(channels_last(after, seed=2).requires_grad_())
    assert gradients._products_pay(*inputs[:2])

    def ours(features, weight, bias=None):
        return gradients.convolve(features, weight, bias)

    compare(ours, lambda *values: functional.conv2d(*values, padding=1), inputs)


def test_convolution_of_a_plain_layout_and_of_a_part_of_its_gradients(monkeypatch):
    monkeypatch.setattr(gradients, "MIN_WORK", 0)
    weight = channels_last(32, 32, 3, 3)
    features = torch.randn(2, 32, 7, 7, dtype=torch.float64)  # an image needs no gradient
    gradients.convolve(features, weight, None).square().sum().backward()
    found, weight.grad = weight.grad, None
    functional.conv2d(features, weight, padding=1).square().sum().backward()
    torch.testing.assert_close(found, weight.grad)


def test_products_are_for_training_on_a_processor_only():
    features, weight = torch.zeros(4, 64, 112, 112), torch.zeros(64, 64, 3, 3, requires_grad=True)
    assert gradients._products_pay(features, weight)
    with torch.no_grad():
        assert not gradients._products_pay(features, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not gradients._products_pay(features, weight)
    assert not gradients._products_pay(features, weight.detach())
    assert not gradients._products_pay(features[:, :, :8, :8], weight)
    assert not gradients._products_pay(features.to("meta"), weight)


@pytest.mark.parametrize("patch", [1, 2, 8])
def test_patches(patch):
    inputs = [channels_last(2, 6, 16, 24), channels_last(5, 6, patch, patch, seed=1), channels_last(5, seed=2)]
    inputs[2].requires_grad_()
    compare(gradients.convolve_patches, lambda *values: functional.conv2d(*values, stride=patch), inputs)


def test_average_and_maximum():
    def plain(maps):
        for_average, for_maximum = maps.relu().chunk(2, dim=1)
        return for_average.mean(dim=1, keepdim=True), for_maximum.amax(dim=1, keepdim=True)

    maps = channels_last(2, 6, 5, 4)
    with torch.no_grad():
        maps[0, 3:, 0, 0] = -1.0  # nothing is active there
    compare(gradients.average_and_maximum, plain, [maps])
    with torch.no_grad():
        for ours, theirs in zip(gradients.average_and_maximum(maps), plain(maps), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("gated", [True, False])
def test_upsampled_maps_are_added_without_being_built(factor, gated):
    inputs = [channels_last(2, 4, 8, 12), channels_last(2, 4, 8 // factor, 12 // factor, seed=1)]
    if gated:
        inputs.append(channels_last(2, 4, seed=2).requires_grad_())

    def plain(features, coarse, gate=None):
        added = features + upsample_nearest(coarse, factor)
        return added if gate is None else added * gate[:, :, None, None]

    compare(lambda *values: add_upsampled(values[0], values[1], factor, *values[2:]), plain, inputs)
    added = add_upsampled(inputs[0].detach(), inputs[1].detach(), factor)
    assert added.is_contiguous(memory_format=torch.channels_last)
