"""The plain form that benchmarks time ours against is the published network."""

import sys
from pathlib import Path

import pytest
import torch
from support.reference_weights import official_state_dict, recorded_image, recording

from c2fvl.checkpoints.official.convert import from_reference
from c2fvl.config import LossConfig
from c2fvl.models import build_model
from c2fvl.models.output import Output
from c2fvl.training.losses import build_loss

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from published_c2fvl import PublishedC2FVL


def test_the_plain_form_gives_the_published_output():
    recorded = recording("c2fvl")
    plain = PublishedC2FVL.of(from_reference("c2fvl", official_state_dict("c2fvl"))).eval()
    with torch.no_grad():
        outputs = plain(recorded_image(), torch.from_numpy(recorded["text"]).float())
    for number, values in enumerate(outputs):
        expected = torch.from_numpy(recorded[f"out{number}"])
        bound = 1e-5 * max(1.0, expected.abs().max().item())
        assert (values[..., ::4, ::4] - expected).abs().max() <= bound, f"output {number}"


def test_ours_trains_as_the_plain_form_does():
    """Twenty steps of Adam give one curve of losses; in double precision, so that only true differences show."""
    torch.manual_seed(0)
    ours = build_model("c2fvl", base_width=8, image_size=64, dropout=0.0).double().train()
    plain = PublishedC2FVL.of(ours, side=64)
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(20, 3, 3, 64, 64, generator=generator).double()
    masks = (torch.rand(20, 3, 8, 8, generator=generator) > 0.7).double()
    masks = masks.repeat_interleave(8, 2).repeat_interleave(8, 3)
    text = torch.tensor([[[1, 2, 1, 0, 0, 0, 1, 1]], [[0, 1, 0, 0, 1, 0, 0, 0]], [[0, 3, 0, 0, 0, 1, 1, 0]]]).double()
    loss = build_loss(LossConfig())
    curves = []
    for network in (ours, plain):
        optimizer, curve = torch.optim.Adam(network.parameters(), 1e-3), []
        for image, mask in zip(images, masks, strict=True):
            found = network(image, text)
            if not isinstance(found, Output):
                found = Output(torch.logit(found[0]), found[1:])
            total = loss(found, mask)["loss"]
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            curve.append(total.item())
        curves.append(curve)
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    assert curves[0][-1] < curves[0][0]
