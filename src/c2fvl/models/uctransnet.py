"""UCTransNet: a U-Net whose skip connections attend to each other channel by channel.

Wang et al., "UCTransNet: Rethinking the Skip Connections in U-Net from a Channel-wise Perspective with Transformer",
AAAI 2022, arXiv 2109.04335.

Deviations from the published code, none of which changes its output:
- the projections of all heads are one matrix;
- tokens are projected before they are up-sampled, as in `c2fvl.py`;
- any image side divisible by 16 works; positions are resized.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.layers.blocks import ConvNormReLU, SkipFusion, UNetEncoder, add_upsampled
from c2fvl.models.layers.transformer import PatchEmbedding, TokenMLP, as_map, as_tokens
from c2fvl.models.output import Output, check_positive, check_size

SIZE_STEP = 16
NUM_SCALES = 4
NORM_EPS = 1e-6
SCORE_EPS = 1e-5


class UCTransNet(nn.Module):
    """The network of UCTransNet.

    image (B, in_channels, H, W) in [0, 1], H and W divisible by 16; it reads no text. Returns logits
    (B, num_classes, H, W). Raises `ValueError` for an image of another size.
    """

    TEXT = "none"
    UNET_HEAD = "head."
    """Where the head of a U-Net goes that this network starts from."""

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        base_width: int = 64,
        image_size: int = 224,
        num_heads: int = 4,
        num_layers: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, base_width=base_width, num_heads=num_heads)
        check_size(image_size, image_size, SIZE_STEP)
        self.encoder = UNetEncoder(in_channels=in_channels, base_width=base_width)
        widths = self.encoder.widths[:NUM_SCALES]
        self.embeddings = nn.ModuleList(
            PatchEmbedding(width, width, patch=SIZE_STEP >> scale, grid=image_size // SIZE_STEP, dropout=dropout)
            for scale, width in enumerate(widths)
        )
        self.layers = nn.ModuleList(
            ChannelLayer(widths, num_heads=num_heads, dropout=dropout) for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=NORM_EPS) for width in widths)
        self.reconstructions = nn.ModuleList(ConvNormReLU(width, width, kernel_size=1) for width in widths)
        self.decoders = nn.ModuleList(
            Decoder(width, out_channels=widths[max(scale - 1, 0)]) for scale, width in enumerate(widths)
        )
        self.head = nn.Conv2d(base_width, num_classes, 1)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Output:
        """Return logits (B, num_classes, H, W)."""
        height, width = image.shape[-2:]
        check_size(height, width, SIZE_STEP)
        features = self.encoder(image)
        tokens = [as_tokens(embed(features[scale])) for scale, embed in enumerate(self.embeddings)]
        for layer in self.layers:
            tokens = layer(tokens)

        grid = torch.Size((height // SIZE_STEP, width // SIZE_STEP))
        decoded = features[NUM_SCALES]
        for scale in reversed(range(NUM_SCALES)):
            restored = self.reconstructions[scale](as_map(self.norms[scale](tokens[scale]), grid))
            skip = add_upsampled(features[scale], restored, SIZE_STEP >> scale)
            decoded = self.decoders[scale](decoded, skip)
        return Output(self.head(decoded))


class ChannelLayer(nn.Module):
    """One layer of the channel transformer on the tokens of all scales, (B, T, C_k) each."""

    def __init__(self, widths: tuple[int, ...], *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norms = nn.ModuleList(nn.LayerNorm(width, eps=NORM_EPS) for width in widths)
        self.joint_norm = nn.LayerNorm(sum(widths), eps=NORM_EPS)
        self.attention = ChannelAttention(widths, num_heads=num_heads, dropout=dropout)
        self.mlp_norms = nn.ModuleList(nn.LayerNorm(width, eps=NORM_EPS) for width in widths)
        self.mlps = nn.ModuleList(
            TokenMLP(width, hidden=4 * width, dropout=0.0, activate_output=False) for width in widths
        )

    def forward(self, tokens: list[Tensor]) -> list[Tensor]:
        """Return the tokens of all scales."""
        joint = self.joint_norm(torch.cat(tokens, dim=2))
        attended = self.attention([norm(own) for norm, own in zip(self.attention_norms, tokens, strict=True)], joint)
        tokens = [own + found for own, found in zip(tokens, attended, strict=True)]
        return [own + mlp(norm(own)) for own, norm, mlp in zip(tokens, self.mlp_norms, self.mlps, strict=True)]


class ChannelAttention(nn.Module):
    """Attention of each scale's channels to the channels of all scales; the heads are averaged, not joined."""

    def __init__(self, widths: tuple[int, ...], *, num_heads: int, dropout: float) -> None:
        super().__init__()
        joint = sum(widths)
        self.num_heads = num_heads
        self.queries = nn.ModuleList(nn.Linear(width, num_heads * width, bias=False) for width in widths)
        self.key = nn.Linear(joint, num_heads * joint, bias=False)
        self.value = nn.Linear(joint, num_heads * joint, bias=False)
        self.outputs = nn.ModuleList(nn.Linear(width, width, bias=False) for width in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: list[Tensor], joint: Tensor) -> list[Tensor]:
        """Return the attended tokens of each scale (B, T, C_k), given those of all scales (B, T, C)."""
        key, value = self._heads(self.key(joint)), self._heads(self.value(joint))  # (B, heads, T, C)
        scale = 1 / math.sqrt(joint.shape[2])
        contexts = []
        for query, own in zip(self.queries, tokens, strict=True):
            scores = self._heads(query(own)).transpose(2, 3) @ key * scale  # (B, heads, C_k, C)
            attention = self.dropout(_instance_norm(scores).softmax(dim=-1))
            contexts.append((attention @ value.transpose(2, 3)).mean(dim=1).transpose(1, 2))  # (B, T, C_k)
        return [self.dropout(output(context)) for output, context in zip(self.outputs, contexts, strict=True)]

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def _instance_norm(scores: Tensor) -> Tensor:
    """Return the scores of each image and head with mean 0 and variance 1, without running statistics."""
    variance, mean = torch.var_mean(scores.float(), dim=(2, 3), correction=0, keepdim=True)
    return (scores - mean) * torch.rsqrt(variance + SCORE_EPS)


class ChannelGate(nn.Module):
    """Gate the channels of a skip connection by its mean and that of the coarser map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_skip = nn.Linear(width, width)
        self.from_coarse = nn.Linear(width, width)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """Return the gated skip (B, C, H, W); the coarser map may have any size, because only its mean is used."""
        gate = (self.from_skip(skip.mean((2, 3))) + self.from_coarse(coarse.mean((2, 3)))) / 2
        return functional.relu(skip * gate.sigmoid()[:, :, None, None])


class Decoder(nn.Module):
    """One step up: gate the skip connection, fuse it with the upsampled coarser map, convolve twice."""

    def __init__(self, width: int, *, out_channels: int) -> None:
        super().__init__()
        self.gate = ChannelGate(width)
        self.convolutions = SkipFusion(width, width, out_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return the decoded map (B, out_channels, H, W)."""
        return self.convolutions(coarse, self.gate(skip, coarse))
