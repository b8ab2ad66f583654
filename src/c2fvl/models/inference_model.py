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
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from c2fvl.models import c2fvl, lvit
from c2fvl.models.filmfirst import FilmFirst
from c2fvl.models.layers.blocks import ConvNormReLU, SkipFusion, upsampling_kernel
from c2fvl.models.transunet import StandardisedConvolution

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
    form = (network if in_place else copy.deepcopy(network)).eval().requires_grad_(False)
    with torch.no_grad():
        if isinstance(form, c2fvl.C2FVL | FilmFirst):
            form.returns_side_maps = False
        _rewrite(form)
        return_freed_memory()
        form = form.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if example is not None and can_pack(form):
            _pack(form, example)
            return_freed_memory()
    return form


def can_pack(network: nn.Module) -> bool:
    """Tell whether the convolutions of a network can be made ready for this processor."""
    first = next(network.parameters(), None)
    on_cpu = first is None or (first.device.type == "cpu" and first.dtype == torch.float32)
    return on_cpu and torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _PACKING)


class Convolution(nn.Module):
    """A convolution of maps with its norm folded in, whose activation and summand cost no pass of their own."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, stride: int, padding: int, activate: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.stride, self.padding, self.activate = stride, padding, activate
        self.packed: PackedConvolution | None = None

    def pack(self, input_shape: torch.Size) -> None:
        """Put the weight into oneDNN's order for inputs of that shape."""
        if self.packed is None:
            self.packed = PackedConvolution(self, input_shape)
            self.weight = None  # type: ignore[assignment]

    def forward(self, features: Tensor, added: Tensor | None = None) -> Tensor:
        """Return the convolved features, with `added` on top before they are activated."""
        if self.packed is not None:
            return self.packed(features, added)
        convolved = functional.conv2d(features, self.weight, self.bias, self.stride, self.padding)
        if added is not None:
            convolved = convolved + added
        return functional.relu(convolved) if self.activate else convolved


class PackedConvolution(nn.Module):
    """The same with its weight in oneDNN's own order."""

    def __init__(self, plain: Convolution, input_shape: torch.Size) -> None:
        super().__init__()
        self.stride, self.padding = [plain.stride] * 2, [plain.padding] * 2
        self.attribute = "relu" if plain.activate else "none"
        self.bias = plain.bias
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
            plain.weight.detach().to_mkldnn(), self.padding, self.stride, [1, 1], 1, list(input_shape)
        )

    def forward(self, features: Tensor, added: Tensor | None = None) -> Tensor:
        """Return the convolved features, with `added` on top before they are activated."""
        if added is None:
            return torch.ops.mkldnn._convolution_pointwise(
                features, self.weight, self.bias, self.padding, self.stride, [1, 1], 1, self.attribute, [], ""
            )
        activation = self.attribute if self.attribute == "relu" else None
        return torch.ops.mkldnn._convolution_pointwise.binary(
            features,
            added,
            self.weight,
            self.bias,
            self.padding,
            self.stride,
            [1, 1],
            1,
            "add",
            1.0,
            activation,
            [],
            "",
        )


class UpsamplingConvolution(nn.Module):
    """The transposed convolution by a 4 × 4 kernel that enlarges and convolves at once."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.packed: PackedUpsamplingConvolution | None = None

    def pack(self, input_shape: torch.Size) -> None:
        """Put the weight into oneDNN's order for inputs of that shape."""
        if self.packed is None:
            self.packed = PackedUpsamplingConvolution(self, input_shape)
            self.weight = None  # type: ignore[assignment]

    def forward(self, coarse: Tensor) -> Tensor:
        """Return the convolved map at twice the size."""
        if self.packed is not None:
            return self.packed(coarse)
        return functional.conv_transpose2d(coarse, self.weight, stride=2, padding=1)


class PackedUpsamplingConvolution(nn.Module):
    """The same with its weight in oneDNN's own order."""

    def __init__(self, plain: UpsamplingConvolution, input_shape: torch.Size) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            plain.weight.detach(), [1, 1], [0, 0], [2, 2], [1, 1], 1, list(input_shape)
        )

    def forward(self, coarse: Tensor) -> Tensor:
        """Return the convolved map at twice the size."""
        return torch.ops.mkldnn._convolution_transpose_pointwise(
            coarse, self.weight, None, [1, 1], [0, 0], [2, 2], [1, 1], 1, "none", [], ""
        )


class FoldedSkipFusion(nn.Module):
    """The inference form of `SkipFusion`."""

    def __init__(self, joined: SkipFusion) -> None:
        super().__init__()
        first, second = (_folded(unit) for unit in joined.units)
        from_skip, from_coarse = first.weight.split(joined.channels, dim=1)
        self.from_skip = Convolution(from_skip, first.bias, stride=1, padding=1, activate=True)
        self.from_coarse = UpsamplingConvolution(upsampling_kernel(from_coarse))
        self.second = second

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return the decoded map."""
        return self.second(self.from_skip(skip, self.from_coarse(coarse)))


class FoldedPixelGate(nn.Module):
    """The inference form of C2FVL's pixel alignment and LViT's pixel attention."""

    def __init__(self, weight: Tensor, bias: Tensor | None, bottleneck: nn.Module, *, keeps_both: bool) -> None:
        super().__init__()
        self.convolution = Convolution(weight, bias, stride=1, padding=0, activate=True)
        self.bottleneck, self.keeps_both = bottleneck, keeps_both

    def forward(self, skip: Tensor) -> Tensor:
        """Return the weighed skip."""
        average, maximum = _average_and_maximum(self.convolution(skip))
        both = average + maximum
        return self.bottleneck(torch.cat([average, maximum, both], dim=1) if self.keeps_both else both) * skip


def _average_and_maximum(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the first half of the channels and the maximum of the second, each (B, 1, H, W)."""
    for_average, for_maximum = maps.chunk(2, dim=1)
    return for_average.mean(dim=1, keepdim=True), for_maximum.amax(dim=1, keepdim=True)


def _folded(unit: ConvNormReLU) -> Convolution:
    fused = fuse_conv_bn_eval(unit.convolution, unit.norm)
    return _convolution(fused, fused.weight, activate=True)


def _standardised(convolution: StandardisedConvolution) -> Convolution:
    return _convolution(convolution, convolution.standardised(), activate=False)


def _convolution(like: nn.Conv2d, weight: Tensor, *, activate: bool) -> Convolution:
    assert isinstance(like.padding, tuple)
    return Convolution(weight, like.bias, stride=like.stride[0], padding=like.padding[0], activate=activate)


def _alignment(alignment: c2fvl.PixelAlignment) -> FoldedPixelGate:
    return FoldedPixelGate(*alignment.merged(), alignment.bottleneck, keeps_both=False)


def _attention(attention: lvit.PixelAttention) -> FoldedPixelGate:
    return FoldedPixelGate(attention.merged(), None, attention.bottleneck, keeps_both=True)


_FORMS: dict[type, Callable[..., nn.Module]] = {
    ConvNormReLU: _folded,
    SkipFusion: FoldedSkipFusion,
    StandardisedConvolution: _standardised,
    c2fvl.PixelAlignment: _alignment,
    lvit.PixelAttention: _attention,
}


def _rewrite(module: nn.Module) -> None:
    """Replace the parts of a module that have an inference form, and fold each `x_norm` beside a convolution `x`."""
    for name in [name for name, _ in module.named_children()]:
        child = module.get_submodule(name)
        form = _FORMS.get(type(child))
        if form is not None:
            setattr(module, name, form(child))
            continue
        norm_name = "norm" if name == "convolution" else f"{name}_norm"
        norm = getattr(module, norm_name, None)
        if type(child) in _CONVOLUTIONS and isinstance(norm, _NORMS):
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
