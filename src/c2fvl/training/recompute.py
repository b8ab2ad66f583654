"""Activation checkpointing: activations are dropped after the forward pass and computed again in the backward pass.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

MAX_LAYERS = 12
"""Maximum number of layers with weights in one part: a convolution block or an attention block of any network."""


def recompute_activations(network: nn.Module) -> int:
    """Let each part of the network keep only its inputs for the backward pass; return the number of parts.

    Weights, their names, gradients and running statistics stay the same. Copy the network before, not after: a copy
    would compute with the original's weights.
    """
    parts = list(_parts(network))
    for part in parts:
        part.forward = functools.partial(_forward, part, part.forward)
    return len(parts)


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        if not isinstance(child, nn.ModuleList) and _num_layers(child) <= MAX_LAYERS:
            if _num_layers(child) > 1:  # a single layer keeps little but its input
                yield child
        else:
            yield from _parts(child)


def _num_layers(module: nn.Module) -> int:
    return sum(1 for each in module.modules() if each._parameters)


def _forward(part: nn.Module, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not part.training:
        return forward(*inputs, **named)
    contexts = functools.partial(_contexts, part)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)


def _contexts(
    part: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    return contextlib.nullcontext(), _second_time(part)


@contextlib.contextmanager
def _second_time(part: nn.Module) -> Iterator[None]:
    """Keep running statistics from counting the same batch twice."""
    norms = [
        (norm, norm.momentum, norm.num_batches_tracked)
        for norm in part.modules()
        if isinstance(norm, _BatchNorm) and norm.num_batches_tracked is not None
    ]
    for norm, _, count in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in norms:
            norm.momentum, norm.num_batches_tracked = momentum, count
