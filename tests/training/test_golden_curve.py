"""The first twenty losses of a training, as they were before any of the shorter ways to a gradient was taken.

In double precision, for in single precision the order of sums alone moves this curve by 3e-3 (measured): the optimiser
divides by the size of gradients that are near zero. Recorded at 3fa0b27.
"""

import pytest
import torch

from c2fvl.config import Config
from c2fvl.models import build_model
from c2fvl.models.layers.cpu_gradients import _products_pay
from c2fvl.training.losses import build_loss

CURVE = [
    1.9627001286,
    1.6593992710,
    1.4243056774,
    1.3719938993,
    0.9788720608,
    1.3914680481,
    0.8880872726,
    0.8684784770,
    0.8238121271,
    0.7145345211,
    0.7092777491,
    0.9200366735,
    0.6508831978,
    0.6985574961,
    0.6704596281,
    0.6246175766,
    0.6563124657,
    0.7756805420,
    0.6986222267,
    0.6687282920,
]


@pytest.mark.parametrize(
    "steps", [3, pytest.param(20, marks=pytest.mark.slow(like="test_c2fvl_learns_along_the_recorded_curve[3]"))]
)
def test_c2fvl_learns_along_the_recorded_curve(steps):
    torch.manual_seed(0)
    network = build_model("c2fvl", base_width=32, image_size=96, dropout=0.0)
    network = network.double().to(memory_format=torch.channels_last).train()
    assert _products_pay(torch.zeros(4, 32, 96, 96), network.encoder.stages[0][0].convolution.weight)
    loss, optimizer = build_loss(Config().loss), torch.optim.AdamW(network.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(1)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    found = []
    for _ in range(steps):
        centre = torch.rand(4, 2, generator=generator) - 0.5
        distance = (columns[None] - centre[:, :1, None]) ** 2 + (rows[None] - centre[:, 1:, None]) ** 2
        mask = (distance < 0.1).float()
        image = (0.5 * mask[:, None] + 0.3 * torch.rand(4, 3, 96, 96, generator=generator)).double()
        text = torch.rand(4, 1, 8, generator=generator).round().double()
        optimizer.zero_grad()
        value = loss(network(image.contiguous(memory_format=torch.channels_last), text), mask.double())["loss"]
        value.backward()
        optimizer.step()
        found.append(value.item())
    assert found == pytest.approx(CURVE[:steps], abs=1e-5)
