"""The optimizer and its learning rate, which is a function of the position alone and so has no state to lose."""

import math
import re
from typing import Any

import torch
from torch import nn

from c2fvl.config import OptimizerConfig

ONE_CYCLE_RISE = 0.1
"""Fraction of the training in which the learning rate of one_cycle rises."""
POLY_POWER = 0.9


def learning_rate(config: OptimizerConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the learning rate of step `step`, from 0 on, of epochs × steps_per_epoch.

    poly is lowered behind each step, as published by TransUNet, so that the first two steps take the highest rate.
    """
    position = max(step - 1, 0) if config.schedule == "poly" else step
    return rate_at(config, position / (epochs * steps_per_epoch), step // steps_per_epoch)


def rate_at(config: OptimizerConfig, fraction: float, epoch: int) -> float:
    """Return the learning rate after a fraction of the training, in an epoch counted from 0.

    cosine_restarts goes by the epoch alone, as published: min + (max − min)(1 + cos(π (e mod P)/P))/2.
    """
    highest, lowest = config.learning_rate, config.min_rate
    if config.schedule == "constant":
        return highest
    if config.schedule == "poly":
        return highest * (1 - fraction) ** POLY_POWER
    if config.schedule == "cosine_restarts":
        return lowest + (highest - lowest) * (1 + math.cos(math.pi * (epoch % config.period) / config.period)) / 2
    if fraction < ONE_CYCLE_RISE:
        return highest * (0.05 + 0.95 * fraction / ONE_CYCLE_RISE)
    fall = (min(fraction, 1.0) - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * fall)) / 2


def build_optimizer(network: nn.Module, config: OptimizerConfig, *, fused: bool = False) -> torch.optim.Optimizer:
    """Return the optimizer of all parameters of `network`; `fused` steps them by one kernel, for a GPU."""
    parameters, rate, decay = network.parameters(), config.learning_rate, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=rate, weight_decay=decay, momentum=config.momentum, fused=True if fused else None
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
    return kind(parameters, lr=rate, weight_decay=decay, fused=True if fused else None)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate; one that lies on the device, where a CUDA graph reads it, stays there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep learning rate and step counts on the device, so that a CUDA graph of a step reads them there."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].to(device)
    inner = getattr(optimizer, "optimizer", optimizer)
    inner._warned_capturable_if_run_uncaptured = True  # the steps before the capture are meant to be uncaptured


_HOW_TO_STEP = ("foreach", "fused", "capturable", "differentiable")


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state to save, which says nothing of the device: the learning rate is a number."""
    state = optimizer.state_dict()
    groups = [
        {name: value for name, value in group.items() if name not in _HOW_TO_STEP} | {"lr": float(group["lr"])}
        for group in state["param_groups"]
    ]
    return {**state, "param_groups": groups}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore a saved state; how steps are computed stays as it is on this device."""
    own = [{name: group[name] for name in _HOW_TO_STEP if name in group} for group in optimizer.param_groups]
    groups = [{**group, **mine} for group, mine in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


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
