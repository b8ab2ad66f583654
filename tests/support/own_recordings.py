"""Recordings of networks that no other program has: FilmFirst with weights by key, and the shipped weights.

`python tests/support/own_recordings.py` records them again, in half a minute. Do so only where a result is meant to
change, and say why in the commit.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.reference_weights import GOLDEN, filled

FILMFIRST = {
    "lite0-scales": {"encoder": "lite0", "fusion": "scales"},
    "lite1-maps": {"encoder": "lite1", "fusion": "maps"},
    "plain-attention": {"encoder": "plain", "fusion": "attention"},
}
"""Every encoder family and every fusion once."""
SHIPPED = ("small", "ct_small")
REPORTS = (
    None,
    "Unilateral pulmonary infection, one infected area, upper left lung.",
    "Bilateral pulmonary infection, two infected areas, lower left lung and lower right lung.",
)
SIDE = 64


def filmfirst_outputs(name):
    """Return the recorded outputs of FilmFirst: logits at every fourth pixel, predicted findings and agreement."""
    from c2fvl.models import build_model
    from c2fvl.reports.findings import findings_of
    from c2fvl.reports.report import parse_report

    network = build_model("filmfirst", FILMFIRST[name])
    weights = {
        key: filled(key, tuple(value.shape), str(value.dtype)).to(value.dtype)
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(weights)
    reports = [None if sentence is None else parse_report(sentence) for sentence in REPORTS]
    text = torch.from_numpy(np.stack([findings_of(report) for report in reports])[:, None])
    image = np.random.default_rng([1, 0]).random((len(REPORTS), 3, SIDE, SIDE))
    with torch.no_grad():
        output = network.eval()(torch.from_numpy(image.astype(np.float32)), text)
    found = {f"findings_{key}": values.numpy() for key, values in output.findings._asdict().items()}
    return {"logits": output.logits[..., ::4, ::4].numpy(), **found}


def phantom_images():
    """Draw three synthetic images (SIDE, SIDE) uint8, which the recording keeps: a new drawing changes nothing."""
    import tempfile

    from c2fvl.data.phantom.draw import write_phantom
    from c2fvl.files.images import read_pixels

    with tempfile.TemporaryDirectory() as folder:
        write_phantom(Path(folder) / "data", num_cases=6, seed=4, size=SIDE)
        return np.stack([read_pixels(path) for path in sorted(Path(folder).glob("data/Train_Folder/img/*"))[:3]])


def shipped_outputs(name, images):
    """Return what a shipped model says of images with each report: probability at every fourth pixel, area per zone."""
    from c2fvl.inference.predictor import Predictor

    predictor = Predictor(name)
    found = [predictor(image, report, orientation="image") for image in images for report in REPORTS]
    return {
        "probability": np.stack([one.probability[::4, ::4] for one in found]).astype(np.float32),
        "area": np.array([list(one.areas.values()) for one in found]),
        "zones": np.array([list(one.findings.zones.values()) for one in found]).astype(np.float32),
    }


def record():
    """Write both recordings."""
    arrays = {f"{name}.{key}": value for name in FILMFIRST for key, value in filmfirst_outputs(name).items()}
    np.savez_compressed(GOLDEN / "filmfirst.npz", **arrays)
    images = phantom_images()
    arrays = {f"{name}.{key}": value for name in SHIPPED for key, value in shipped_outputs(name, images).items()}
    np.savez_compressed(GOLDEN / "shipped.npz", images=images, **arrays)


if __name__ == "__main__":
    record()
