"""The inference form of a trained network: the same output, up to rounding, for less work.

What is done, all of it exact in real numbers:
- batch norms are folded into the convolutions before them, on maps and on tokens;
- the 1 × 1 convolutions of the gates over skips, the kernels that enlarge and convolve at once, and weights that are
  standardised anew in each pass are computed once;
- side maps, which only a loss reads, are left out;
- maps lie channels-last; on a processor, convolutions keep their weights in the order that oneDNN computes in and
  activate in the same pass.

`benchmarks/` measures it; `docs/performance.md` holds the figures.
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
    """Return the inference form of `network`, in eval mode; the network itself is left as it is.

    `in_place` makes it of the network itself, which is of no other use then: weights are never there twice.

    With an `example` (B, C, H, W) convolutions are made ready for this processor and for images of that shape; others
    work too, more slowly. Such a form computes in float32 on the CPU and can be neither exported, moved nor saved.
    Where oneDNN is missing or the network lies elsewhere the example changes nothing.
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
    """Tell whether the convolutions of a network can be made ready for this processor."""
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
    """Make each convolution ready for what it is given where the network is given the example, one after the other."""
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: module.pack(inputs[0].shape))
        for module in form.modules()
        if isinstance(module, Convolution | UpsamplingConvolution)
    ]
    form(example.contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()


def return_freed_memory() -> bool:
    """Hand memory that was freed back to the system; tell whether it can be done.

    The GNU C library keeps the holes that a network leaves whose weights were rewritten, which are as large as they.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False
