"""Parts that several networks share: the convolution unit, the encoder and the head of the U-Net family."""

from torch import Tensor, nn
from torch.nn import functional


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
        return functional.relu(self.norm(self.convolution(features)))


def conv_stack(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Sequential:
    """Return the two convolution units that every stage of the U-Net family has."""
    return nn.Sequential(
        ConvNormReLU(in_channels, out_channels, bias=bias), ConvNormReLU(out_channels, out_channels, bias=bias)
    )


class UNetEncoder(nn.Module):
    """The encoder that U-Net, LViT, UCTransNet and C2FVL have in common (Ronneberger et al., MICCAI 2015, with norms).

    Widths are base_width × (1, 2, 4, 8, 8); each stage after the stem halves height and width by a maximum.
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


def upsample_nearest(features: Tensor, factor: int) -> Tensor:
    """Repeat every pixel factor × factor times: (B, C, H, W) → (B, C, factor·H, factor·W)."""
    return features if factor == 1 else functional.interpolate(features, scale_factor=float(factor), mode="nearest")
