"""Axial attention with gated positions, and the encoder and decoder that the MedT family makes of it.

Valanarasu et al., "Medical Transformer: Gated Axial-Attention for Medical Image Segmentation", MICCAI 2021,
arXiv 2102.10662. Three kinds of attention: "positional", "gated" (positional, with four learned gates) and "plain"
(without positions).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.layers.blocks import ConvNormReLU

UNITS = (1, 2, 4, 1)
"""Blocks of the four stages."""
GATE_START = 0.1


class AxialAttention(nn.Module):
    """Attention along the columns or the rows of a map: (B, C, H, W) → (B, C, H, W), or half its size with stride 2.

    `length` is the side along which it attends; with positions it takes no other. Scores are not scaled, as published,
    because a batch norm follows.
    """

    distance: Tensor
    """Of each position to each other, as an index into the table of relative positions."""

    def __init__(
        self, channels: int, *, length: int, kind: str, along_height: bool, groups: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.groups, self.along_height, self.stride = groups, along_height, stride
        self.group_width = channels // groups
        self.query_key_value = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.query_key_value_norm = nn.BatchNorm2d(2 * channels)
        nn.init.normal_(self.query_key_value.weight, std=channels**-0.5)
        self.has_positions, self.is_gated = kind != "plain", kind == "gated"
        if self.has_positions:
            self.relative = nn.Parameter(self.group_width**-0.5 * torch.randn(2 * self.group_width, 2 * length - 1))
            positions = torch.arange(length)
            self.register_buffer("distance", positions[:, None] - positions[None] + length - 1, persistent=False)
        if self.is_gated:
            self.gate_query = nn.Parameter(torch.tensor(GATE_START))
            self.gate_key = nn.Parameter(torch.tensor(GATE_START))
            self.gate_position = nn.Parameter(torch.tensor(GATE_START))
            self.gate_value = nn.Parameter(torch.tensor(1.0))
        self.similarity_norm = nn.BatchNorm2d(groups * (3 if self.has_positions else 1))
        self.output_norm = nn.BatchNorm1d(channels * (2 if self.has_positions else 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return the attended map."""
        projected = self.query_key_value_norm(self.query_key_value(features))
        # every column, or every row, is a sequence: (B, L, 2C, K)
        lines = projected.permute(0, 3, 1, 2) if self.along_height else projected.permute(0, 2, 1, 3)
        sequences = lines.flatten(0, 1).unflatten(1, (self.groups, -1))  # (N, groups, 2 · group_width, K)
        half = self.group_width // 2
        query, key, value = sequences.split([half, half, self.group_width], dim=2)
        if self.has_positions:
            attended = self._with_positions(query, key, value)
        else:
            attention = self.similarity_norm(query.transpose(2, 3) @ key).softmax(dim=-1)
            attended = self.output_norm((value @ attention.transpose(2, 3)).flatten(1, 2))  # (N, C, K)
        lines = attended.unflatten(0, (features.shape[0], -1))  # (B, L, C, K)
        attended = lines.permute(0, 2, 3, 1) if self.along_height else lines.permute(0, 2, 1, 3)
        # an odd side is rounded up, as by the strided shortcut
        return attended if self.stride == 1 else functional.avg_pool2d(attended, 2, self.stride, ceil_mode=True)

    def _with_positions(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (N, C, K) from the products of contents and those with the table of relative positions."""
        half = self.group_width // 2
        table = self.relative[:, self.distance]  # (2 · group_width, K, K), row by column
        query_table, key_table, value_table = table.split([half, half, self.group_width])
        by_query = torch.einsum("ngci,cij->ngij", query, query_table)
        by_key = torch.einsum("ngcj,cji->ngij", key, key_table)
        if self.is_gated:
            by_query, by_key = self.gate_query * by_query, self.gate_key * by_key
        scores = torch.cat([query.transpose(2, 3) @ key, by_query, by_key], dim=1)
        attention = self.similarity_norm(scores).unflatten(1, (3, self.groups)).sum(dim=1).softmax(dim=-1)
        content = value @ attention.transpose(2, 3)  # (N, groups, group_width, K)
        position = torch.einsum("ngij,cij->ngci", attention, value_table)
        if self.is_gated:
            content, position = self.gate_value * content, self.gate_position * position
        # content and position of each channel side by side, as the norm of the checkpoints has them
        paired = torch.stack([content.flatten(1, 2), position.flatten(1, 2)], dim=2).flatten(1, 2)
        return self.output_norm(paired).unflatten(1, (-1, 2)).sum(dim=2)


class AxialBlock(nn.Module):
    """A bottleneck whose middle attends along the columns, then along the rows."""

    def __init__(self, in_channels: int, *, inner: int, length: int, kind: str, groups: int, stride: int) -> None:
        super().__init__()
        outer = 2 * inner
        self.reduce = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(inner)
        self.columns = AxialAttention(inner, length=length, kind=kind, along_height=True, groups=groups)
        self.rows = AxialAttention(inner, length=length, kind=kind, along_height=False, groups=groups, stride=stride)
        self.expand = nn.Conv2d(inner, outer, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(outer)
        changes = stride != 1 or in_channels != outer
        self.shortcut = nn.Conv2d(in_channels, outer, 1, stride=stride, bias=False) if changes else None
        self.shortcut_norm = nn.BatchNorm2d(outer) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """Return the features (B, 2 · inner, H / stride, W / stride)."""
        around = features
        if self.shortcut is not None and self.shortcut_norm is not None:
            around = self.shortcut_norm(self.shortcut(features))
        features = functional.relu(self.reduce_norm(self.reduce(features)))
        features = functional.relu(self.rows(self.columns(features)))
        return functional.relu(self.expand_norm(self.expand(features)) + around)


class AxialBranch(nn.Module):
    """Stem, stages of axial blocks and a decoder that adds its skips: (B, in, S, S) → (B, 2 · base_width, S, S).

    `num_stages` is 4, or 2 for the shallow branch of two; only the deep one has a bottom convolution.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        base_width: int,
        stem_width: int,
        side: int,
        kind: str,
        groups: int,
        num_stages: int = 4,
    ) -> None:
        super().__init__()
        widest = 16 * base_width
        self.stem = nn.Sequential(
            ConvNormReLU(in_channels, stem_width, kernel_size=7, stride=2, bias=False),
            ConvNormReLU(stem_width, widest, bias=False),
            ConvNormReLU(widest, stem_width, bias=False),
        )
        widths = [4 * base_width << stage for stage in range(num_stages)]
        self.stages = nn.ModuleList()
        before, length = stem_width, -(-side // 2)
        for stage, width in enumerate(widths):
            stride = 2 if stage else 1
            blocks = [AxialBlock(before, inner=width // 2, length=length, kind=kind, groups=groups, stride=stride)]
            length = -(-length // stride)
            blocks += [
                AxialBlock(width, inner=width // 2, length=length, kind=kind, groups=groups, stride=1)
                for _ in range(UNITS[stage] - 1)
            ]
            self.stages.append(nn.Sequential(*blocks))
            before = width
        self.bottom = nn.Conv2d(widths[-1], widths[-1], 3, stride=2, padding=1) if num_stages == len(UNITS) else None
        # By the stage whose size they upsample to; the finest upsamples to the size of the image.
        self.decoders = nn.ModuleList(
            nn.Conv2d(wider, width, 3, padding=1)
            for wider, width in zip(widths, [2 * base_width, *widths], strict=False)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the features at the size of the image."""
        features = self.stem(image)
        skips = []
        for stage in self.stages:
            features = stage(features)
            skips.append(features)
        if self.bottom is not None:
            features = _upsampled(self.bottom(features), features) + features
        for step in reversed(range(1, len(skips))):
            features = _upsampled(self.decoders[step](features), skips[step - 1]) + skips[step - 1]
        return _upsampled(self.decoders[0](features), image)


def _upsampled(features: Tensor, like: Tensor) -> Tensor:
    """Return the activated features, upsampled to the size of `like`."""
    return functional.relu(functional.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False))
