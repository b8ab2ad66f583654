"""FilmFirst: predicts the findings from the image first, then compares the report with them and follows what agrees.

The network predicts side, number of lesions and six zones from the image alone. Each finding that a report names gets
a weight: the probability, given image and report, that this finding is true. The weight is the logistic function of
what the network computes (`agreement`) plus the log-odds of `trust`, the probability before the image is seen. With a
trust of 0 the mask follows the image alone, with a trust of 1 it follows the report. For a zone, the decoder is guided
by

    weight · (named ? 1 : 0) + (1 − weight) · (probability predicted from the image)

and not by the report itself. A finding with the weight 0 changes nothing: the mask is the one without a report.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.layers.blocks import ConvNormReLU, SkipFusion, conv_stack, upsample_nearest
from c2fvl.models.layers.efficient import EfficientEncoder
from c2fvl.models.output import FindingLogits, Output, check_positive, check_size, check_text
from c2fvl.reports.findings import DEFAULT_TRUST, FINDINGS, FIRST_ZONE, TRUST, checked_trust
from c2fvl.reports.report import SIDES
from c2fvl.reports.zones import ZONES

SIZE_STEP = 32
NUM_ZONES, NUM_SIDES = len(ZONES), len(SIDES)
NUM_COUNTS = 8
"""Classes of the number of lesions: 0 … 6, and 7 or more."""
NUM_FINDINGS = 2 + NUM_ZONES
"""Side, number and zones, in the order of `findings.FINDINGS`."""
MAX_LOG_ODDS = 6.0
"""Predicted log-odds are clamped to ± this before a report is compared with them."""


class ImageFeatures(NamedTuple):
    """What the network computes of images before it reads a report."""

    skips: tuple[Tensor, ...]
    """Maps of the encoder at strides 2, 4 and 8."""
    coarse: Tensor
    """The map at stride 16 with its context, from which the findings are predicted."""
    zones: Tensor
    number: Tensor
    side: Tensor


class FilmFirst(nn.Module):
    """A network that predicts the findings from the image and follows a report as far as it agrees with them.

    image (B, in_channels, H, W) in [0, 1], H and W divisible by 32; text (B, 1, 9): a row of `findings.FINDINGS` for
    each image, NaN for what is not known; `text=None` is no report for the whole batch. Returns logits (B, C, H, W),
    the coarser side maps in `aux`, and in `findings` the predicted findings and the agreement with the report.

    `trust` is used for a row that gives none. `encoder` is "lite0", "lite1" or "lite2" (EfficientNet-Lite), "plain"
    (convolutions at the cost of lite0), "tiny" (fewer, for synthetic images) or "wide" (more, for a GPU). `drop_path`
    is the probability that the deepest block is left out in training (lite only), `dropout` that of the findings head.
    `fusion` is how the combined findings guide the decoder: "scales" (scale and shift of channels), "maps" (zones as
    soft maps) or "attention" (from pixels to zones).

    Raises `ValueError` for arguments that are not known and for inputs of a wrong shape.
    """

    TEXT = "findings"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        encoder: str = "lite0",
        widths: tuple[int, ...] = (24, 40, 64, 96),
        fusion: str = "maps",
        trust: float = DEFAULT_TRUST,
        dropout: float = 0.1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise ValueError(f"encoder is {encoder!r}; known are {', '.join(ENCODERS)}")
        if drop_path and not encoder.startswith("lite"):
            raise ValueError(
                f"drop_path is {drop_path}, but the encoder {encoder} has no blocks to leave out; set it to 0"
            )
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is {drop_path}; expected a probability from 0 to below 1")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is {fusion!r}; known are {', '.join(FUSIONS)}")
        check_positive(in_channels=in_channels, widths=widths)
        if len(widths) != 4:
            raise ValueError(f"widths are {tuple(widths)}; expected four, for the maps at strides 2, 4, 8 and 16")
        self.trust = checked_trust(trust)
        self.returns_side_maps = True
        """Only a loss reads them; the inference model leaves them out."""
        self.encoder: EfficientEncoder | PlainEncoder = ENCODERS[encoder](in_channels, drop_path)
        *skips, deepest = self.encoder.widths
        self.context = ConvNormReLU(deepest, widths[-1])
        inputs = (*widths[1:], widths[-1])
        self.decoders = nn.ModuleList(
            SkipFusion(skip, coarse, width) for skip, coarse, width in zip(skips, inputs, widths, strict=True)
        )
        self.reader = FindingsHead(widths[-1], dropout=dropout)
        self.weigher = AgreementHead()
        self.fusion: Fusion = FUSIONS[fusion](widths)
        self.heads = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Output:
        """Return logits (B, num_classes, H, W), side maps finest first, and the predicted findings."""
        if text is None:
            text = image.new_full((image.shape[0], 1, len(FINDINGS)), torch.nan)
        else:
            check_text(text, image.shape[0], 1, len(FINDINGS))
        return self.decode(self.encode_image(image), text)

    def with_trust(self, trust: float) -> "FilmFirst":
        """Return the network with another trust; both share their weights. `ValueError` for one outside of 0 … 1."""
        network = copy.copy(self)
        network.trust = checked_trust(trust)
        return network

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Return what the network computes of images (B, in_channels, H, W) before it reads a report."""
        check_size(image.shape[-2], image.shape[-1], SIZE_STEP)
        *skips, deepest = self.encoder(image)
        coarse = self.decoders[3](self.context(deepest), skips.pop())
        zones, number, side = (logits.float() for logits in self.reader(coarse))
        return ImageFeatures(tuple(skips), coarse, zones, number, side)

    def decode(self, features: ImageFeatures, text: Tensor) -> Output:
        """Return the output for encoded images and their reports (B, 1, 9)."""
        report = text[:, 0].float()
        trust = torch.where(report[:, TRUST:].isnan(), self.trust, report[:, TRUST:])
        predicted = features.zones, features.number, features.side
        agreement, combined = self.weigher(*predicted, report, trust)
        guidance = self.fusion.prepare(features.coarse, combined.to(features.coarse.dtype))
        side_maps: list[Tensor] = []
        decoded = self.fusion(3, features.coarse, guidance)
        for scale in (2, 1, 0):
            if self.returns_side_maps:
                side_maps.insert(0, self.heads[scale + 1](decoded))
            decoded = self.fusion(scale, self.decoders[scale](decoded, features.skips[scale]), guidance)
        logits = functional.interpolate(self.heads[0](decoded), scale_factor=2.0, mode="bilinear")
        return Output(
            logits,
            tuple(upsample_nearest(coarse, 4 << scale) for scale, coarse in enumerate(side_maps)),
            FindingLogits(*predicted, agreement),
        )


class FindingsHead(nn.Module):
    """Predicts zones, number and side from a map; each zone attends to it twice, by content and by position."""

    ATTENTION_HEADS = 2

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.content = nn.Conv2d(width, NUM_ZONES * self.ATTENTION_HEADS, 1)
        self.position = nn.Linear(NUM_COORDINATES, NUM_ZONES * self.ATTENTION_HEADS)
        self.zone = nn.Parameter(torch.randn(NUM_ZONES, width) * 0.02)
        self.hidden = nn.Sequential(nn.Linear(self.ATTENTION_HEADS * width, width), nn.ReLU(), nn.Dropout(dropout))
        self.zone_bias = nn.Parameter(torch.zeros(NUM_ZONES))
        self.summary = nn.Sequential(nn.Linear(NUM_ZONES * width, 64), nn.ReLU(), nn.Dropout(dropout))
        self.number = nn.Linear(64 + NUM_ZONES, NUM_COUNTS)
        self.side = nn.Linear(64 + NUM_ZONES, NUM_SIDES)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-odds of the zones (B, 6), logits of the number (B, 8) and of the side (B, 3)."""
        scores = self.content(features).flatten(2) + self.position(coordinates(features)).mT
        attended = scores.softmax(dim=2) @ features.flatten(2).mT  # (B, 12, C)
        hidden = self.hidden(attended.unflatten(1, (NUM_ZONES, self.ATTENTION_HEADS)).flatten(2))
        zones = (hidden * self.zone).sum(2) + self.zone_bias
        summary = torch.cat([self.summary(hidden.flatten(1)), zones], dim=1)
        return zones, self.number(summary), self.side(summary)


class AgreementHead(nn.Module):
    """Weights each finding of a report by its agreement with the predicted ones, and combines both.

    No gradient flows back to the predicted findings, so that they depend on the image alone.
    """

    NUM_OUTPUTS = 2 * NUM_ZONES + NUM_COUNTS + 1 + NUM_SIDES + 1

    def __init__(self) -> None:
        super().__init__()
        features = 3 * NUM_ZONES + 2 * (NUM_COUNTS + NUM_SIDES) + NUM_FINDINGS
        self.network = nn.Sequential(
            nn.Linear(features, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, NUM_FINDINGS)
        )

    def forward(
        self, zones: Tensor, number: Tensor, side: Tensor, report: Tensor, trust: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the log-odds that each finding of the report is true (B, 8) and the combined ones (B, 25), float32."""
        zones = zones.detach().clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS)
        number, side = number.detach().softmax(1), side.detach().softmax(1)
        known = ~report[:, :TRUST].isnan()
        given = report[:, :TRUST].nan_to_num(0.0)
        given_side = _one_hot(given[:, 0], NUM_SIDES) * known[:, :1]
        given_number = _one_hot(given[:, 1], NUM_COUNTS) * known[:, 1:2]
        signed_zones = (2 * given[:, FIRST_ZONE:] - 1) * known[:, FIRST_ZONE:]
        inputs = [zones, signed_zones, zones * signed_zones, number, given_number, side, given_side, known.float()]
        log_odds = self.network(torch.cat(inputs, dim=1)).float() + trust.logit()
        weights = log_odds.sigmoid() * known
        side_weight, number_weight, zone_weights = weights[:, :1], weights[:, 1:2], weights[:, FIRST_ZONE:]
        combined = [
            2 * torch.lerp(zones.sigmoid(), given[:, FIRST_ZONE:], zone_weights) - 1,
            zone_weights,
            torch.lerp(number, given_number, number_weight),
            number_weight,
            torch.lerp(side, given_side, side_weight),
            side_weight,
        ]
        return log_odds, torch.cat(combined, dim=1)


class Fusion(nn.Module):
    """How the combined findings guide the decoder; with its initial weights it changes nothing."""

    def prepare(self, coarse: Tensor, findings: Tensor) -> Any:
        """Return what every scale needs, from the map at stride 16 (B, C, h, w) and the combined findings (B, 25)."""
        raise NotImplementedError

    def forward(self, scale: int, features: Tensor, guidance: Any) -> Tensor:
        """Return the guided map of a scale; 0 is the finest."""
        raise NotImplementedError


class ScaleFusion(Fusion):
    """The findings scale and shift the channels of every map (Perez et al., "FiLM", AAAI 2018)."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(AgreementHead.NUM_OUTPUTS, 64), nn.ReLU())
        self.scales = nn.ModuleList(_zeroed(nn.Linear(64, 2 * width)) for width in widths)

    def prepare(self, coarse: Tensor, findings: Tensor) -> Tensor:
        """Return hidden features of the findings (B, 64)."""
        return self.hidden(findings)

    def forward(self, scale: int, features: Tensor, guidance: Tensor) -> Tensor:
        """Return the guided map."""
        factor, shift = self.scales[scale](guidance)[:, :, None, None].chunk(2, dim=1)
        return features + factor * features + shift


class MapFusion(Fusion):
    """Each zone becomes a soft map, found by content and position, with the value of its finding."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.content = nn.Conv2d(widths[-1], NUM_ZONES, 1)
        self.position = nn.Linear(NUM_COORDINATES, NUM_ZONES)
        self.mixtures = nn.ModuleList(_zeroed(nn.Conv2d(2 * NUM_ZONES, width, 1)) for width in widths)
        self.whole = ScaleFusion(widths)

    def prepare(self, coarse: Tensor, findings: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps of the zones (B, 12, h, w), and features for the whole image."""
        position = self.position(coordinates(coarse)).mT.unflatten(1, coarse.shape[-2:])
        territory = (self.content(coarse) + position).sigmoid()
        zones = findings[:, : 2 * NUM_ZONES, None, None] * torch.cat([territory, territory], dim=1)
        return zones, self.whole.prepare(coarse, findings)

    def forward(self, scale: int, features: Tensor, guidance: tuple[Tensor, Tensor]) -> Tensor:
        """Return the guided map."""
        zones, whole = guidance
        mixed = self.mixtures[scale](zones)
        if scale < 3:
            mixed = functional.interpolate(mixed, scale_factor=float(1 << (3 - scale)), mode="bilinear")
        return self.whole(scale, features + mixed, whole)


class AttentionFusion(Fusion):
    """Pixels attend to tokens of zones, number and side (scaled dot products, Vaswani et al., 2017)."""

    WIDTH = 48

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.zones = nn.Parameter(torch.randn(NUM_ZONES, self.WIDTH) * 0.1)
        self.zone_belief = nn.Linear(2, self.WIDTH)
        self.number = nn.Linear(NUM_COUNTS + 1, self.WIDTH)
        self.side = nn.Linear(NUM_SIDES + 1, self.WIDTH)
        self.queries = nn.ModuleList(nn.Conv2d(width, self.WIDTH, 1) for width in widths)
        self.positions = nn.ModuleList(nn.Linear(NUM_COORDINATES, self.WIDTH) for _ in widths)
        self.keys = nn.ModuleList(nn.Linear(self.WIDTH, self.WIDTH) for _ in widths)
        self.values = nn.ModuleList(nn.Linear(self.WIDTH, self.WIDTH) for _ in widths)
        self.outs = nn.ModuleList(_zeroed(nn.Linear(self.WIDTH, width)) for width in widths)

    def prepare(self, coarse: Tensor, findings: Tensor) -> Tensor:
        """Return the tokens (B, 8, 48)."""
        zones, number, side = findings.split([2 * NUM_ZONES, NUM_COUNTS + 1, NUM_SIDES + 1], dim=1)
        zone_tokens = self.zone_belief(zones.unflatten(1, (2, NUM_ZONES)).mT) + self.zones
        return torch.cat([zone_tokens, self.number(number)[:, None], self.side(side)[:, None]], dim=1)

    def forward(self, scale: int, features: Tensor, guidance: Tensor) -> Tensor:
        """Return the guided map."""
        queries = self.queries[scale](features).flatten(2).mT + self.positions[scale](coordinates(features))
        scores = queries @ self.keys[scale](guidance).mT / self.WIDTH**0.5
        values = self.outs[scale](self.values[scale](guidance))
        return features + (scores.softmax(dim=2) @ values).mT.unflatten(2, features.shape[-2:])


class PlainEncoder(nn.Module):
    """Pairs of convolutions at strides 2 … 32, at the cost of EfficientNet-Lite0."""

    widths: tuple[int, int, int, int, int] = (24, 48, 96, 160, 192)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = ConvNormReLU(in_channels, self.widths[0], stride=2)
        self.first = ConvNormReLU(self.widths[0], self.widths[0])
        self.stages = nn.ModuleList(
            conv_stack(before, after) for before, after in zip(self.widths, self.widths[1:], strict=False)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the five maps, finest first."""
        maps = [self.first(self.stem(image))]
        for stage in self.stages:
            maps.append(stage(functional.max_pool2d(maps[-1], 2)))
        return maps


class TinyEncoder(PlainEncoder):
    """A `PlainEncoder` at a tenth of its cost, for the synthetic images."""

    widths = (16, 24, 32, 48, 64)


class WideEncoder(PlainEncoder):
    """A `PlainEncoder` at about seven times the cost, for a GPU."""

    widths = (64, 128, 256, 512, 512)


NUM_COORDINATES = 5


def coordinates(features: Tensor) -> Tensor:
    """Return x, y, x², y² and xy of each pixel, with x and y in [−1, 1]: (B, C, h, w) → (h · w, 5)."""
    height, width = features.shape[-2:]
    rows = (torch.arange(height, device=features.device, dtype=torch.float32) + 0.5) * (2 / height) - 1
    columns = (torch.arange(width, device=features.device, dtype=torch.float32) + 0.5) * (2 / width) - 1
    y = rows[:, None].expand(height, width).flatten()
    x = columns[None].expand(height, width).flatten()
    return torch.stack([x, y, x * x, y * y, x * y], dim=1).to(features.dtype)


ENCODERS: dict[str, Callable[[int, float], EfficientEncoder | PlainEncoder]] = {
    "lite0": lambda channels, drop: EfficientEncoder(channels, variant=0, drop_path=drop),
    "lite1": lambda channels, drop: EfficientEncoder(channels, variant=1, drop_path=drop),
    "lite2": lambda channels, drop: EfficientEncoder(channels, variant=2, drop_path=drop),
    "plain": lambda channels, _: PlainEncoder(channels),
    "tiny": lambda channels, _: TinyEncoder(channels),
    "wide": lambda channels, _: WideEncoder(channels),
}
FUSIONS: dict[str, Callable[[tuple[int, ...]], Fusion]] = {
    "scales": ScaleFusion,
    "maps": MapFusion,
    "attention": AttentionFusion,
}


def _one_hot(number: Tensor, size: int) -> Tensor:
    """Return (B, size) float32; larger numbers count as the last class."""
    return functional.one_hot(number.long().clamp(0, size - 1), size).float()


def _zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Return the layer with weights and bias of zero."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
