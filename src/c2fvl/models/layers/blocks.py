"""Parts that several networks share: the convolution unit, the encoder and the skip fusion of the U-Net family."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from c2fvl.models.layers.cpu_gradients import convolve
from c2fvl.models.layers.folded import Convolution, FoldedSkipFusion, UpsamplingConvolution


class ConvNormReLU(nn.Module):
    """Convolution, batch norm, ReLU: (B, in, H, W) → (B, out, H / stride, W / stride).

    The bias in front of a batch norm has no effect; it is there where the published checkpoints carry it.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return the activated features."""
        convolution = self.convolution
        if convolution.stride == (1, 1):
            convolved = convolve(features, convolution.weight, convolution.bias)
        else:
            convolved = convolution(features)
        return functional.relu(self.norm(convolved), inplace=True)

    def for_inference(self) -> Convolution:
        """Return the unit with its norm folded into the convolution."""
        fused = fuse_conv_bn_eval(self.convolution, self.norm)
        return Convolution.of(fused, fused.weight, activation="relu")


def conv_stack(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Sequential:
    """Return the two convolution units that every stage of the U-Net family has."""
    return nn.Sequential(
        ConvNormReLU(in_channels, out_channels, bias=bias), ConvNormReLU(out_channels, out_channels, bias=bias)
    )


class SkipFusion(nn.ModuleList):
    """Two convolution units over [skip, upsampled coarse map], without building the upsampled or the joined map.

    A convolution over concatenated maps is the sum of one over each. A 3 × 3 convolution over a map that is upsampled
    twice by nearest neighbour equals a transposed convolution of the coarse map by a 4 × 4 kernel of stride 2, which
    needs 4 products for each pixel and channel in place of 9.
    """

    def __init__(self, skip_channels: int, coarse_channels: int, out_channels: int) -> None:
        super().__init__(
            [ConvNormReLU(skip_channels + coarse_channels, out_channels), ConvNormReLU(out_channels, out_channels)]
        )
        self.channels = [skip_channels, coarse_channels]

    @property
    def units(self) -> tuple[ConvNormReLU, ConvNormReLU]:
        """Return the two units."""
        first, second = self
        assert isinstance(first, ConvNormReLU) and isinstance(second, ConvNormReLU)
        return first, second

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return the map (B, out, 2h, 2w) of coarse (B, coarse, h, w) and skip (B, skip, 2h, 2w)."""
        first, second = self.units
        from_skip, from_coarse = first.convolution.weight.split(self.channels, dim=1)
        fused = convolve(skip, from_skip, first.convolution.bias)
        fused += functional.conv_transpose2d(coarse, upsampling_kernel(from_coarse), stride=2, padding=1)
        return second(functional.relu(first.norm(fused), inplace=True))

    def for_inference(self) -> FoldedSkipFusion:
        """Return the two units with norms folded in and the upsampling kernel computed once."""
        first, second = (unit.for_inference() for unit in self.units)
        from_skip, from_coarse = first.weight.split(self.channels, dim=1)
        return FoldedSkipFusion(
            Convolution(from_skip, first.bias, stride=1, padding=1, activation="relu"),
            UpsamplingConvolution(upsampling_kernel(from_coarse)),
            second,
        )


def upsampling_kernel(kernel: Tensor) -> Tensor:
    """Return the transposed convolution that upsamples twice by nearest neighbour and then convolves by `kernel`.

    (out, in, 3, 3) → (in, out, 4, 4), for a stride of 2 and a padding of 1. Its entries are the sums of what the four
    copies of a coarse pixel add to each pixel around them.
    """
    turned = functional.pad(kernel.flip((2, 3)).transpose(0, 1), (1, 1, 1, 1))
    rows = turned[:, :, 1:] + turned[:, :, :-1]
    return rows[:, :, :, 1:] + rows[:, :, :, :-1]


class UNetEncoder(nn.Module):
    """The encoder that U-Net, LViT, UCTransNet and C2FVL have in common (Ronneberger et al., MICCAI 2015, with norms).

    Widths are base_width × (1, 2, 4, 8, 8); each stage after the stem begins with max pooling by 2.
    """

    def __init__(self, *, in_channels: int, base_width: int) -> None:
        super().__init__()
        self.widths = tuple(base_width * factor for factor in (1, 2, 4, 8, 8))
        self.stem = ConvNormReLU(in_channels, base_width)
        self.stages = nn.ModuleList(
            conv_stack(before, after) for before, after in zip(self.widths, self.widths[1:], strict=False)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return five feature maps: image (B, in, H, W) → (B, width_k, H / 2^k, W / 2^k), k = 0 … 4."""
        features = [self.stem(image)]
        for stage in self.stages:
            features.append(stage(functional.max_pool2d(features[-1], 2)))
        return features


def add_upsampled(features: Tensor, coarse: Tensor, factor: int, gate: Tensor | None = None) -> Tensor:
    """Return (features + coarse upsampled by nearest neighbour) · gate, (B, C, f·h, f·w).

    features (B, C, f·h, f·w), coarse (B, C, h, w), gate (B, C) or None for one. The upsampled map is built only for a
    compiler or an exporter, which optimise it themselves.
    """
    factors = None if gate is None else gate[:, :, None, None]
    if torch.compiler.is_compiling():
        added = features + upsample_nearest(coarse, factor)
        return added if factors is None else added * factors
    blocks = features.unflatten(3, (-1, factor)).unflatten(2, (-1, factor))  # (B, C, h, f, w, f)
    if factors is None:
        added = blocks + coarse[:, :, :, None, :, None]
    else:
        added = torch.addcmul((coarse * factors)[:, :, :, None, :, None], blocks, factors[..., None, None])
    return added.flatten(4).flatten(2, 3)


def upsample_nearest(features: Tensor, factor: int) -> Tensor:
    """Repeat every pixel factor × factor times: (B, C, H, W) → (B, C, factor·H, factor·W)."""
    return features if factor == 1 else functional.interpolate(features, scale_factor=float(factor), mode="nearest")
