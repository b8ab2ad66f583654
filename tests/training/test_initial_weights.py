"""Networks that start from a U-Net trained here, as the authors of LViT and UCTransNet do."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from c2fvl.checkpoints.trained_model import save_model
from c2fvl.config import Config, InitConfig, ModelConfig
from c2fvl.config_files import override
from c2fvl.models import build_model
from c2fvl.training.initial_weights import start_from, start_from_unet
from c2fvl.training.loop import train
from c2fvl.training.resume_state import load_state

ARGUMENTS = {
    "lvit": {"base_width": 8, "image_size": 32, "text_tokens": 4, "text_features": 8},
    "uctransnet": {"base_width": 8, "image_size": 32, "num_layers": 1},
    "c2fvl": {"base_width": 8, "image_size": 32},
}


def saved(folder, name="unet", **arguments):
    torch.manual_seed(7)
    arguments = {"base_width": 8, **arguments}
    network = build_model(name, arguments)
    save_model(folder, network, Config(model=ModelConfig(name, arguments)), {})
    return network


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_encoder_decoder_and_head_are_taken_over(name, tmp_path):
    unet, network = saved(tmp_path / "unet"), build_model(name, ARGUMENTS[name])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    count = start_from_unet(network, name, tmp_path / "unet")
    theirs, ours = unet.state_dict(), network.state_dict()
    changed = {key for key, value in ours.items() if not torch.equal(value, before[key])}
    assert count == len(theirs) - 8  # four steps enlarge by a learned kernel and bias
    for key in (
        "encoder.stem.convolution.weight",
        "encoder.stages.3.1.norm.weight",
        "decoders.2.convolutions.1.norm.bias",
    ):
        assert torch.equal(ours[key], theirs[key])
    head = "heads.0.weight" if name == "c2fvl" else "head.weight"
    assert torch.equal(ours[head], theirs["head.weight"])
    assert all(key.startswith(("encoder.", "decoders.", "head")) for key in changed)
    # what the U-Net finds in [enlarged, skip] the other finds in [skip, enlarged]
    upsampled, skip = torch.rand(1, 16, 6, 6), torch.rand(1, 16, 6, 6)
    key = "decoders.1.convolutions.0.convolution.weight"
    expected = functional.conv2d(torch.cat([upsampled, skip], 1), theirs[key], padding=1)
    assert torch.allclose(functional.conv2d(torch.cat([skip, upsampled], 1), ours[key], padding=1), expected, atol=1e-6)


def test_a_training_starts_from_it_and_a_resumed_one_does_not(tiny_config, tmp_path):
    unet = saved(tmp_path / "unet")
    frozen = [
        "optimizer.learning_rate=0.0",
        "optimizer.min_rate=0.0",
        "train.epochs=1",
        f'init.unet="{tmp_path}/unet"',
    ]
    run = train(override(tiny_config, frozen), run=tmp_path / "run").run
    weights = load_state(run / "last").weights
    assert torch.equal(weights["encoder.stem.convolution.weight"], unet.state_dict()["encoder.stem.convolution.weight"])
    (tmp_path / "unet" / "model.safetensors").unlink()
    assert train(resume=run, overrides=("train.epochs=2",)).finished


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unet": "{tmp}/wide"}, r"do not|differ in shape.*same base_width"),
        ({"unet": "{tmp}/c2fvl"}, "holds the network 'c2fvl'; expected unet"),
        ({"unet": "{tmp}/unet", "vit_npz": "x.npz"}, "both set"),
        ({"vit_npz": "{tmp}/x.npz"}, "transunet"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(settings, message, tmp_path):
    saved(tmp_path / "unet")
    saved(tmp_path / "wide", base_width=16)
    saved(tmp_path / "c2fvl", name="c2fvl", image_size=32)
    network = build_model("uctransnet", ARGUMENTS["uctransnet"])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    config = InitConfig(**{name: value.format(tmp=tmp_path) for name, value in settings.items()})
    with pytest.raises(ValueError, match=message):
        start_from(network, "uctransnet", config)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_only_networks_around_the_unet_start_from_one(tmp_path, tiny_config):
    saved(tmp_path / "unet")
    with pytest.raises(ValueError, match="medt is not"):
        start_from_unet(torch.nn.Linear(1, 1), "medt", tmp_path / "unet")
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        start_from_unet(build_model("c2fvl", ARGUMENTS["c2fvl"]), "c2fvl", tmp_path / "nothing")
    config = dataclasses.replace(tiny_config, init=InitConfig(unet=str(tmp_path / "nothing")))
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        train(config, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
