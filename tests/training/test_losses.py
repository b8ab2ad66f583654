import pytest
import torch

from c2fvl.config import LossConfig
from c2fvl.models import Output
from c2fvl.training.losses import alignment_loss, balanced_cross_entropy, build_loss, dice_loss


@pytest.fixture
def example():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 8, generator=generator) * 3
    target = (torch.rand(3, 8, 8, generator=generator) > 0.6).float()
    return logits, target


def test_dice_loss_is_the_published_formula(example):
    logits, target = example
    halves = []
    for row in range(3):
        p, t = logits[row].double().sigmoid() * 0.5, target[row].double() * 0.5
        halves.append(1 - (2 * (p * t).sum() + 1e-5) / ((p * p).sum() + (t * t).sum() + 1e-5))
    assert dice_loss(logits, target).item() == pytest.approx((sum(halves) / 3).item(), abs=1e-6)


def test_cross_entropy_is_the_published_formula(example):
    logits, target = example
    p, t = logits.double().sigmoid(), target.double()
    cost = -(t * p.log() + (1 - t) * (1 - p).log())
    expected = 0.5 * cost[t > 0.5].mean() + 0.5 * cost[t <= 0.5].mean()
    assert balanced_cross_entropy(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_cross_entropy_without_any_lesion_is_that_of_the_background():
    logits = torch.full((1, 4, 4), -2.0)
    expected = 0.5 * torch.nn.functional.softplus(torch.tensor(-2.0))
    assert balanced_cross_entropy(logits, torch.zeros(1, 4, 4)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_alignment_by_hand():
    finest = torch.tensor([[[[1.0, 0.0]]]])
    same, across, opposite = finest * 7, torch.tensor([[[[0.0, 2.0]]]]), -finest
    value = alignment_loss((finest, same, across, opposite))  # half of 0 + 1 + 2
    assert value.item() == pytest.approx(1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("lesion", [0.0, 1.0])
def test_finite_with_a_gradient_at_extreme_logits(dtype, size, lesion):
    logits = torch.full((2, 1, 8, 8), size, dtype=dtype, requires_grad=True)
    sides = tuple(torch.full((2, 1, 8, 8), size, dtype=dtype, requires_grad=True) for _ in range(4))
    mask = torch.full((2, 8, 8), lesion)
    terms = build_loss(LossConfig(side_maps=0.5))(Output(logits, sides), mask)
    assert all(term.dtype == torch.float32 and torch.isfinite(term) for term in terms.values())
    terms["loss"].backward()
    assert torch.isfinite(logits.grad).all()
    wrong = (size > 0) != (lesion > 0)
    assert bool((logits.grad != 0).any()) == wrong  # where the answer is wrong there is a way back


def test_options_leave_terms_out(example):
    logits, target = example
    output = Output(logits[:, None])
    terms = build_loss(LossConfig(alignment=0.0))(output, target)
    assert set(terms) == {"loss", "dice_loss", "cross_entropy"}
    assert terms["loss"].item() == pytest.approx(0.5 * (terms["dice_loss"] + terms["cross_entropy"]).item())
    assert set(build_loss(LossConfig())(output, target)) == set(terms)  # a network without side maps aligns nothing
    with pytest.raises(ValueError, match=r"set loss\.alignment=0"):
        build_loss(LossConfig())(Output(logits[:, None], (logits[:, None],)), target)
    with pytest.raises(ValueError, match=r"set loss\.side_maps=0"):
        build_loss(LossConfig(alignment=0.0, side_maps=1.0))(output, target)


def test_side_maps_are_held_against_the_mask(example):
    logits, target = example
    perfect = (target[:, None] * 2 - 1) * 50
    good = build_loss(LossConfig(alignment=0.0, side_maps=1.0))(Output(logits[:, None], (perfect, perfect)), target)
    bad = build_loss(LossConfig(alignment=0.0, side_maps=1.0))(Output(logits[:, None], (perfect, -perfect)), target)
    assert good["side_maps"].item() == pytest.approx(0.0, abs=1e-6)
    assert bad["side_maps"].item() > 5


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"logits have the shape \(1, 2, 4, 5\)"):
        build_loss(LossConfig(alignment=0.0))(Output(torch.zeros(1, 2, 4, 5)), torch.zeros(1, 4, 4))
