"""What is LViT's own: images with and without a report in one batch, and words in place of features."""

import pytest
import torch

from c2fvl.models import build_model
from c2fvl.models.lvit import _norm_of_known

ARGUMENTS = {"base_width": 8, "image_size": 32, "text_tokens": 4, "text_features": 12}


def lvit(**arguments):
    torch.manual_seed(0)
    return build_model("lvit", ARGUMENTS | arguments)


def test_in_training_the_norm_of_the_text_sees_only_images_that_have_one():
    images, text = torch.rand(3, 3, 32, 32), torch.randn(3, 4, 12)
    text[1] = torch.nan
    mixed, alone = lvit(dropout=0.0).train(), lvit(dropout=0.0).train()
    mixed(images, text)
    alone(images[[0, 2]], text[[0, 2]])
    assert torch.equal(mixed.text.norm.running_mean, alone.text.norm.running_mean)
    assert torch.equal(mixed.text.norm.running_var, alone.text.norm.running_var)
    before = mixed.text.norm.running_mean.clone()
    mixed(images, torch.full_like(text, torch.nan))
    assert torch.equal(mixed.text.norm.running_mean, before)


def test_the_norm_of_the_text_is_that_of_torch_over_the_rows_with_a_report():
    ours, theirs = (torch.nn.BatchNorm1d(5).train() for _ in range(2))
    values, known = torch.randn(4, 5, 7), torch.tensor([True, False, True, True])
    for norm in (ours, theirs):
        torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    found, expected = _norm_of_known(ours, values, known)[known], theirs(values[known])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-4, rtol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-6, rtol=1e-6)


def test_an_image_without_a_report_gives_the_text_no_gradient():
    built, text = lvit().train(), torch.full((2, 4, 12), torch.nan)
    text[0] = torch.randn(4, 12)
    text.requires_grad_(True)
    built(torch.rand(2, 3, 32, 32), text).logits.sum().backward()
    assert text.grad[0].abs().sum() > 0
    assert (text.grad[1] == 0).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in built.parameters())


def test_the_variant_without_text_is_the_network_without_reports():
    told, untold = lvit().eval(), lvit(text_tokens=0).eval()
    untold.load_state_dict({key: value for key, value in told.state_dict().items() if not key.startswith("text.")})
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(told(images).logits, untold(images).logits)
        assert torch.equal(untold(images, torch.randn(2, 4, 12)).logits, untold(images).logits)
    assert sum(p.numel() for p in untold.parameters()) < sum(p.numel() for p in told.parameters())


def test_words_are_told_apart_by_number_and_place():
    built = lvit(vocabulary_size=6).eval()
    rows = torch.tensor([[2, 3, 4, 0], [3, 2, 4, 0], [2, 3, 5, 0], [2, 3, 4, 1]], dtype=torch.float32)[..., None]
    image = torch.rand(1, 3, 32, 32).repeat(4, 1, 1, 1)
    with torch.no_grad():
        logits = built(image, rows).logits
    for row in range(1, 4):
        assert not torch.allclose(logits[0], logits[row], atol=1e-6)


def test_the_text_follows_the_size():
    built, text = lvit().eval(), torch.randn(1, 4, 12)
    with torch.no_grad():
        small = built.text(text, torch.rand(1, 3, 32, 32), torch.Size((2, 2)))
        large = built.text(text, torch.rand(1, 3, 64, 64), torch.Size((4, 4)))
    assert large.shape[-2:] == (4, 4)
    assert torch.allclose(large.mean((2, 3)), small.mean((2, 3)), atol=1e-5)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="multiple of num_heads"):
        lvit(base_width=12)
    with pytest.raises(ValueError, match="text_tokens"):
        lvit(text_tokens=-1)
    with pytest.raises(ValueError, match="such as 32×32"):
        lvit(image_size=30)
