"""EMA weights: an exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor, nn


class EmaWeights(nn.Module):
    """A copy of a network whose weights are the moving average of the network's own.

    The decay rises to `decay`: after n updates it is (1 + n) / (10 + n) where that is smaller, so that early weights do
    not dominate. Running statistics are averaged too, counters are copied.
    """

    n_averaged: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(network)
        self.decay = decay
        self.register_buffer("n_averaged", torch.tensor(0))  # stays on the CPU: reading it must not wait for a GPU

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights that an optimizer's step left."""
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        floats = [(mine, other) for mine, other in pairs if mine.is_floating_point()]
        averaged, current = [mine for mine, _ in floats], [other for _, other in floats]
        steps = float(self.n_averaged)
        if steps == 0:
            torch._foreach_copy_(averaged, current)
        else:
            torch._foreach_lerp_(averaged, current, 1 - min(self.decay, (1 + steps) / (10 + steps)))
        for mine, other in pairs:
            if not mine.is_floating_point():
                mine.copy_(other)
        self.n_averaged += 1


def _tensors(network: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
