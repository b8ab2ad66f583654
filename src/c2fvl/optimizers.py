"""The optimiser and its learning rate, which is a function of the position alone and so has no state to lose."""

import math

import torch
from torch import nn

from c2fvl.config import OptimizerConfig

ONE_CYCLE_RISE = 0.1
"""Share of all steps in which the rate of one_cycle rises."""


def learning_rate(config: OptimizerConfig, epoch: int, fraction: float, epochs: int) -> float:
    """Return the rate `fraction` of the way through `epoch` (from 0) of `epochs`.

    cosine_restarts is set once an epoch, as published: least + (highest − least)(1 + cos(π (e mod P)/P))/2.
    """
    highest, least = config.learning_rate, config.least_rate
    if config.schedule == "constant":
        return highest
    if config.schedule == "cosine_restarts":
        return least + (highest - least) * (1 + math.cos(math.pi * (epoch % config.period) / config.period)) / 2
    position = min((epoch + fraction) / epochs, 1.0)
    if position < ONE_CYCLE_RISE:
        return highest * (0.05 + 0.95 * position / ONE_CYCLE_RISE)
    fall = (position - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
    return least + (highest - least) * (1 + math.cos(math.pi * fall)) / 2


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimiser of all parameters of `network`."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
    return kind(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
