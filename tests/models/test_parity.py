"""Our networks against the recordings of the published ones."""

import json
import logging

import pytest
import torch
from support.reference_weights import official_state_dict, recorded_image, recorded_mask, recording

from c2fvl.checkpoints.official.convert import from_reference, official_keys
from c2fvl.config import LossConfig
from c2fvl.metrics.overlap import overlap
from c2fvl.models import build_model
from c2fvl.training.losses import build_loss


@pytest.fixture(scope="module")
def recorded():
    return recording("c2fvl")


@pytest.fixture(scope="module")
def network():
    return from_reference("c2fvl", official_state_dict("c2fvl"))


def test_c2fvl_gives_the_published_probabilities_and_side_maps(network, recorded):
    with torch.no_grad():
        output = network(recorded_image(), torch.from_numpy(recorded["text"]).float())
    ours = [output.logits.sigmoid(), *output.aux]
    for number, values in enumerate(ours):
        expected = torch.from_numpy(recorded[f"out{number}"])
        difference = (values[..., ::4, ::4] - expected).abs().max()
        assert difference <= 1e-5 * max(1.0, expected.abs().max().item()), f"output {number}"


def test_c2fvl_scores_as_recorded(network, recorded):
    with torch.no_grad():
        probability = network(recorded_image(), torch.from_numpy(recorded["text"]).float()).logits.sigmoid()
    counts = [
        overlap((found >= 0.5).numpy(), (mask > 0.5).numpy())
        for found, mask in zip(probability[:, 0], recorded_mask(), strict=True)
    ]
    dice = [(2 * c.intersection + 1e-5) / (c.prediction + c.target + 1e-5) for c in counts]
    iou = [c.intersection / c.union for c in counts]
    assert sum(dice) / 2 == pytest.approx(float(recorded["eval_dice"]), abs=1e-6)
    assert sum(iou) / 2 == pytest.approx(float(recorded["eval_iou"]), abs=1e-6)


@pytest.mark.slow(like="test_c2fvl_scores_as_recorded")
def test_c2fvl_trains_as_recorded(recorded):
    """In double precision, so that only the recording's own rounding is left between the two."""
    network = from_reference("c2fvl", official_state_dict("c2fvl")).double().train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    output = network(recorded_image().double(), torch.from_numpy(recorded["text"]).double())
    terms = build_loss(LossConfig())(output, recorded_mask().double())
    assert terms["loss"].item() == pytest.approx(float(recorded["train_loss"]), abs=1e-5)
    assert terms["dice_loss"].item() == pytest.approx(0.470774, abs=2e-6)
    assert terms["cross_entropy"].item() == pytest.approx(0.743894, abs=2e-6)
    assert terms["alignment"].item() == pytest.approx(1.547259, abs=5e-6)

    terms["loss"].backward()
    names = official_keys("c2fvl", network)
    norms = {names[key][0]: parameter.grad.norm().item() for key, parameter in network.named_parameters()}
    expected = json.loads(str(recorded["grad_norms"]))
    assert norms.keys() == expected.keys()
    noise = 0
    for key, value in expected.items():
        if value > 1e-5:
            assert norms[key] == pytest.approx(value, rel=1e-3), key
        else:  # a bias in front of a batch norm: its true gradient is zero
            assert norms[key] < 1e-10, key
            noise += 1
    assert noise == 24
    running = network.encoder.stem.norm.running_mean
    assert torch.allclose(running.float(), torch.from_numpy(recorded["running_mean_inc"]), atol=1e-6)


def test_running_variance_differs_only_by_the_unbiased_estimate():
    """The 1×1 norms see each token once, not patch² times: (n − 1)/n of the published running variance."""
    network = from_reference("c2fvl", official_state_dict("c2fvl")).train()
    norm = network.reconstructions[0].norm
    seen = {}
    norm.register_forward_pre_hook(lambda module, inputs: seen.update(features=inputs[0].detach()))
    before = norm.running_var.clone()
    with torch.no_grad():
        network(recorded_image(), torch.ones(2, 1, 8))
    published = torch.nn.functional.interpolate(seen["features"], scale_factor=16.0, mode="nearest")
    biased = published.var(dim=(0, 2, 3), correction=0)
    tokens = seen["features"].numel() // seen["features"].shape[1]
    assert torch.allclose(norm.running_var, 0.9 * before + 0.1 * biased * tokens / (tokens - 1), rtol=1e-5)


def test_prefix_and_counters_are_understood_and_dead_keys_named_once(caplog):
    weights = official_state_dict("c2fvl")
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    wrapped |= {"module.total_ops": torch.zeros(1), "module.down1.nConvs.total_params": torch.zeros(1)}
    with caplog.at_level(logging.WARNING):
        network = from_reference("c2fvl", wrapped)
    plain = from_reference("c2fvl", weights)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "359 keys" in messages[0]
    assert "upVit" not in messages[0].split(":")[0]
    assert not network.training


def test_a_checkpoint_without_the_dead_keys_loads_too():
    weights = official_state_dict("c2fvl")
    live = {key for keys in official_keys("c2fvl", from_reference("c2fvl", weights)).values() for key in keys}
    assert len(weights) - len(live) == 359
    from_reference("c2fvl", {key: value for key, value in weights.items() if key in live})


def _without(weights, key):
    return {name: value for name, value in weights.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: _without(w, "outc.bias"), r"1 of its .* missing \(outc\.bias\)"),
        (lambda w: _without(w, "inc.conv.weight"), r"missing \(inc\.conv\.weight\)"),
        (lambda w: w | {"extra.weight": torch.zeros(1)}, r"1 are unknown \(extra\.weight\)"),
        (
            lambda w: w | {"up4.vlab.bottleneck.0.weight": torch.zeros(4, 2)},
            r"up4\.vlab\.bottleneck\.0\.weight: wrong shape",
        ),
        (lambda w: w | {"downVit.embeddings.position_embeddings": torch.zeros(1, 195, 64)}, "wrong shape"),
        (lambda w: w | {"module.outc.bias": torch.zeros(1)}, "twice"),
        (lambda w: {}, "missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        from_reference("c2fvl", change(official_state_dict("c2fvl")))


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="known are: c2fvl"):
        from_reference("nnunet", {})


@pytest.mark.parametrize(
    ("name", "side", "bound"),
    [
        ("lvit", 224, 1e-5), ("unet", 224, 1e-5), ("uctransnet", 224, 1e-5), ("transunet", 224, 1e-4),
        ("axialunet", 128, 1e-5), ("gatedaxialunet", 128, 1e-5), ("logo", 128, 1e-5), ("medt", 128, 1e-5),
    ],
)  # fmt: skip
def test_published_output(name, side, bound):
    recorded = recording(name)
    network = from_reference(name, official_state_dict(name))
    text = torch.from_numpy(recorded["text"]).float() if "text" in recorded else None
    with torch.no_grad():
        logits = network(recorded_image(side), text).logits
    ours = logits.sigmoid() if logits.shape[1] == 1 else logits
    expected = torch.from_numpy(recorded["out0"])
    assert (ours[..., ::4, ::4] - expected).abs().max() <= bound * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: _without(w, "segmentation_head.0.bias"), r"1 of its .* missing \(segmentation_head\.0\.bias\)"),
        (
            lambda w: _without(w, "transformer.encoder.layer.3.attn.key.weight"),
            r"missing \(transformer\.encoder\.layer\.3\.attn\.key\.weight\)",
        ),
        (
            lambda w: w | {"transformer.encoder.layer.3.attn.key.weight": torch.zeros(768, 767)},
            r"layer\.3\.attn\.key\.weight.*wrong shape",
        ),
        (lambda w: w | {"transformer.embeddings.position_embeddings": torch.zeros(1, 195, 768)}, "wrong shape"),
        (lambda w: official_state_dict("c2fvl"), "this is not a checkpoint of the published transunet"),
        (lambda w: {}, "missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_transunet_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        from_reference("transunet", change(official_state_dict("transunet")))


def test_transunet_without_residual_network_is_recognised_by_its_weights():
    network = build_model("transunet", encoder="vit-b16", image_size=32, in_channels=1, num_classes=3)
    weights = {}
    for key, names in official_keys("transunet", network).items():
        value = network.state_dict()[key]
        weights |= zip(names, value.chunk(len(names)) if len(names) > 1 else [value], strict=True)
    positions = torch.arange(4 * 768.0).reshape(1, 4, 768)
    weights["transformer.embeddings.position_embeddings"] = positions
    assert not any("hybrid_model" in key for key in weights)
    found = from_reference("transunet", weights)
    expected = network.state_dict() | {"embedding.position": positions.reshape(2, 2, 768).permute(2, 0, 1)[None]}
    for key, value in expected.items():
        assert torch.equal(found.state_dict()[key], value), key
