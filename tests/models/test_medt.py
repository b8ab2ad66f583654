"""What is MedT's own: patches by place or all at once, gates that wait, and sizes that are not halved evenly."""

import pytest
import torch

from c2fvl.config import OptimizerConfig
from c2fvl.models import build_model
from c2fvl.training.optimizers import frozen_parameters

TINY = {"image_size": 80, "base_width": 4, "groups": 4}


def medt(name="medt", **arguments):
    torch.manual_seed(0)
    return build_model(name, TINY | arguments)


def local_norms(network):
    norms = [m for m in network.local_branch.modules() if isinstance(m, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d)]
    assert norms
    return norms


def patch_by_patch(network, image):
    """Return the local features as the published loops make them: rows outside, columns inside."""
    side = image.shape[-1] // 4
    found = torch.zeros(len(image), 2 * TINY["base_width"], *image.shape[-2:])
    for row in range(4):
        for column in range(4):
            place = (..., slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
            found[place] = network.local_branch(image[place])
    return found


@pytest.mark.parametrize("name", ["medt", "logo"])
def test_in_eval_all_patches_at_once_give_what_each_gives_alone(name):
    network, image = medt(name).eval(), torch.rand(2, 3, 80, 80)
    with torch.no_grad():
        assert torch.allclose(network._local(image), patch_by_patch(network, image), atol=1e-6)


def test_in_training_each_place_has_its_own_statistics_as_published():
    ours, theirs, image = medt().train(), medt().train(), torch.rand(2, 3, 80, 80)
    found, expected = ours._local(image), patch_by_patch(theirs, image)
    assert torch.allclose(found, expected, atol=1e-6)
    for own, other in zip(local_norms(ours), local_norms(theirs), strict=True):
        assert own.num_batches_tracked == 16
        assert torch.equal(own.running_mean, other.running_mean)
    norms = [m for m in ours.global_branch.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    ours(image)
    assert all(norm.num_batches_tracked == 1 for norm in norms)


def test_all_places_can_share_their_statistics():
    network, image = medt(patch_statistics="batch").train(), torch.rand(2, 3, 80, 80)
    apart = medt().train()(image).logits
    together = network(image).logits
    assert all(norm.num_batches_tracked == 1 for norm in local_norms(network))
    assert not torch.allclose(apart, together, atol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("medt", 24), ("gatedaxialunet", 64)])
def test_the_published_gates_are_found_by_name(name, count):
    network = build_model(name)
    gates = frozen_parameters(network, OptimizerConfig(frozen="gate_", frozen_epochs=11))
    assert len(gates) == count
    assert all(gate.ndim == 0 for gate in gates)
    assert sorted({round(gate.item(), 3) for gate in gates}) == [0.1, 1.0]


def test_224_works():
    network = medt("medt", image_size=224).eval()
    with torch.no_grad():
        logits = network(torch.rand(1, 3, 224, 224)).logits
    assert logits.shape == (1, 2, 224, 224)
    assert torch.isfinite(logits).all()


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match=r"multiple of 16 from 80 on, such as 80"):
        medt(image_size=36)
    with pytest.raises(ValueError, match="from 80 on"):
        medt(image_size=32)
    with pytest.raises(ValueError, match=r"multiple of 32 from 32 on, such as 64"):
        medt("axialunet", image_size=50)
    with pytest.raises(ValueError, match="multiple of groups"):
        medt(base_width=6)
    with pytest.raises(ValueError, match="position, batch"):
        medt(patch_statistics="other")
