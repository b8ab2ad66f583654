"""Every network at its full size: a step of training, and the inference model against the network itself."""

import copy
import dataclasses
import random

import torch
from outcome import Outcome, Stage, in_child

from c2fvl.inference.cost import example_inputs, example_settings
from c2fvl.models import build_model
from c2fvl.models.inference_model import optimize
from c2fvl.models.registry import NETWORKS
from c2fvl.training.losses import build_loss

MAX_DIFFERENCE = 1e-4
"""Of a logit, relative to the largest one."""


def run_networks(stage: Stage) -> Outcome:
    """Build and run the networks in turn until the time is over."""
    outcome = Outcome("networks")
    names = sorted(NETWORKS)
    random.Random(stage.seed).shuffle(names)
    for number, draw in stage.rounds():
        name = names[number % len(names)]
        seed = draw.randrange(2**31)
        _, error = in_child(lambda name=name, seed=seed: _run(name, seed), seconds=600)
        outcome.tried[name] += 1
        if error:
            outcome.fail(f"{name}, seed {seed}: {error}")
    return outcome


def _run(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    config = example_settings(name)
    network = build_model(name, config.model.arguments).train()
    image, *text = (torch.rand_like(values) for values in example_inputs(config, 2))
    if text:
        text[0] = text[0].round()
        text[0][1] = torch.nan
    loss = build_loss(dataclasses.replace(config.loss, side_maps=0.0, alignment=0.0))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    mask = (torch.rand(2, *image.shape[2:]) < 0.2).float()
    value = loss(network(image, *text), mask)["loss"]
    value.backward()
    optimizer.step()
    assert torch.isfinite(value), f"the loss is {value}"
    for key, parameter in network.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), f"the gradient of {key} is not finite"
    network.eval()
    with torch.no_grad():
        expected = network(image, *text).logits
        found = optimize(copy.deepcopy(network))(image, *text).logits
    assert torch.isfinite(expected).all(), "the logits are not finite"
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
    assert difference <= MAX_DIFFERENCE, f"the inference model differs by {difference:.1e}"
