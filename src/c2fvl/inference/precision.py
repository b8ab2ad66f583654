"""The number format that a network computes in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
FASTER_IN_BF16 = ("c2fvl",)
"""Networks whose predictions in bf16 were measured: faster on a processor, with the same Dice within 0.05 points."""
_MIN_PARAMETERS = 5_000_000


def check_precision(device: torch.device | str, precision: str) -> None:
    """Raise `ValueError` for a precision that is unknown or that the device does not support."""
    if precision not in ("fp32", *_PRECISIONS):
        raise ValueError(f"the precision is {precision!r}; expected one of fp32, {', '.join(_PRECISIONS)}")
    kind = torch.device(device).type
    if kind == "cpu" and precision == "fp16":
        raise ValueError("processors do not compute in fp16; use bf16 or fp32, or --device cuda")
    if kind == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"{torch.cuda.get_device_name(device)} does not compute in bf16; use fp16 or fp32")


def settled_precision(device: torch.device | str, precision: str) -> str:
    """Return the precision, "auto" settled: bf16 where the device computes in it itself, else fp32."""
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def suited_precision(name: str, network: nn.Module, device: torch.device | str, precision: str) -> str:
    """Return the precision in which a trained network predicts, "auto" settled.

    That is bf16 on a processor which computes in it, for networks of `FASTER_IN_BF16` at their full width, and fp32
    everywhere else.
    """
    if precision != "auto":
        check_precision(device, precision)
        return precision
    is_large = sum(weights.numel() for weights in network.parameters()) >= _MIN_PARAMETERS
    on_cpu = torch.device(device).type == "cpu"
    return settled_precision(device, "auto") if on_cpu and is_large and name in FASTER_IN_BF16 else "fp32"


def is_emulated(device: torch.device | str, precision: str) -> bool:
    """Tell whether a processor computes in a precision that it does not have, which is many times slower."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return precision == "bf16" and torch.device(device).type == "cpu" and supported is not None and not supported()


def autocast(device: torch.device | str, precision: str) -> AbstractContextManager[object]:
    """Return the context in which the network runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    kind = torch.device(device).type
    # On a GPU casts of weights are not kept: a CUDA graph must not read those that were made outside of it.
    return torch.autocast(kind, _PRECISIONS[precision], cache_enabled=kind != "cuda")
