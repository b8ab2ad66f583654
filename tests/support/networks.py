"""All networks at a tiny size, with images and reports for them."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from c2fvl.models import build_model

SIZE, BATCH = 32, 3


FINDINGS = (
    (2, 2, 1, 0, 0, 0, 1, 1, torch.nan), (1, 1, 0, 0, 1, 0, 0, 0, 0.7), (2, torch.nan, 0, torch.nan, 0, 1, 1, 0, 1),
)  # fmt: skip


ATTRIBUTES = ((1, 2, 1, 0, 0, 0, 1, 1), (0, 1, 0, 0, 1, 0, 0, 0), (0, 3, 0, 0, 0, 1, 1, 0))


@dataclass(frozen=True)
class Tiny:
    """One network at a tiny size, and what the questions need to know of it."""

    name: str
    arguments: dict[str, Any]
    text: tuple[int, int] | None = None
    """Tokens and features that it reads."""
    sizes: tuple[tuple[int, int], ...] = ((32, 32), (16, 48), (64, 32))
    """Some (height, width) that it takes."""
    wrong: tuple[tuple[tuple[int, int], str], ...] = (((32, 30), "32×32"), ((15, 47), "16×48"), ((3, 32), "16×32"))
    """Sizes that it refuses, with the right one that the error names."""

    @property
    def size(self):
        """Return the size that most questions are asked at."""
        return self.sizes[0]


TINY_MEDT = {"image_size": SIZE, "base_width": 4, "groups": 4}


ONLY_80 = (((64, 64), "80×80"), ((80, 32), "80×80"))


ONLY_32 = (((64, 64), "32×32"), ((32, 48), "32×32"))


TINY_TRANSUNET = {
    "image_size": SIZE, "stem_width": 4, "units": (1, 2, 1), "width": 16, "num_layers": 2, "num_heads": 2,
    "hidden": 32, "neck_width": 16, "decoder_widths": (8, 8, 8, 4),
}  # fmt: skip


IN_32 = {
    "sizes": ((32, 32), (32, 96), (64, 32)),
    "wrong": (((32, 30), "32×32"), ((15, 47), "32×32"), ((3, 50), "32×64")),
}


TINY = {
    **{
        f"filmfirst {encoder} {fusion}": Tiny(
            "filmfirst", {"encoder": encoder, "fusion": fusion, "widths": (8, 8, 16, 16)}, text=(1, 9), **IN_32
        )
        for encoder, fusion in (("lite0", "maps"), ("lite2", "maps"), ("plain", "scales"), ("plain", "attention"))
    },
    "c2fvl": Tiny("c2fvl", {"base_width": 8, "image_size": SIZE}, text=(1, 8)),
    "c2fvl bounded": Tiny("c2fvl", {"base_width": 8, "image_size": SIZE, "gate": "bounded"}, text=(1, 8)),
    "lvit": Tiny("lvit", {"base_width": 8, "image_size": SIZE, "text_tokens": 10, "text_features": 24}, text=(10, 24)),
    "lvit words": Tiny(
        "lvit",
        {"base_width": 8, "image_size": SIZE, "text_tokens": 6, "text_features": 16, "vocabulary_size": 5},
        text=(6, 1),
    ),
    "unet": Tiny("unet", {"base_width": 8}),
    "medt": Tiny("medt", TINY_MEDT | {"image_size": 80}, sizes=((80, 80),), wrong=ONLY_80),
    "medt with odd sides": Tiny(
        "medt", TINY_MEDT | {"image_size": 112}, sizes=((112, 112),), wrong=(((32, 32), "112×112"),)
    ),
    "logo": Tiny("logo", TINY_MEDT | {"image_size": 80}, sizes=((80, 80),), wrong=ONLY_80),
    "gatedaxialunet": Tiny("gatedaxialunet", TINY_MEDT, sizes=((32, 32),), wrong=ONLY_32),
    "axialunet": Tiny("axialunet", TINY_MEDT, sizes=((32, 32),), wrong=ONLY_32),
    "transunet": Tiny("transunet", TINY_TRANSUNET),
    "transunet without residual network": Tiny("transunet", TINY_TRANSUNET | {"encoder": "vit-b16"}),
    "uctransnet": Tiny("uctransnet", {"base_width": 8, "image_size": SIZE, "num_layers": 2}),
}


CASES = [pytest.param(tiny, id=key) for key, tiny in TINY.items()]


READERS = [pytest.param(tiny, id=key) for key, tiny in TINY.items() if tiny.text is not None]


def networks(*fast, like, of=tuple(TINY)):
    """Return the networks as parameters of the test `like`: those of `fast` as they are, the others marked slow."""
    slow = pytest.mark.slow(like=f"{like}[{fast[0]}]")
    return [pytest.param(TINY[key], id=key, marks=() if key in fast else slow) for key in of]


every_network = pytest.mark.parametrize("tiny", CASES)


every_reader = pytest.mark.parametrize("tiny", READERS)


def images(tiny, count=BATCH):
    return torch.rand(count, 3, *tiny.size, generator=torch.Generator().manual_seed(0))


def reports(tiny, count=BATCH):
    """Return the reports of a few images as the network reads them; without text, numbers that it must not heed."""
    tokens, features = tiny.text or (1, 8)
    if features == 9:
        return torch.tensor(FINDINGS, dtype=torch.float32)[:count, None].repeat(1, tokens, 1)
    if features == 8:
        return torch.tensor(ATTRIBUTES, dtype=torch.float32)[:count, None].repeat(1, tokens, 1)
    if features == 1:  # numbers of words
        return torch.randint(0, 5, (count, tokens, 1), generator=torch.Generator().manual_seed(1)).float()
    return torch.randn(count, tokens, features, generator=torch.Generator().manual_seed(1))


def network(tiny, *, trained=True, **arguments):
    torch.manual_seed(0)
    built = build_model(tiny.name, tiny.arguments | arguments)
    if trained:  # no weight left at its start, where a gate may be the identity
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return built.eval()
