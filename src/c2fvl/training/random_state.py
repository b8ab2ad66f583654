"""The random generators of a process, as tensors that can be saved."""

import math
import random

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator is seeded for what may use it
    torch.manual_seed(seed)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators of Python, NumPy, torch and, on a GPU, of `device`."""
    _, integers, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    keys = np.asarray(numpy_state["state"]["key"])
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(integers, dtype=torch.int64),
        "python_gauss": torch.tensor([math.nan if gauss is None else gauss], dtype=torch.float64),
        "numpy": torch.tensor(
            [*keys.tolist(), numpy_state["state"]["pos"], numpy_state["has_gauss"]],
            dtype=torch.int64,
        ),
        "numpy_gauss": torch.tensor([numpy_state["gauss"]], dtype=torch.float64),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Set every generator to a saved state."""
    torch.set_rng_state(states["torch"])
    gauss = states["python_gauss"].item()
    random.setstate((3, tuple(states["python"].tolist()), None if math.isnan(gauss) else gauss))
    *keys, position, has_gauss = states["numpy"].tolist()
    np.random.set_state(  # noqa: NPY002
        ("MT19937", np.asarray(keys, np.uint32), position, has_gauss, states["numpy_gauss"].item())
    )
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
