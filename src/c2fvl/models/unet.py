"""U-Net, around which LViT, UCTransNet and C2FVL are built.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015, in the
version of the repositories of these networks: with batch norms, convolutions that keep the size, and a coarsest stage
as wide as the one before.
"""

import torch
from torch import Tensor, nn

from c2fvl.models.layers.blocks import UNetEncoder, conv_stack
from c2fvl.models.output import Output, check_positive, check_size

SIZE_STEP = 16
NUM_SCALES = 4


class UNet(nn.Module):
    """The network U-Net.

    image (B, in_channels, H, W) in [0, 1], H and W divisible by 16; it reads no text. Returns logits
    (B, num_classes, H, W). Raises `ValueError` for an image of another size.
    """

    TEXT = "none"
    EXPORT_SIZE_STEP = SIZE_STEP
    """An exported file takes images of any size divisible by this, for no positions are learned."""

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1, base_width: int = 64) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, base_width=base_width)
        self.encoder = UNetEncoder(in_channels=in_channels, base_width=base_width)
        widths = self.encoder.widths[:NUM_SCALES]
        self.decoders = nn.ModuleList(
            Decoder(width, out_channels=widths[max(scale - 1, 0)]) for scale, width in enumerate(widths)
        )
        self.head = nn.Conv2d(base_width, num_classes, 1)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Output:
        """Return logits (B, num_classes, H, W)."""
        check_size(image.shape[-2], image.shape[-1], SIZE_STEP)
        features = self.encoder(image)
        decoded = features[NUM_SCALES]
        for scale in reversed(range(NUM_SCALES)):
            decoded = self.decoders[scale](decoded, features[scale])
        return Output(self.head(decoded))


class Decoder(nn.Module):
    """One step up: upsample the coarser map by a learned kernel, concatenate the skip connection, convolve twice."""

    def __init__(self, width: int, *, out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.convolutions = conv_stack(2 * width, out_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return the decoded map (B, out_channels, H, W)."""
        return self.convolutions(torch.cat([self.upsample(coarse), skip], dim=1))
