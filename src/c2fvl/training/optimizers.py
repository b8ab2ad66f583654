"""The optimiser and its learning rate, which is a function of the position alone and so has no state to lose."""

import math
import re

import torch
from torch import nn

from c2fvl.config import OptimizerConfig

ONE_CYCLE_RISE = 0.1
"""Share of all steps in which the rate of one_cycle rises."""


POLY_POWER = 0.9


def learning_rate(config: OptimizerConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the rate of step `step`, from 0 on, of epochs × steps_per_epoch.

    cosine_restarts is set once an epoch, as published: least + (highest − least)(1 + cos(π (e mod P)/P))/2. poly is
    lowered behind each step, as published by TransUNet, so that the first two steps take the highest rate.
    """
    highest, minimum = config.learning_rate, config.min_rate
    total = epochs * steps_per_epoch
    if config.schedule == "constant":
        return highest
    if config.schedule == "poly":
        return highest * (1 - max(step - 1, 0) / total) ** POLY_POWER
    if config.schedule == "cosine_restarts":
        epoch = step // steps_per_epoch
        return minimum + (highest - minimum) * (1 + math.cos(math.pi * (epoch % config.period) / config.period)) / 2
    position = min(step / total, 1.0)
    if position < ONE_CYCLE_RISE:
        return highest * (0.05 + 0.95 * position / ONE_CYCLE_RISE)
    fall = (position - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
    return minimum + (highest - minimum) * (1 + math.cos(math.pi * fall)) / 2


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimiser of all parameters of `network`."""
    parameters, rate, decay = network.parameters(), config.learning_rate, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=config.momentum)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
    return kind(parameters, lr=rate, weight_decay=decay)


def frozen_parameters(network: nn.Module, config: OptimizerConfig) -> list[nn.Parameter]:
    """Return the parameters that wait for `frozen_epochs`, by the pattern `frozen`.

    Raises `ValueError` for a pattern that is no regular expression or is found in no name.
    """
    if not config.frozen or not config.frozen_epochs:
        return []
    try:
        pattern = re.compile(config.frozen)
    except re.error as error:
        raise ValueError(f"optimizer.frozen is {config.frozen!r}, which is no regular expression: {error}") from error
    found = [parameter for name, parameter in network.named_parameters() if pattern.search(name)]
    if not found:
        some = ", ".join(name for name, _ in list(network.named_parameters())[:3])
        raise ValueError(f"optimizer.frozen is {config.frozen!r}, found in no parameter's name (such as {some})")
    return found
