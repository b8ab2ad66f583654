"""FilmFirst: the image is read before the report, and the report is followed as far as it is believed."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from c2fvl.checkpoints.trained_model import load_model, save_model
from c2fvl.config_files import load_config
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.part import Part
from c2fvl.data.scan import scan
from c2fvl.evaluation.evaluate import score
from c2fvl.files.storage import checksum
from c2fvl.inference.compute import Compute
from c2fvl.models import build_model
from c2fvl.models.layers.efficient import STAGES
from c2fvl.models.output import FindingLogits
from c2fvl.reports.findings import FINDINGS, FIRST_ZONE, TRUST, findings_of
from c2fvl.reports.perturbations import wrong_report
from c2fvl.reports.report import Report, parse_report
from c2fvl.reports.zones import ZONES
from c2fvl.training.fit_trust import TRUSTS, WRONG, _held_out, fit_trust
from c2fvl.training.initial_weights import start_from
from c2fvl.training.losses import agreement_loss, build_loss, findings_loss

SMALL = {"encoder": "plain", "widths": (8, 8, 16, 16)}
UNKNOWN = torch.full((2, 1, len(FINDINGS)), torch.nan)


def told(*reports, trust=None):
    rows = np.stack([findings_of(report) for report in reports])[:, None]
    if trust is not None:
        rows[:, :, TRUST] = trust
    return torch.from_numpy(rows)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    built = build_model("filmfirst", SMALL)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return built.eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


LEFT = Report("unilateral", 1, frozenset({"lupper"}))
BOTH = Report("bilateral", 3, frozenset({"lmiddle", "rlower"}))


def test_a_trust_of_0_is_the_image_alone_to_the_bit(network, images):
    with torch.no_grad():
        without = network(images, UNKNOWN)
        distrusted = network(images, told(LEFT, BOTH, trust=0))
    assert torch.equal(without.logits, distrusted.logits)
    assert (distrusted.findings.agreement == -torch.inf).all()


def test_a_trust_of_1_follows_the_report_whatever_the_image_shows(network, images):
    with torch.no_grad():
        output = network(images, told(LEFT, BOTH, trust=1))
        seen = network.encode_image(images)
        _, belief = network.weigher(seen.zones, seen.number, seen.side, told(LEFT, BOTH)[:, 0], torch.ones(2, 1))
    assert (output.findings.agreement == torch.inf).all()
    assert belief[:, : len(ZONES)].tolist() == [[1, -1, -1, -1, -1, -1], [-1, 1, -1, -1, -1, 1]]


def test_the_image_is_read_without_a_look_at_the_report(network, images):
    with torch.no_grad():
        with_report, without = network(images, told(LEFT, BOTH)).findings, network(images).findings
    for name in ("zones", "number", "side"):
        assert torch.equal(getattr(with_report, name), getattr(without, name))


def test_more_trust_is_more_belief(network, images):
    beliefs = []
    for trust in (0.1, 0.5, 0.9):
        with torch.no_grad():
            beliefs.append(network(images, told(LEFT, BOTH, trust=trust)).findings.agreement)
    assert (beliefs[0] < beliefs[1]).all() and (beliefs[1] < beliefs[2]).all()
    apart = beliefs[2] - beliefs[0]  # log-odds of 0.9 less those of 0.1
    assert torch.allclose(apart, torch.full_like(apart, 2 * np.log(9)), atol=1e-4)


def test_what_is_not_told_is_as_the_image_shows_it(network, images):
    part = told(Report(zones=frozenset({"lupper"})), None, trust=1)
    with torch.no_grad():
        seen = network.encode_image(images)
        _, belief = network.weigher(seen.zones, seen.number, seen.side, part[:, 0], torch.ones(2, 1))
        zones = 2 * seen.zones.clamp(-6, 6).sigmoid() - 1
    assert belief[0, 0] == 1
    assert torch.allclose(belief[0, 1:6], zones[0, 1:])
    assert torch.allclose(belief[1, :6], zones[1])


def test_losses_count_only_what_is_known():
    zones = torch.tensor([[2.0, -1.0, 0, 0, 0, 0], [0.5, 0, 0, 0, 0, 0]])
    reading = FindingLogits(zones, torch.zeros(2, 8), torch.zeros(2, 3), torch.tensor([[1.0] * 8, [torch.inf] * 8]))
    true = torch.full((2, 9), torch.nan)
    true[0, FIRST_ZONE], true[0, FIRST_ZONE + 1], true[1, FIRST_ZONE] = 1, 1, 0
    expected = np.mean([np.log1p(np.exp(-2)), np.log1p(np.exp(1)), np.log1p(np.exp(0.5))])
    assert findings_loss(reading, true).item() == pytest.approx(expected, abs=1e-6)
    true[:, 1] = 12  # beyond the last number that is told apart
    assert findings_loss(reading, true).item() == pytest.approx(expected + 0.1 * np.log(8), abs=1e-6)

    said = true.clone()
    said[0, FIRST_ZONE + 1] = 0  # of three statements of the first image one is wrong; the second is followed blindly
    expected = np.mean([np.log1p(np.exp(-1)), np.log1p(np.exp(-1)), np.log1p(np.exp(1))])
    assert agreement_loss(reading, said, true).item() == pytest.approx(expected, abs=1e-6)
    assert agreement_loss(reading, torch.full_like(said, torch.nan), true).item() == 0


def test_the_loss_of_another_network_refuses_the_reading():
    loss = build_loss(dataclasses.replace(load_config("filmfirst_phantom").loss, side_maps=0.0))
    output = build_model("unet", base_width=8)(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"loss\.reading=0"):
        loss(output, torch.zeros(1, 32, 32))


@pytest.fixture(scope="module")
def settings(phantom_root):
    return load_config(
        "filmfirst_phantom",
        [f'data.root="{phantom_root}"', "data.image_size=64", "data.text=findings", "data.image_cache=none",
         "model.arguments.widths=[8, 8, 16, 16]"],
    )  # fmt: skip


def drawn(settings, epochs=40, **changes):
    """Return the findings that were told and those of the images' own reports, over some epochs."""
    data = dataclasses.replace(settings.data, **changes)
    cases = scan(settings.data.root, "train")[:12]
    images = CaseDataset(cases, data, augment=True, seed=5)
    items = [images[epoch, index] for epoch in range(epochs) for index in range(len(cases))]
    return np.stack([item.text[0] for item in items]), np.stack([item.findings for item in items])


def test_doubted_reports_are_wrong_as_often_as_their_trust_says(settings):
    text, own = drawn(settings, report_dropout=0.0, report_noise=1.0, partial_reports=0.0)
    right = (np.nan_to_num(text[:, :TRUST], nan=-1) == np.nan_to_num(own[:, :TRUST], nan=-1)).all(axis=1)
    trusts = text[:, TRUST]
    assert trusts.min() >= 0.05 and trusts.max() <= 0.95
    low, high = right[trusts < 0.35].mean(), right[trusts > 0.65].mean()
    # a wrong report drawn at random may say the same by chance
    assert 0.12 < low < 0.5 and 0.68 < high < 0.98


def test_reports_are_whole_and_trusted_where_nothing_is_doubted_or_cut(settings):
    text, own = drawn(settings, epochs=2, report_dropout=0.0, report_noise=0.0, partial_reports=0.0)
    assert np.array_equal(text[:, :TRUST], own[:, :TRUST], equal_nan=True)
    assert np.isnan(text[:, TRUST]).all()
    text, _ = drawn(settings, epochs=4, report_dropout=1.0, report_noise=0.5, partial_reports=0.5)
    assert np.isnan(text[:, :TRUST]).all()


def test_cut_reports_keep_some_of_what_is_so(settings):
    text, own = drawn(settings, report_dropout=0.0, report_noise=0.0, partial_reports=1.0)
    kept = ~np.isnan(text[:, :TRUST])
    assert (text[:, :TRUST][kept] == own[:, :TRUST][kept]).all()
    assert 0.3 < kept.sum() / (~np.isnan(own[:, :TRUST])).sum() < 0.6
    assert (text[:, TRUST] == 1).all()


def test_wrong_reports_are_of_every_kind():
    generator = np.random.default_rng(0)
    found = [wrong_report(LEFT, [BOTH], generator) for _ in range(200)]
    assert BOTH in found and LEFT.mirrored() in found
    assert any(report.zones == {"llower"} for report in found) and any(report.zones == {"lmiddle"} for report in found)


def test_other_networks_refuse_doubt(phantom_root):
    data = load_config("debug", ["data.text=attributes", "data.report_noise=0.5"]).data
    with pytest.raises(ValueError, match="report_noise"):
        CaseDataset(scan(phantom_root, "train"), data, augment=True)


@pytest.fixture
def published(tmp_path):
    """Write weights under the names of the published ones, as they are with a classifier, and return them."""
    encoder = build_model("filmfirst").encoder
    names = {"stem.": "_conv_stem.", "stem_norm.": "_bn0."}
    parts = ("expand", "_expand_conv"), ("expand_norm", "_bn0"), ("depthwise", "_depthwise_conv"), \
        ("depthwise_norm", "_bn1"), ("project", "_project_conv"), ("project_norm", "_bn2")  # fmt: skip
    number = 0
    for stage, (*_, blocks) in enumerate(STAGES):
        for place in range(blocks):
            names |= {f"stages.{stage}.{place}.{ours}.": f"_blocks.{number}.{theirs}." for ours, theirs in parts}
            number += 1
    weights = {}
    for key, value in encoder.state_dict().items():
        prefix = next(name for name in names if key.startswith(name) and "." not in key[len(name) :])
        weights[names[prefix] + key[len(prefix) :]] = (
            torch.rand(value.shape) if value.is_floating_point() else value + 7
        )
    weights["_fc.weight"] = torch.rand(1000, 1280)
    torch.save(weights, tmp_path / "lite0.pth")
    return tmp_path / "lite0.pth", weights


def test_it_starts_from_published_weights_of_efficientnet_lite(published):
    path, weights = published
    network = build_model("filmfirst")
    config = dataclasses.replace(load_config("filmfirst_qata_small").init, efficientnet_lite=str(path))
    start_from(network, "filmfirst", config)
    assert torch.equal(network.encoder.stem.weight, weights["_conv_stem.weight"])
    last = network.encoder.stages[-1][-1]
    assert torch.equal(last.project_norm.running_var, weights["_blocks.14._bn2.running_var"])
    assert torch.equal(network.encoder.stages[1][0].expand.weight, weights["_blocks.1._expand_conv.weight"])


def test_other_files_and_networks_are_refused(published, tmp_path):
    path, weights = published
    init = load_config("filmfirst_qata_small").init
    with pytest.raises(ValueError, match="encoder lite0"):
        start_from(build_model("unet", base_width=8), "unet", dataclasses.replace(init, efficientnet_lite=str(path)))
    del weights["_blocks.3._bn1.bias"]
    torch.save(weights, tmp_path / "part.pth")
    network = build_model("filmfirst")
    before = network.encoder.stem.weight.clone()
    with pytest.raises(ValueError, match=r"_blocks\.3\._bn1\.bias"):
        start_from(network, "filmfirst", dataclasses.replace(init, efficientnet_lite=str(tmp_path / "part.pth")))
    assert torch.equal(network.encoder.stem.weight, before)
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match="not in PyTorch's zip format"):
        start_from(network, "filmfirst", dataclasses.replace(init, efficientnet_lite=str(tmp_path / "text.pth")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value * torch.nan, "not finite"),
        (lambda value: value.double() * 1e300, "not finite"),
        (lambda value: value.long(), "int64 instead of"),
        (lambda value: value[:, :, :1], "has no _conv_stem"),
    ],
)
def test_weights_that_cannot_be_used_change_nothing(published, tmp_path, change, message):
    _, weights = published
    weights["_conv_stem.weight"] = change(weights["_conv_stem.weight"])
    torch.save(weights, tmp_path / "bad.pth")
    network = build_model("filmfirst")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    init = dataclasses.replace(load_config("filmfirst_qata_small").init, efficientnet_lite=str(tmp_path / "bad.pth"))
    with pytest.raises(ValueError, match=message):
        start_from(network, "filmfirst", init)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_flipped_bit_of_published_weights_is_found(published, tmp_path):
    path, _ = published
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.pth").write_bytes(data)
    init = dataclasses.replace(
        load_config("filmfirst_qata_small").init, efficientnet_lite=str(tmp_path / "flipped.pth")
    )
    with pytest.raises(ValueError, match="damaged"):
        start_from(build_model("filmfirst"), "filmfirst", init)


@pytest.fixture
def model(network, settings, tmp_path):
    save_model(tmp_path / "model", network, settings, {})
    return load_model(tmp_path / "model")


def test_the_curve_of_trust_is_what_evaluations_find(model, phantom_root):
    curve = fit_trust(model, Part(phantom_root, split="test"), trusts=(0.3, 1.0))
    assert [point["trust"] for point in curve["points"]] == [0.0, 0.3, 1.0]

    def dice(trust, text):
        part = Part(phantom_root, "test", text=text)
        scored = score(model.with_trust(trust), part, Compute(batch_size=4))
        return scored.summary.as_dict()["scores"][0]["dice_per_image"]

    for point in curve["points"]:
        for text in ("right", "shuffled", "zone_off"):
            assert point[text]["value"] == pytest.approx(dice(point["trust"], text), abs=1e-6), (point["trust"], text)
    assert curve["none"]["value"] == pytest.approx(dice(0.5, "none"), abs=1e-6)
    held_out = curve["held_out"]
    assert set(held_out["defaults"]) <= {0.0, 0.3, 1.0}
    assert set(held_out["harm"]) == set(WRONG)
    best = [point["trust"] for point in curve["points"] if point["within_bounds"]]
    assert curve["default"] == max(best)


def test_a_default_is_scored_on_patients_that_it_was_not_chosen_on():
    """Images of "a" stand a trust of 0.5, those of "b" only 0.2: each half's choice is charged to the other."""
    cases = [SimpleNamespace(id=f"{name}{number}", group=name) for name in "ab" for number in range(4)]
    images = type("Films", (), {"cases": cases, "__len__": lambda self: 8})()
    trusts = (0.0, 0.2, 0.5, 1.0)
    right = np.outer([0.5, 0.6, 0.7, 0.8], np.ones(8))
    costs = np.array([[0, 0.005, 0.008, 0.3]] * 4 + [[0, 0.005, 0.05, 0.3]] * 4).T
    scores = {"right": right, **dict.fromkeys(WRONG, 0.5 - costs)}
    found = _held_out(images, scores, trusts, seed=0)
    assert sorted(found["defaults"]) == [0.2, 0.5]
    assert found["right"]["value"] == pytest.approx(0.65)
    assert found["benefit_kept"] == pytest.approx(0.5)
    for name in WRONG:  # 0.005 of "a" at 0.2, 0.05 of "b" at 0.5
        assert found["harm"][name]["value"] == pytest.approx((0.005 + 0.05) / 2)
    for case in cases:
        case.group = "one"
    assert _held_out(images, scores, trusts, seed=0) is None


def test_the_default_trust_is_kept_in_the_model_folder(model, phantom_root):
    found = fit_trust(model, Part(phantom_root, split="test"), trusts=(1.0,), keep=True)
    again = load_model(model.path)
    assert again.config.model.arguments["trust"] == again.network.trust == found["default"]
    assert (model.path / "trust.json").is_file()
    assert max(TRUSTS) == 1 and min(TRUSTS) == 0


def test_trust_is_for_this_network_alone(model, phantom_root):
    with pytest.raises(ValueError, match=r"between 0 .* and 1"):
        model.with_trust(1.5)
    other = dataclasses.replace(model, config=load_config("debug"), network=build_model("unet", base_width=8))
    with pytest.raises(ValueError, match="no trust"):
        other.with_trust(0.5)
    with pytest.raises(ValueError, match="filmfirst"):
        fit_trust(other, Part(phantom_root))
    assert parse_report(str(LEFT)) == LEFT


def test_training_goes_on_from_a_trained_model(network, settings, tmp_path):
    save_model(tmp_path / "model", network, settings, {})
    init = dataclasses.replace(settings.init, model=str(tmp_path / "model"))
    fresh = build_model("filmfirst", settings.model.arguments)
    assert not torch.equal(fresh.heads[0].weight, network.heads[0].weight)
    begun_from = start_from(fresh, "filmfirst", init)
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert begun_from == {"setting": f"init.model={tmp_path / 'model'}", "sha256": checksum(weights)}
    for (name, value), other in zip(network.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    with pytest.raises(ValueError, match="holds the network 'filmfirst'; expected unet"):
        start_from(build_model("unet", {"base_width": 8}), "unet", init)
    wider = build_model("filmfirst", {"encoder": "lite1"})
    before = wider.encoder.stem.weight.clone()
    with pytest.raises(ValueError, match="does not fit"):
        start_from(wider, "filmfirst", init)
    assert torch.equal(wider.encoder.stem.weight, before)


def test_blocks_are_left_out_in_training_only():
    encoder = build_model("filmfirst", {"drop_path": 0.5}).encoder
    drops = [block.drop for stage in encoder.stages for block in stage]
    assert drops == sorted(drops)
    assert drops[0] == 0
    assert 0.4 < drops[-1] < 0.5
    block = encoder.stages[-1][-1]
    block.drop = 0.75
    features = torch.randn(400, 192, 1, 1)
    block.eval()
    whole = block(features) - features
    block.train()
    for norm in (block.expand_norm, block.depthwise_norm, block.project_norm):
        norm.eval()  # statistics of the batch would hide which images were left out
    added = block(features) - features
    left_out = added.abs().sum(dim=(1, 2, 3)) == 0
    assert 0.65 < left_out.float().mean() < 0.85
    assert torch.allclose(added[~left_out], whole[~left_out] * 4, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="no blocks to leave out"):
        build_model("filmfirst", {"encoder": "plain", "drop_path": 0.1})
    with pytest.raises(ValueError, match="below 1"):
        build_model("filmfirst", {"drop_path": 1.0})
