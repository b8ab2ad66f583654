"""FilmFirst: reads the film before the report, weighs the report against that reading, and draws by what it believes.

The network tells side, number of areas and six zones from the film alone. What a report says of each of these is
believed with a weight: the probability, given film and report, that this statement is true. It is the logistic
function of what the network finds (`agreement`) plus the log-odds of `trust`, the probability before the film is
looked at. Trust 0 draws by the film alone, trust 1 follows the report. The belief in a zone is then

    weight · (named ? 1 : 0) + (1 − weight) · (probability read off the film),

and this, not the report, guides the decoder. A statement that is not believed leaves no trace: the mask is the one
without a report.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from c2fvl.models.layers.blocks import ConvNormReLU, SkipFusion, conv_stack, upsample_nearest
from c2fvl.models.layers.efficient import EfficientEncoder
from c2fvl.models.output import FindingLogits, Output, check_size, check_text
from c2fvl.reports.findings import DEFAULT_TRUST, FINDINGS, FIRST_ZONE, TRUST, checked_trust
from c2fvl.reports.report import SIDES
from c2fvl.reports.zones import ZONES

SIZE_STEP = 32
NUM_ZONES, NUM_SIDES = len(ZONES), len(SIDES)
NUM_COUNTS = 8
"""Numbers of areas told apart: 0 … 6, and 7 or more."""
NUM_STATEMENTS = 2 + NUM_ZONES
"""Side, number and zones, in the order of `findings.FINDINGS`."""
MAX_LOG_ODDS = 6.0
"""Log-odds of a reading are kept within ± this where a report is weighed against them."""


class ImageFeatures(NamedTuple):
    """What is seen on films before any report is read."""

    skips: tuple[Tensor, ...]
    """Maps of the encoder at strides 2, 4 and 8."""
    coarse: Tensor
    """The map at stride 16 with its context, off which the film is read."""
    zones: Tensor
    number: Tensor
    side: Tensor


class FilmFirst(nn.Module):
    """A network that a report helps and never misleads.

    image (B, in_channels, H, W) in [0, 1], H and W divisible by 32; text (B, 1, 9): a row of `findings.FINDINGS` for
    each film, NaN for what is not known, and so is `text=None` for the whole batch. Returns logits (B, C, H, W), the
    coarser side maps in `aux`, and in `reading` what it read off the film and how far it believed the report.

    `trust` is what a row without one is given. `encoder` is "lite0", "lite1" or "lite2" (EfficientNet-Lite), "plain"
    (convolutions of lite0's cost) or "wide" (more of them, for a GPU). `drop_path` is how often its deepest block is
    left out in training (lite only), `dropout` that of the reading. `fusion` is how the belief reaches the decoder:
    "scales" (scale and shift of channels), "maps" (its zones as maps in the picture's space) or "attention" (from
    pixels to zones).

    Raises `ValueError` for arguments that are not known and for inputs of a wrong shape.
    """

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
            raise ValueError(f"drop_path is {drop_path}, but the encoder {encoder} has no blocks to leave out; set 0")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is {drop_path}; expected is a probability from 0 to below 1")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is {fusion!r}; known are {', '.join(FUSIONS)}")
        if len(widths) != 4:
            raise ValueError(f"widths are {tuple(widths)}; expected are four, of the maps at strides 2, 4, 8 and 16")
        self.trust = checked_trust(trust)
        self.returns_side_maps = True
        """Only a loss reads them; the inference form leaves them out."""
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
        """Return logits (B, num_classes, H, W), side maps finest first, and the reading."""
        if text is None:
            text = image.new_full((image.shape[0], 1, len(FINDINGS)), torch.nan)
        else:
            check_text(text, image.shape[0], 1, len(FINDINGS))
        return self.decode(self.encode_image(image), text)

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Return what is seen on films (B, 3, H, W) before any report is read."""
        check_size(image.shape[-2], image.shape[-1], SIZE_STEP)
        *skips, deepest = self.encoder(image)
        coarse = self.decoders[3](self.context(deepest), skips.pop())
        zones, number, side = (logits.float() for logits in self.reader(coarse))
        return ImageFeatures(tuple(skips), coarse, zones, number, side)

    def decode(self, seen: ImageFeatures, text: Tensor) -> Output:
        """Return the output for films that were observed and their reports (B, 1, 9)."""
        told = text[:, 0].float()
        trust = torch.where(told[:, TRUST:].isnan(), self.trust, told[:, TRUST:])
        statements, belief = self.weigher(seen.zones, seen.number, seen.side, told, trust)
        guidance = self.fusion.prepare(seen.coarse, belief.to(seen.coarse.dtype))
        side_maps: list[Tensor] = []
        decoded = self.fusion(3, seen.coarse, guidance)
        for scale in (2, 1, 0):
            if self.returns_side_maps:
                side_maps.insert(0, self.heads[scale + 1](decoded))
            decoded = self.fusion(scale, self.decoders[scale](decoded, seen.skips[scale]), guidance)
        logits = functional.interpolate(self.heads[0](decoded), scale_factor=2.0, mode="bilinear")
        return Output(
            logits,
            tuple(upsample_nearest(coarse, 4 << scale) for scale, coarse in enumerate(side_maps)),
            FindingLogits(seen.zones, seen.number, seen.side, statements),
        )


class FindingsHead(nn.Module):
    """Tells zones, number and side from a map: for each zone two places to look at, by content and by position."""

    ATTENTION_HEADS = 2

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.content = nn.Conv2d(width, NUM_ZONES * self.ATTENTION_HEADS, 1)
        self.position = nn.Linear(NUM_PLACES, NUM_ZONES * self.ATTENTION_HEADS)
        self.zone = nn.Parameter(torch.randn(NUM_ZONES, width) * 0.02)
        self.hidden = nn.Sequential(nn.Linear(self.ATTENTION_HEADS * width, width), nn.ReLU(), nn.Dropout(dropout))
        self.zone_bias = nn.Parameter(torch.zeros(NUM_ZONES))
        self.summary = nn.Sequential(nn.Linear(NUM_ZONES * width, 64), nn.ReLU(), nn.Dropout(dropout))
        self.number = nn.Linear(64 + NUM_ZONES, NUM_COUNTS)
        self.side = nn.Linear(64 + NUM_ZONES, NUM_SIDES)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-odds of the zones (B, 6), logits of the numbers (B, 8) and of the sides (B, 3)."""
        looks = self.content(features).flatten(2) + self.position(places(features)).mT
        looked = looks.softmax(dim=2) @ features.flatten(2).mT  # (B, 12, C)
        hidden = self.hidden(looked.unflatten(1, (NUM_ZONES, self.ATTENTION_HEADS)).flatten(2))
        zones = (hidden * self.zone).sum(2) + self.zone_bias
        summary = torch.cat([self.summary(hidden.flatten(1)), zones], dim=1)
        return zones, self.number(summary), self.side(summary)


class AgreementHead(nn.Module):
    """Weighs each statement of a report against the reading, and joins both to one belief.

    The reading comes in without its gradient: it stays what the film alone shows.
    """

    BELIEF = 2 * NUM_ZONES + NUM_COUNTS + 1 + NUM_SIDES + 1

    def __init__(self) -> None:
        super().__init__()
        features = 3 * NUM_ZONES + 2 * (NUM_COUNTS + NUM_SIDES) + NUM_STATEMENTS
        self.network = nn.Sequential(
            nn.Linear(features, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, NUM_STATEMENTS)
        )

    def forward(
        self, zones: Tensor, number: Tensor, side: Tensor, told: Tensor, trust: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the log-odds that each statement is true (B, 8) and the belief (B, 25), all in float32."""
        zones = zones.detach().clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS)
        number, side = number.detach().softmax(1), side.detach().softmax(1)
        known = ~told[:, :TRUST].isnan()
        said = told[:, :TRUST].nan_to_num(0.0)
        known_side, known_number, known_zones = known[:, :1], known[:, 1:2], known[:, FIRST_ZONE:]
        said_side = _one_hot(said[:, 0], NUM_SIDES) * known_side
        said_number = _one_hot(said[:, 1], NUM_COUNTS) * known_number
        said_zones = (2 * said[:, FIRST_ZONE:] - 1) * known_zones
        evidence = torch.cat(
            [zones, said_zones, zones * said_zones, number, said_number, side, said_side, known.float()], dim=1
        )
        log_odds = self.network(evidence).float() + trust.logit()
        weights = log_odds.sigmoid() * known
        for_side, for_number, for_zones = weights[:, :1], weights[:, 1:2], weights[:, FIRST_ZONE:]
        belief = torch.cat(
            [
                2 * torch.lerp(zones.sigmoid(), said[:, FIRST_ZONE:], for_zones) - 1,
                for_zones,
                torch.lerp(number, said_number, for_number),
                for_number,
                torch.lerp(side, said_side, for_side),
                for_side,
            ],
            dim=1,
        )
        return log_odds, belief


class Fusion(nn.Module):
    """How the belief reaches the decoder; it begins by changing nothing."""

    def prepare(self, coarse: Tensor, belief: Tensor) -> Any:
        """Return what every scale needs, of the map at stride 16 (B, C, h, w) and the belief (B, 25)."""
        raise NotImplementedError

    def forward(self, scale: int, features: Tensor, guidance: Any) -> Tensor:
        """Return the map of a scale, 0 the finest, as the belief guides it."""
        raise NotImplementedError


class ScaleFusion(Fusion):
    """The belief scales and shifts the channels of every map (Perez et al., "FiLM", AAAI 2018)."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(AgreementHead.BELIEF, 64), nn.ReLU())
        self.scales = nn.ModuleList(_zeroed(nn.Linear(64, 2 * width)) for width in widths)

    def prepare(self, coarse: Tensor, belief: Tensor) -> Tensor:
        """Return what every scale needs of the belief."""
        return self.hidden(belief)

    def forward(self, scale: int, features: Tensor, guidance: Tensor) -> Tensor:
        """Return the guided map."""
        factor, shift = self.scales[scale](guidance)[:, :, None, None].chunk(2, dim=1)
        return features + factor * features + shift


class MapFusion(Fusion):
    """The zones as soft maps in the picture's space, found by content and position, filled with the belief in each."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.content = nn.Conv2d(widths[-1], NUM_ZONES, 1)
        self.position = nn.Linear(NUM_PLACES, NUM_ZONES)
        self.mixtures = nn.ModuleList(_zeroed(nn.Conv2d(2 * NUM_ZONES, width, 1)) for width in widths)
        self.whole = ScaleFusion(widths)

    def prepare(self, coarse: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Return the filled maps (B, 12, h, w) and what concerns the whole film."""
        position = self.position(places(coarse)).mT.unflatten(1, coarse.shape[-2:])
        territory = (self.content(coarse) + position).sigmoid()
        filled = belief[:, : 2 * NUM_ZONES, None, None] * torch.cat([territory, territory], dim=1)
        return filled, self.whole.prepare(coarse, belief)

    def forward(self, scale: int, features: Tensor, guidance: tuple[Tensor, Tensor]) -> Tensor:
        """Return the guided map."""
        filled, whole = guidance
        mixed = self.mixtures[scale](filled)
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
        self.positions = nn.ModuleList(nn.Linear(NUM_PLACES, self.WIDTH) for _ in widths)
        self.keys = nn.ModuleList(nn.Linear(self.WIDTH, self.WIDTH) for _ in widths)
        self.values = nn.ModuleList(nn.Linear(self.WIDTH, self.WIDTH) for _ in widths)
        self.outs = nn.ModuleList(_zeroed(nn.Linear(self.WIDTH, width)) for width in widths)

    def prepare(self, coarse: Tensor, belief: Tensor) -> Tensor:
        """Return the tokens (B, 8, 48)."""
        of_zones, rest = belief[:, : 2 * NUM_ZONES].unflatten(1, (2, NUM_ZONES)).mT, belief[:, 2 * NUM_ZONES :]
        number, side = rest.split([NUM_COUNTS + 1, NUM_SIDES + 1], dim=1)
        of_zones = self.zone_belief(of_zones) + self.zones
        return torch.cat([of_zones, self.number(number)[:, None], self.side(side)[:, None]], dim=1)

    def forward(self, scale: int, features: Tensor, guidance: Tensor) -> Tensor:
        """Return the guided map."""
        queries = self.queries[scale](features).flatten(2).mT + self.positions[scale](places(features))
        scores = queries @ self.keys[scale](guidance).mT / self.WIDTH**0.5
        values = self.outs[scale](self.values[scale](guidance))
        return features + (scores.softmax(dim=2) @ values).mT.unflatten(2, features.shape[-2:])


class PlainEncoder(nn.Module):
    """Pairs of convolutions at strides 2 … 32, of the cost of EfficientNet-Lite0."""

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


class WideEncoder(PlainEncoder):
    """The same at about seven times the cost, for a GPU."""

    widths = (64, 128, 256, 512, 512)


NUM_PLACES = 5


def places(features: Tensor) -> Tensor:
    """Return where each pixel lies, as x, y, x², y² and xy with x and y in [−1, 1]: (B, C, h, w) → (h · w, 5)."""
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
    "wide": lambda channels, _: WideEncoder(channels),
}
FUSIONS: dict[str, Callable[[tuple[int, ...]], Fusion]] = {
    "scales": ScaleFusion,
    "maps": MapFusion,
    "attention": AttentionFusion,
}


def _one_hot(number: Tensor, size: int) -> Tensor:
    """Return (B, size) float32; what lies beyond counts as the last."""
    return functional.one_hot(number.long().clamp(0, size - 1), size).float()


def _zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Return the layer with zeros, so that it begins by changing nothing."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
