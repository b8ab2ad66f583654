"""The inference form gives what the network gives."""

import pytest
import torch
from support.networks import TINY, every_network, images, network, reports
from support.reference_weights import official_state_dict, recorded_image, recording
from torch import nn

from c2fvl.checkpoints.official.convert import from_reference
from c2fvl.models.inference_model import optimize
from c2fvl.models.layers.blocks import SkipFusion, upsample_nearest


def seasoned(tiny, **arguments):
    """Return a network whose norms have statistics of their own, as after training."""
    built = network(tiny, **arguments)
    generator = torch.Generator().manual_seed(2)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return built


@every_network
@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
def test_same_output(tiny, pack):
    built, films, text = seasoned(tiny), images(tiny), reports(tiny)
    if tiny.text is not None:
        text[1] = torch.nan
    before = {key: value.clone() for key, value in built.state_dict().items()}
    form = optimize(built, example=films if pack else None)
    with torch.no_grad():
        expected = built(films, text).logits
        found = form(films, text)
        alone = form(films[:1], None).logits
        expected_alone = built(films[:1], None).logits
    scale = max(1.0, expected.abs().max().item())
    assert (found.logits - expected).abs().max() <= 1e-5 * scale
    assert (alone - expected_alone).abs().max() <= 1e-5 * scale
    assert found.aux == ()
    for key, value in built.state_dict().items():  # the network itself is left as it is
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["c2fvl", "lvit", "unet", "uctransnet", "transunet"])
def test_a_packed_form_takes_other_sizes(name):
    tiny = TINY[name]
    built = seasoned(tiny)
    form = optimize(built, example=images(tiny, 1))
    image = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert (form(image).logits - built(image).logits).abs().max() < 1e-5


@every_network
def test_in_place_the_form_is_made_of_the_network_itself(tiny):
    built, films, text = seasoned(tiny), images(tiny), reports(tiny)
    with torch.no_grad():
        expected = optimize(built, example=films)(films, text).logits
        form = optimize(built, example=films, in_place=True)
        assert form is built
        assert torch.equal(form(films, text).logits, expected)


@pytest.mark.parametrize("name", ["c2fvl", "lvit", "unet", "uctransnet"])
def test_no_map_passes_a_norm_of_its_own(name):
    form = optimize(seasoned(TINY[name]))
    assert not [module for module in form.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
def test_published_output(pack):
    recorded = recording("c2fvl")
    network = from_reference("c2fvl", official_state_dict("c2fvl"))
    form = optimize(network, example=recorded_image()[:1] if pack else None)
    with torch.no_grad():
        probability = form(recorded_image(), torch.from_numpy(recorded["text"]).float()).logits.sigmoid()
    assert (probability[..., ::4, ::4] - torch.from_numpy(recorded["out0"])).abs().max() <= 1e-5


def test_joined_convolutions_equal_those_over_the_joined_and_upsampled_maps():
    torch.manual_seed(0)
    joined = SkipFusion(6, 4, 5).double().eval()
    coarse, skip = torch.rand(2, 4, 7, 9).double(), torch.rand(2, 6, 14, 18).double()
    expected = joined[1](joined[0](torch.cat([skip, upsample_nearest(coarse, 2)], dim=1)))
    assert torch.allclose(joined(coarse, skip), expected, atol=1e-14, rtol=0)
