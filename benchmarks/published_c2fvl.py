"""The published C2FVL in its plain form, to be timed beside ours: what was published does this work, in this order.

Written from the specification of the network (Shan et al., ICASSP 2023): tokens are enlarged before they are projected,
average and maximum are taken of two separate branches, every side map is made, tensors lie as PyTorch lays them by
default. Keys are those of the published checkpoints without what these carry in vain. `tests/test_benchmarks.py`
compares it with the recording of the published network.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.checkpoints.official.convert import official_keys
from c2fvl.models.c2fvl import C2FVL

PATCHES = (16, 8, 4, 2)
HEADS = 8


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, before: int, after: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(features)))


class _Down(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.nConvs = nn.Sequential(_Unit(before, after), _Unit(after, after))

    def forward(self, features: Tensor) -> Tensor:
        return self.nConvs(functional.max_pool2d(features, 2))


class _Embeddings(nn.Module):
    def __init__(self, width: int, patch: int, grid: int) -> None:
        super().__init__()
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid**2, width))
        self.patch_embeddings = nn.Conv2d(width, width, patch, stride=patch)
        self.dropout = nn.Dropout(0.1)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.patch_embeddings(features).flatten(2).transpose(1, 2) + self.position_embeddings)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        query, key, value = self.qkv(tokens).reshape(batch, count, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * (width // HEADS) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, count, width))


class _Perceptron(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in (self.fc1, self.fc2):
            tokens = self.dropout(functional.gelu(layer(tokens)))
        return tokens


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = _Attention(width), _Perceptron(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _TokenUnit(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(before, after, 3, padding=1)
        self.norm = nn.BatchNorm1d(after)

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(tokens.transpose(1, 2)))).transpose(1, 2)


class _Transformer(nn.Module):
    def __init__(self, width: int, patch: int, grid: int, *, joins: bool) -> None:
        super().__init__()
        self.embeddings = _Embeddings(width, patch, grid)
        self.Encoder_blocks = nn.Sequential(_Block(width))
        self.CTBN = _TokenUnit(width, width // 2) if joins else None

    def forward(self, features: Tensor, previous: Tensor | None) -> Tensor:
        tokens = self.Encoder_blocks(self.embeddings(features))
        if self.CTBN is None or previous is None:
            return tokens
        return torch.cat([self.CTBN(tokens), previous], dim=2)


class _Reconstruct(nn.Module):
    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(width, width, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, tokens: Tensor) -> Tensor:
        side = int(tokens.shape[1] ** 0.5)
        features = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)
        features = functional.interpolate(features, scale_factor=float(self.factor), mode="nearest")
        return functional.relu(self.norm(self.conv(features)))


class _Alignment(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_avg, self.linear_avg = nn.Conv2d(width, width, 1, bias=False), nn.Linear(width, width)
        self.conv_max, self.linear_max = nn.Conv2d(width, width, 1, bias=False), nn.Linear(width, width)
        self.bottleneck = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, skip: Tensor) -> Tensor:
        average = self.linear_avg(self.conv_avg(skip).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        maximum = self.linear_max(self.conv_max(skip).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        total = functional.relu(average).mean(1, keepdim=True) + functional.relu(maximum).max(1, keepdim=True).values
        return self.bottleneck(total.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * skip


class _Up(nn.Module):
    def __init__(self, width: int, after: int) -> None:
        super().__init__()
        self.vlab = _Alignment(width)
        self.nConvs = nn.Sequential(_Unit(2 * width, after), _Unit(after, after))

    def forward(self, coarse: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        aligned = self.vlab(skip)
        upsampled = functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return self.nConvs(torch.cat([aligned, upsampled], dim=1)), aligned


class PublishedC2FVL(nn.Module):
    """The published network at any base width, for square images of one side and one class."""

    def __init__(self, base_width: int = 64, side: int = 224) -> None:
        super().__init__()
        widths = [base_width * factor for factor in (1, 2, 4, 8)]
        self.inc = _Unit(3, base_width)
        self.down1, self.down2 = _Down(widths[0], widths[1]), _Down(widths[1], widths[2])
        self.down3, self.down4 = _Down(widths[2], widths[3]), _Down(widths[3], widths[3])
        for scale, (width, patch) in enumerate(zip(widths, PATCHES, strict=True)):
            after = widths[max(scale - 1, 0)]
            self.add_module(f"downVit{scale or ''}", _Transformer(width, patch, side // 16, joins=scale > 0))
            self.add_module(f"reconstruct{scale + 1}", _Reconstruct(width, patch))
            self.add_module(f"up{scale + 1}", _Up(width, after))
            self.add_module(f"outc{scale + 1 if scale else ''}", nn.Conv2d(width, 1, 1))

    @classmethod
    def of(cls, network: C2FVL, *, side: int = 224) -> "PublishedC2FVL":
        """Return the plain form of one of our networks, with the same weights."""
        names, weights = official_keys("c2fvl", network), {}
        for key, value in network.state_dict().items():
            (theirs,) = names[key]
            weights[theirs] = value
        plain = cls(network.encoder.widths[0], side).to(next(network.parameters()).dtype)
        weights = {
            key: weights[key].reshape(expected.shape) if expected.ndim != 3 or "position" not in key
            else weights[key].flatten(2).transpose(1, 2)
            for key, expected in plain.state_dict().items()
        }  # fmt: skip
        plain.load_state_dict(weights)
        return plain.train(network.training)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """Return the probability and four side maps, each (B, 1, S, S)."""
        features = [self.inc(image)]
        for number in range(1, 5):
            features.append(self._part("down", number)(features[-1]))
        tokens: Tensor | None = None
        skips = []
        for scale in range(4):
            tokens = self._part("downVit", scale or "")(features[scale], tokens)
            gate = text[:, 0].repeat(1, features[scale].shape[1] // 8)[:, :, None, None]
            skips.append((self._part("reconstruct", scale + 1)(tokens) + features[scale]) * gate)
        decoded, sides = features[4], list[Tensor]()
        for scale in reversed(range(4)):
            decoded, aligned = self._part("up", scale + 1)(decoded, skips[scale])
            upsampled = aligned if scale == 0 else functional.interpolate(aligned, scale_factor=2.0**scale)
            sides.insert(0, self._part("outc", scale + 1 if scale else "")(upsampled))
        return (torch.sigmoid(self._part("outc", "")(decoded)), *sides)

    def _part(self, name: str, number: int | str) -> nn.Module:
        return self.get_submodule(f"{name}{number}")
