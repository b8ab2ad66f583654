"""The inference model of a trained network: the same output, up to rounding, for less work.

All of this is exact in real numbers:
- batch norms are folded into the convolutions before them, on maps and on tokens;
- parts with a method `for_inference` are replaced by what it returns: gates of skip connections with their 1 × 1
  convolutions merged, kernels that upsample and convolve at once, standardised weights;
- side maps, which only a loss reads, are left out;
- maps are channels-last; on a CPU, convolutions are packed in the memory order of oneDNN and activate in the same pass.

`benchmarks/` measures it; `docs/performance.md` holds the results.
"""

import copy
import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from c2fvl.models.layers.folded import Convolution, UpsamplingConvolution

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_PACKING = (
    "_convolution_pointwise", "_convolution_transpose_pointwise", "_reorder_convolution_transpose_weight",
)  # fmt: skip
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def optimize(network: nn.Module, *, example: Tensor | None = None, in_place: bool = False) -> nn.Module:
    """Return the inference model of `network`, in eval mode; the network itself stays unchanged.

    `in_place` rewrites the network itself, which cannot be used otherwise then: weights are never twice in memory.

    With an `example` (B, C, H, W) the convolutions are packed for this CPU and for images of that shape; other shapes
    work too, more slowly. A packed model computes in float32 on the CPU and cannot be exported, moved or saved.
    Without oneDNN, and for a network on another device, the example changes nothing.
    """
    form: Any = (network if in_place else copy.deepcopy(network)).eval().requires_grad_(False)
    with torch.no_grad():
        if hasattr(form, "returns_side_maps"):
            form.returns_side_maps = False
        _rewrite(form)
        return_freed_memory()
        form = form.to(memory_format=torch.channels_last)
        if example is not None and can_pack(form):
            _pack(form, example)
            return_freed_memory()
    return form


def can_pack(network: nn.Module) -> bool:
    """Tell whether the convolutions of a network can be packed for this CPU."""
    first = next(network.parameters(), None)
    on_cpu = first is None or (first.device.type == "cpu" and first.dtype == torch.float32)
    return on_cpu and torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _PACKING)


def _rewrite(module: nn.Module) -> None:
    """Replace the parts of a module that have a `for_inference`, and fold each `x_norm` beside a convolution `x`."""
    follows_names = type(module).__module__.startswith("c2fvl.models.")  # others may use such names in another way
    for name, child in list(module.named_children()):
        if "for_inference" in vars(type(child)):  # not inherited: a subclass may compute something else
            setattr(module, name, child.for_inference())  # type: ignore[operator]
            continue
        norm_name = "norm" if name == "convolution" else f"{name}_norm"
        norm = getattr(module, norm_name, None)
        if follows_names and type(child) in _CONVOLUTIONS and isinstance(norm, _NORMS):
            setattr(module, name, _fused(child, norm))
            setattr(module, norm_name, nn.Identity())
            continue
        _rewrite(child)


def _fused(convolution: nn.Module, norm: nn.Module) -> nn.Module:
    fused = copy.deepcopy(convolution)
    assert isinstance(fused, _CONVOLUTIONS) and isinstance(norm, _NORMS)
    assert norm.running_mean is not None and norm.running_var is not None
    fused.weight, fused.bias = fuse_conv_bn_weights(
        fused.weight, fused.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return fused


def _pack(form: nn.Module, example: Tensor) -> None:
    """Pack each convolution for the shape of its input when the network runs on the example."""
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: module.pack(inputs[0].shape))
        for module in form.modules()
        if isinstance(module, Convolution | UpsamplingConvolution)
    ]
    form(example.contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()


def return_freed_memory() -> bool:
    """Return freed memory to the system; tell whether that is possible.

    The GNU C library keeps the memory of rewritten weights, which is as large as the weights.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False
