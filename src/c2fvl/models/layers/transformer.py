"""Transformer parts that several networks share: patches with positions, self-attention, perceptron, reduction."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.layers.cpu_gradients import convolve_patches


class PatchEmbedding(nn.Module):
    """Patches of a map → tokens with positions: (B, in, H, W) → (B, C, H / patch, W / patch).

    The position embedding is kept as a map and resized where the grid differs from its own.
    """

    def __init__(self, in_channels: int, width: int, *, patch: int, grid: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.position = nn.Parameter(torch.zeros(1, width, grid, grid))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Return the embedded patches."""
        embedded = convolve_patches(features, self.projection.weight, self.projection.bias)
        position: Tensor = self.position
        if position.shape[-2:] != embedded.shape[-2:]:
            position = functional.interpolate(position, size=embedded.shape[-2:], mode="bilinear", align_corners=False)
        return self.dropout(embedded + position)


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens (B, T, C)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return attended tokens (B, T, C)."""
        query, key, value = self.query_key_value(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)  # (B, heads, T, C / heads)
        return self.projection(attended.transpose(1, 2).flatten(2))


class TokenMLP(nn.Module):
    """Two-layer perceptron on tokens (B, T, C); with `activate_output` it activates after its second layer too."""

    def __init__(self, width: int, *, hidden: int, dropout: float, activate_output: bool) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.reduce = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.activate_output = activate_output
        for layer in (self.expand, self.reduce):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, T, C)."""
        reduced = self.reduce(self.dropout(functional.gelu(self.expand(tokens))))
        return self.dropout(functional.gelu(reduced) if self.activate_output else reduced)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and perceptron with residuals on tokens (B, T, C).

    The perceptron is four times as wide inside unless `hidden` says otherwise.
    """

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        dropout: float,
        activate_output: bool,
        hidden: int | None = None,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=norm_eps)
        self.attention = SelfAttention(width, num_heads)
        self.mlp_norm = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = TokenMLP(width, hidden=hidden or 4 * width, dropout=dropout, activate_output=activate_output)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, T, C)."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens))


class TokenReduction(nn.Module):
    """Halve the channels by a convolution along the flattened token axis: (B, C, T) → (B, C/2, T).

    As published by C2FVL and LViT, the last token of a row neighbours the first of the next row.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width // 2, 3, padding=1)
        self.norm = nn.BatchNorm1d(width // 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the reduced tokens."""
        return functional.relu(self.norm(self.convolution(tokens)))


class TransformerBranch(nn.Module):
    """One transformer over the patches of one scale: (B, C, H, W) → (B, C, h, w), h = H / patch.

    The encoder of C2FVL and of LViT. With `join_previous` its channels are halved along the token axis and
    concatenated with the C/2 channels of the finer scale.
    """

    def __init__(
        self, *, width: int, patch: int, grid: int, num_heads: int, dropout: float, join_previous: bool
    ) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(width, width, patch=patch, grid=grid, dropout=dropout)
        self.block = TransformerBlock(width, num_heads=num_heads, dropout=dropout, activate_output=True)
        self.reduction = TokenReduction(width) if join_previous else None

    def forward(self, features: Tensor, previous: Tensor | None = None, *, added: Tensor | None = None) -> Tensor:
        """Return the token map (B, C, h, w); `added` (B, C, h, w) is added to the embedded patches."""
        embedded = self.embedding(features)
        if added is not None:
            embedded = embedded + added
        tokens = self.block(as_tokens(embedded))
        if self.reduction is None:
            return as_map(tokens, embedded.shape[-2:])
        assert previous is not None
        reduced = self.reduction(tokens.transpose(1, 2)).unflatten(2, embedded.shape[-2:])
        return torch.cat([reduced, previous], dim=1)


def as_tokens(features: Tensor) -> Tensor:
    """Return a map (B, C, h, w) as tokens (B, h · w, C), row by row."""
    return features.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, grid: torch.Size) -> Tensor:
    """Return tokens (B, h · w, C) as a map (B, C, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)
