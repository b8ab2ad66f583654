"""The questions that every network must answer alike, at a tiny size."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from support.networks import (
    BATCH,
    SIZE,
    TINY,
    TINY_TRANSUNET,
    every_network,
    every_reader,
    images,
    network,
    networks,
    reports,
)

from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.inference.cost import example_settings
from c2fvl.inference.torch_engine import probabilities
from c2fvl.models import build_model
from c2fvl.models.registry import NETWORKS, arguments_of, network_class, num_parameters


def test_every_network_is_asked():
    assert {tiny.name for tiny in TINY.values()} == set(NETWORKS)
    for tiny in TINY.values():
        assert (tiny.text is None) == (NETWORKS[tiny.name].text == "none")


@every_network
@pytest.mark.parametrize("classes", [1, 3])
def test_shapes(tiny, classes):
    built = network(tiny, num_classes=classes)
    for height, width in tiny.sizes:
        output = built(torch.rand(2, 3, height, width), reports(tiny, 2))
        assert output.logits.shape == (2, classes, height, width)
        assert torch.isfinite(output.logits).all()
        assert all(side.shape == output.logits.shape for side in output.aux)


@every_network
def test_input_channels(tiny):
    built = network(tiny, in_channels=1)
    assert built(torch.rand(2, 1, *tiny.size), reports(tiny, 2)).logits.shape[0] == 2


@every_network
def test_every_parameter_gets_a_finite_gradient(tiny):
    built = network(tiny).train()
    output = built(images(tiny), reports(tiny))
    torch.manual_seed(1)
    outputs = (output.logits, *output.aux, *(output.findings or ()))
    total = sum((values.clamp(-99, 99) * torch.randn(values.shape)).sum() for values in outputs)
    total.backward()
    for key, parameter in built.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize(
    "tiny",
    networks(
        "c2fvl", "filmfirst plain scales", "lvit", "unet", "transunet", "uctransnet",
        like="test_learns_a_few_images_by_heart", of=[key for key in TINY if key != "medt with odd sides"],
    ),
)  # fmt: skip
def test_learns_a_few_images_by_heart(tiny):
    faster = {"patch_statistics": "batch"} if tiny.name in ("medt", "logo") else {}
    built = network(tiny, trained=False, num_classes=1, **faster).train()
    films, text = images(tiny), reports(tiny)
    height, width = tiny.size
    lesions = torch.zeros(BATCH, 1, height, width)
    for row in range(BATCH):
        lesions[row, :, row * height // 8 : (row + 5) * height // 8, width // 4 : (row + 5) * width // 8] = 1
    films = 0.5 * films + 0.5 * lesions  # brighter where there is something to find
    optimizer = torch.optim.Adam(built.parameters(), 5e-3)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(built(films, text).logits, lesions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.65 * losses[0], losses


@every_network
def test_images_do_not_touch_each_other_in_eval(tiny):
    built, films, text = network(tiny), images(tiny), reports(tiny)
    text[1] = torch.nan
    with torch.no_grad():
        together = built(films, text).logits
        for row in range(BATCH):
            alone = built(films[row : row + 1], text[row : row + 1]).logits[0]
            assert torch.allclose(together[row], alone, atol=1e-5), row
        films[0], text[0] = torch.rand_like(films[0]), 1.0
        assert torch.allclose(built(films, text).logits[1:], together[1:], atol=1e-6)


@every_network
def test_text_matters_exactly_where_the_network_reads_it(tiny):
    built, films, text = network(tiny), images(tiny), reports(tiny)
    with torch.no_grad():
        difference = (built(films, text).logits - built(films, text.roll(1, 0)).logits).abs().amax(dim=(1, 2, 3))
    assert ((difference > 1e-6) == (tiny.text is not None)).all()


@every_reader
def test_no_text_is_a_value_of_its_own(tiny):
    built, films, mixed = network(tiny), images(tiny), reports(tiny)
    mixed[2] = torch.nan
    with torch.no_grad():
        without = built(films).logits
        missing = built(films, torch.full_like(mixed, torch.nan)).logits
        some = built(films, mixed).logits
        told = torch.zeros_like(mixed)
        if tiny.text == (1, 9):
            told[:, :, -1] = torch.nan  # a trust of 0 is no trust at all
        zeros = built(films, told).logits
    assert torch.equal(without, missing)
    assert torch.isfinite(some).all()
    assert torch.allclose(some[2], without[2], atol=1e-6)
    assert not torch.allclose(some[0], without[0], atol=1e-6)
    assert not torch.allclose(zeros, without, atol=1e-6)


@every_network
def test_a_wrong_size_names_a_right_one(tiny):
    built = network(tiny)
    for size, right in tiny.wrong:
        with pytest.raises(ValueError, match=right):
            built(torch.rand(1, 3, *size))


@every_reader
def test_text_of_a_wrong_shape_is_refused(tiny):
    tokens, features = tiny.text
    for shape in [(3, features), (3, tokens, features + 1), (2, tokens, features), (3, tokens + 1, features)]:
        with pytest.raises(ValueError, match=rf"expected \(3, {tokens}, {features}\)"):
            network(tiny)(images(tiny), torch.zeros(shape))


@pytest.mark.parametrize(
    "tiny", networks("c2fvl", "filmfirst plain scales", "unet", like="test_export_and_onnx_equal_pytorch")
)
def test_export_and_onnx_equal_pytorch(tiny, tmp_path):
    pytest.importorskip("onnxruntime")
    from c2fvl.inference.export import export
    from c2fvl.inference.onnx_engine import OnnxModel

    built = network(tiny)
    config = example_settings(tiny.name, image_size=tiny.size[0])
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, arguments=tiny.arguments))
    if tiny.text is not None and tiny.name == "lvit":
        kind = "words" if "vocabulary_size" in tiny.arguments else "sentence"
        vocabulary = ("a", "b", "c", "d") if kind == "words" else ()
        data = dataclasses.replace(config.data, text=kind, vocabulary=vocabulary, text_tokens=tiny.text[0])
        config = dataclasses.replace(config, data=data)
    exported = export(TrainedModel(built, config, {}, tmp_path), tmp_path / "network.onnx")
    assert exported.difference < 1e-5
    text = reports(tiny)
    text[2] = torch.nan
    given = None if tiny.text is None else text
    with torch.no_grad():
        expected = probabilities(built(images(tiny), given)).numpy()
    found = OnnxModel(exported.path).compute(images(tiny).numpy(), None if given is None else given.numpy()).probability
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("key", ["transunet", "transunet without residual network"])
def test_transunet_repeats_a_single_channel(key):
    built = network(TINY[key])
    grey = torch.rand(2, 1, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(built(grey).logits, built(grey.repeat(1, 3, 1, 1)).logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "r50"}, "known are r50-vit-b16, vit-b16"),
        ({"width": 20, "num_heads": 3}, "multiple of num_heads"),
        ({"units": [3, 4]}, "units is .3, 4.; expected 3 numbers"),
        ({"decoder_widths": (8, 8, 8, 0)}, "decoder_widths is .8, 8, 8, 0.; expected at least 1"),
        ({"stem_width": 48}, "stem_width is 48"),
        ({"image_size": 200}, "such as 192×192"),
    ],
)
def test_transunet_names_what_does_not_go_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model("transunet", TINY_TRANSUNET | arguments)


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean c2fvl"):
        build_model("c2fv")
    with pytest.raises(ValueError, match="did you mean base_width"):
        build_model("c2fvl", base_widht=8)
    with pytest.raises(ValueError, match="multiple of num_heads"):
        build_model("c2fvl", base_width=20)
    with pytest.raises(ValueError, match="num_classes is 0"):
        build_model("unet", num_classes=0)
    with pytest.raises(ValueError, match="published, bounded"):
        build_model("c2fvl", gate="other")
    with pytest.raises(ValueError, match="such as 192×192"):
        build_model("c2fvl", image_size=200)


def test_bounded_gate_starts_as_the_identity():
    tiny = TINY["c2fvl bounded"]
    built = network(tiny, trained=False)
    with torch.no_grad():
        assert torch.equal(built(images(tiny), reports(tiny)).logits, built(images(tiny)).logits)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_catalogue_tells_the_truth(name):
    built = build_model(name)
    assert sum(parameter.numel() for parameter in built.parameters()) == num_parameters()[name]
    text = "\n".join(arguments_of(name))
    assert "in_channels: int = 3" in text
    defaults = inspect.signature(network_class(name)).parameters
    assert defaults["num_classes"].default == NETWORKS[name].classes
    assert (NETWORKS[name].text == "sentence") == ("vocabulary_size" in defaults)
    assert NETWORKS[name].text == network_class(name).TEXT
    assert set(num_parameters()) == set(NETWORKS)
