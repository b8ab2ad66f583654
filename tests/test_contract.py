"""The questions that every network must answer alike, at a tiny size."""

import io

import numpy as np
import pytest
import torch

from c2fvl.catalogue import CATALOGUE, arguments_of
from c2fvl.models import MODELS, build_model

SIZE, BATCH = 32, 3
TINY = {
    "c2fvl": {"base_width": 8, "image_size": SIZE},
    "c2fvl bounded": {"base_width": 8, "image_size": SIZE, "gate": "bounded"},
}
CASES = [pytest.param(key.split()[0], arguments, id=key) for key, arguments in TINY.items()]


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def reports(rows=((1, 2, 1, 0, 0, 0, 1, 1), (0, 1, 0, 0, 1, 0, 0, 0), (0, 3, 0, 0, 0, 1, 1, 0))):
    return torch.tensor(rows, dtype=torch.float32)[:, None]


def network(name, arguments, *, trained=True):
    torch.manual_seed(0)
    built = build_model(name, arguments)
    if trained:  # no weight left at its start, where a gate may be the identity
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return built.eval()


def test_every_network_is_asked():
    assert {name.split()[0] for name in TINY} == set(MODELS)


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 48), (64, 32)])
@pytest.mark.parametrize("classes", [1, 3])
def test_shapes(name, arguments, height, width, classes):
    output = network(name, arguments | {"num_classes": classes})(torch.rand(2, 3, height, width), reports()[:2])
    assert output.logits.shape == (2, classes, height, width)
    assert torch.isfinite(output.logits).all()
    assert all(side.shape == output.logits.shape for side in output.aux)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_every_parameter_gets_a_finite_gradient(name, arguments, images):
    built = network(name, arguments).train()
    output = built(images, reports())
    torch.manual_seed(1)
    total = sum((values * torch.randn(values.shape)).sum() for values in (output.logits, *output.aux))
    total.backward()
    for key, parameter in built.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_films_do_not_touch_each_other_in_eval(name, arguments, images):
    built, text = network(name, arguments), reports()
    text[1] = torch.nan
    with torch.no_grad():
        together = built(images, text).logits
        for row in range(BATCH):
            alone = built(images[row : row + 1], text[row : row + 1]).logits[0]
            assert torch.allclose(together[row], alone, atol=1e-5), row
        images[0], text[0] = torch.rand_like(images[0]), 1.0
        assert torch.equal(built(images, text).logits[1:], together[1:])


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_text_matters_exactly_where_the_network_reads_it(name, arguments, images):
    built = network(name, arguments)
    other = reports()[:, :, [0, 1, 5, 6, 7, 2, 3, 4]]  # sides exchanged
    with torch.no_grad():
        difference = (built(images, reports()).logits - built(images, other).logits).abs().amax(dim=(1, 2, 3))
    assert ((difference > 1e-6) == (MODELS[name].text != "none")).all()


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_no_text_is_a_value_of_its_own(name, arguments, images):
    built = network(name, arguments)
    with torch.no_grad():
        without = built(images).logits
        missing = built(images, torch.full((BATCH, 1, 8), torch.nan)).logits
        mixed = reports()
        mixed[2] = torch.nan
        some = built(images, mixed).logits
        zeros = built(images, torch.zeros(BATCH, 1, 8)).logits
    assert torch.equal(without, missing)
    assert torch.isfinite(some).all()
    assert torch.allclose(some[2], without[2], atol=1e-6)
    assert not torch.allclose(some[0], without[0], atol=1e-6)
    assert not torch.allclose(zeros, without, atol=1e-6)


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize(("size", "right"), [((32, 30), "32×32"), ((15, 47), "16×48"), ((3, 32), "16×32")])
def test_a_wrong_size_names_a_right_one(name, arguments, size, right):
    with pytest.raises(ValueError, match=right):
        network(name, arguments)(torch.rand(1, 3, *size))


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize("shape", [(3, 8), (3, 1, 7), (2, 1, 8), (3, 2, 8)])
def test_text_of_a_wrong_shape_is_refused(name, arguments, images, shape):
    with pytest.raises(ValueError, match=r"expected is \(3, 1, 8\)"):
        network(name, arguments)(images, torch.zeros(shape))


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_position_embedding_follows_the_size(name, arguments, images):
    built = network(name, arguments)
    larger = torch.nn.functional.interpolate(images, scale_factor=2.0)
    with torch.no_grad():
        assert torch.isfinite(built(larger, reports()).logits).all()


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_export_and_onnx_equal_pytorch(name, arguments, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    built, text = network(name, arguments), reports()
    text[2] = torch.nan
    program = torch.export.export(built, (images, text))
    with torch.no_grad():
        expected = built(images, text)
        exported = program.module()(images, text)
    assert torch.allclose(exported.logits, expected.logits, atol=1e-5)
    buffer = io.BytesIO()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(program, (), verbose=False).save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue())
    names = [entry.name for entry in session.get_inputs()]
    found = session.run(None, dict(zip(names, (images.numpy(), text.numpy()), strict=True)))[0]
    assert np.abs(found - expected.logits.numpy()).max() < 1e-4


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean c2fvl"):
        build_model("c2fv")
    with pytest.raises(ValueError, match="did you mean base_width"):
        build_model("c2fvl", base_widht=8)
    with pytest.raises(ValueError, match="multiple of num_heads"):
        build_model("c2fvl", base_width=20)
    with pytest.raises(ValueError, match="published, bounded"):
        build_model("c2fvl", gate="other")
    with pytest.raises(ValueError, match="such as 192×192"):
        build_model("c2fvl", image_size=200)


def test_bounded_gate_starts_as_the_identity(images):
    torch.manual_seed(0)
    built = build_model("c2fvl", base_width=8, image_size=SIZE, gate="bounded").eval()
    with torch.no_grad():
        assert torch.equal(built(images, reports()).logits, built(images).logits)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_catalogue_tells_the_truth(name):
    built = build_model(name)
    assert sum(parameter.numel() for parameter in built.parameters()) == CATALOGUE[name].parameters
    text = "\n".join(arguments_of(name))
    assert "base_width: int = 64" in text
    assert set(CATALOGUE) == set(MODELS)
