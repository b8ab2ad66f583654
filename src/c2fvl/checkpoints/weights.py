"""Whether weights fit a network, found out before the network takes any memory."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from c2fvl.config import ModelConfig
from c2fvl.extensions import is_extension
from c2fvl.models import build_model

_SHOWN = 5
_MAX_BUFFER_BYTES = 64 * 2**20
"""Of all that a network computes when it is built and no file holds, such as positions."""


def build_for(config: ModelConfig, weights: Mapping[str, Tensor], *, where: str) -> nn.Module:
    """Return a new network of the settings once it is known that `weights` are its weights.

    A network is first built without memory, and no further than the weights go, so settings of a stranger cannot ask
    for more than a few times the size of the file. Raises `ValueError`, which names `where`, for weights that are
    missing, unknown, of a wrong shape or type, or not finite.
    """
    # a network of the user's own, whose code was allowed to run, need not know tensors without memory
    device = "cpu" if is_extension(config.name) else "meta"
    with _limited(config, len(weights), where), torch.device(device):
        empty = build_model(config.name, config.arguments)
    expected = empty.state_dict()
    check_fit(expected, weights, where=where)
    faults = [f"{key} {fault}" for key, value in expected.items() if (fault := weight_fault(weights[key], value))]
    if faults:
        raise ValueError(f"{where} cannot be used: {', '.join(faults[:_SHOWN])}; get the model again")
    held = {key: value for key, value in empty.named_buffers() if key not in expected}
    if sum(value.numel() * value.element_size() for value in held.values()) > _MAX_BUFFER_BYTES:
        raise ValueError(f"{where}: the settings ask for more memory than such weights need: {config.arguments}")
    return empty if device == "cpu" else build_model(config.name, config.arguments)


def check_fit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, where: str) -> None:
    """Raise `ValueError`, which lists missing and unknown keys and wrong shapes, unless weights are those expected."""
    missing, surplus = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    wrong = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if missing or surplus or wrong:
        raise ValueError(
            f"{where} does not fit its settings: missing {missing[:_SHOWN]}, unknown {surplus[:_SHOWN]}, "
            f"wrong shape {wrong[:_SHOWN]}"
        )


def weight_fault(values: Tensor, like: Tensor) -> str | None:
    """Return why a weight cannot be used in place of `like`, whatever its shape: layout, type, or not finite."""
    if values.layout != torch.strided or values.is_meta:
        return "is no dense tensor"
    if like.dtype.is_floating_point != values.dtype.is_floating_point or values.dtype.is_complex:
        return f"is {values.dtype} instead of {like.dtype}"
    if not torch.isfinite(values.to(like.dtype)).all():
        return "has numbers that are not finite"
    return None


@contextlib.contextmanager
def _limited(config: ModelConfig, num_weights: int, where: str) -> Iterator[None]:
    """Stop the building of a network that has many more weights or modules than a file."""
    left = {"parameters": 2 * num_weights + 1000, "modules": 20 * num_weights + 10_000}

    def count(kind: str) -> Any:
        def one_more(*_: object) -> None:
            left[kind] -= 1
            if left[kind] < 0:
                raise ValueError(
                    f"{where} does not fit its settings: {config.name} has many more {kind} with {config.arguments}"
                )

        return one_more

    handles = [
        hooks.register_module_parameter_registration_hook(count("parameters")),
        hooks.register_module_module_registration_hook(count("modules")),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
