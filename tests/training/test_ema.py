"""EMA weights by hand."""

import pytest
import torch
from torch import nn

from c2fvl.training.ema import EmaWeights


def test_the_average_follows_the_warmed_up_decay():
    """After n updates the decay is (1 + n) / (10 + n), at most the one that is set; counters are copied."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = EmaWeights(network, 0.25)
    expected = None
    for step, value in enumerate((1.0, 3.0, -2.0, 5.0, 0.5)):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(10 * value)
            network[1].num_batches_tracked.fill_(step)
        average.update(network)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module[0].weight.item() == pytest.approx(expected, rel=1e-6)
        assert average.module[1].running_mean.item() == pytest.approx(10 * expected, rel=1e-6)
        assert average.module[1].num_batches_tracked.item() == step
    assert network[0].weight.item() == 0.5  # the network itself is untouched
