"""How fast C2FVL answers on ONNX Runtime, beside the published form there and in PyTorch.

    python benchmarks/exported.py [--width 64] [--threads 2] [--repeats 8] [--json FILE]

One film at a time, all forms in one process and in turn. Networks are exported as `c2fvl export` does, int8 with its
scales from a phantom; the published form as PyTorch's exporter translates it. Outputs are compared with the published
form's before anything is timed.
"""

import argparse
import functools
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from inference import probability, timed
from published_c2fvl import PublishedC2FVL
from torch import nn

from c2fvl.checkpoints.provenance import provenance
from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.files import storage
from c2fvl.inference.cost import example_settings
from c2fvl.inference.export import export
from c2fvl.inference.onnx_engine import DTYPES, OnnxModel
from c2fvl.models import build_model
from c2fvl.models.inference_model import optimize


class _Probability(nn.Module):
    """The published form, of which the exporter shall see the output alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return probability(self.network, image, text)


def lesion(network: nn.Module, image: torch.Tensor, text: torch.Tensor) -> np.ndarray:
    """Return the probability of the lesion (B, H, W) as PyTorch computes it."""
    return probability(network, image, text)[:, 0].numpy()


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = example_settings("c2fvl", [f"base_width={options.width}"])
    network = build_model("c2fvl", config.model.arguments).eval()
    published = PublishedC2FVL.of(network).eval()
    image = torch.rand(1, 3, 224, 224)
    text = torch.tensor([[[1, 2, 1, 0, 1, 0, 1, 1.0]]])
    arrays = image.numpy(), text.numpy()
    runs: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory(prefix="c2fvl-benchmark-") as folder, torch.inference_mode():
        packed = optimize(network, example=image)
        runs["published form, PyTorch"] = functools.partial(lesion, published, image, text)
        runs["inference form, PyTorch"] = functools.partial(lesion, packed, image, text)
        path = Path(folder) / "published.onnx"
        with torch.inference_mode(mode=False), torch.no_grad():
            torch.onnx.export(_Probability(published).eval(), (image, text), path, dynamo=True, verbose=False)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        given = dict(zip(names, arrays, strict=True))
        runs["published form, ONNX Runtime"] = lambda: session.run(None, given)[0][:, 0]
        images = Path(folder) / "phantom"
        write_phantom(images, num_cases=20, seed=0)
        for dtype in DTYPES:
            out = Path(folder) / f"{dtype}.onnx"
            with torch.inference_mode(mode=False):
                model = TrainedModel(network, config, {}, Path(folder))
                export(model, out, dtype=dtype, calibration=images if dtype == "int8" else None)
            runs[f"exported, {dtype}, ONNX Runtime"] = functools.partial(OnnxModel(out).probabilities, *arrays)
        expected = next(iter(runs.values()))()
        differences = {name: float(np.abs(run() - expected).max()) for name, run in runs.items()}
        seconds = {name: statistics.median(values) for name, values in timed(runs, options.repeats).items()}
    first = next(iter(seconds.values()))
    print("| form | times faster | largest difference of probability |")
    print("|---|---:|---:|")
    for name, value in seconds.items():
        print(f"| {name} | {first / value:.2f} | {differences[name]:.0e} |")
    if options.json:
        found = {
            "seconds": seconds, "differences": differences, "width": options.width, "threads": options.threads,
            "environment": provenance(torch.device("cpu")),
        }  # fmt: skip
        storage.write_text(options.json, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
