"""The recorded networks' inputs: weights by key, images and masks, as the recording protocol makes them.

Every number comes from NumPy's generator seeded by the key, so that a checkpoint of any size is 20 lines of facts.
"""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
SEED = 0


def recording(name):
    """Return the recorded arrays of a network."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def official_state_dict(name):
    """Return the state dict of the recorded official network, dead keys included; its tensors are read only."""
    return dict(_state_dict(name))


@functools.lru_cache(maxsize=2)  # those of a module's tests; all of them are a gigabyte
def _state_dict(name):
    shapes = json.loads(str(recording(name)["keys"]))
    return {key: filled(key, shape, dtype) for key, (shape, dtype) in shapes.items()}


def filled(key, shape, dtype):
    """Return the weights of a key, drawn by the key."""
    if "int" in dtype:
        return torch.zeros(shape, dtype=torch.int64)
    if not shape:  # the gates of MedT, as they are after construction
        return torch.tensor(1.0 if key.endswith("f_sv") else 0.1)
    generator = np.random.default_rng([zlib.crc32(key.encode()), SEED])
    if key.endswith("running_var"):
        values = generator.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        values = generator.normal(0, 0.1, shape)
    elif len(shape) == 1 and key.endswith("weight"):
        values = 1 + generator.normal(0, 0.1, shape)
    elif len(shape) == 1:
        values = generator.normal(0, 0.1, shape)
    else:
        values = generator.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, np.float32))


def recorded_image(side=224):
    """Return the image of the recording, (2, 3, side, side)."""
    return torch.from_numpy(np.random.default_rng([1, SEED]).random((2, 3, side, side)).astype(np.float32))


def recorded_mask():
    """Return the mask of the recorded training step, (2, 224, 224)."""
    coarse = np.random.default_rng([3, SEED]).random((2, 14, 14)) > 0.7
    return torch.from_numpy(coarse.repeat(16, 1).repeat(16, 2).astype(np.float32))
