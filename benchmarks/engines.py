"""How fast a trained model answers with each engine, and where the time of the fastest form in PyTorch goes.

    python benchmarks/engines.py [MODEL] [--repeats 30] [--threads 1]

One image at a time, all engines in turn in one process, in processor time. OpenVINO is measured where it is installed.
The layers are those of the form in float32, by the profiler of PyTorch.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.inference.export import export
from c2fvl.inference.onnx_engine import OnnxModel
from c2fvl.inference.precision import autocast
from c2fvl.inference.torch_engine import inference_form, probabilities
from c2fvl.models.inference_model import optimize
from c2fvl.reports.encoders import text_shape

KINDS = {
    "convolution": "convolution", "mkldnn": "convolution", "upsample": "resizing", "max_pool": "pooling",
    "softmax": "attention", "bmm": "attention", "addmm": "linear", "linear": "linear",
}  # fmt: skip


def main() -> None:
    """Measure and print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="small")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    side, shape = model.config.data.image_size, text_shape(model.config)
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    text = None if shape is None else torch.full((1, *shape), torch.nan)
    packed, plain = inference_form(model), optimize(model.network)

    def in_torch(network: torch.nn.Module, precision: str) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            with torch.inference_mode(), autocast("cpu", precision):
                return probabilities(network(image, text))[0].float().numpy()

        return run

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export(model, file)
        rows = None if text is None else text.numpy()
        exported = OnnxModel(file, threads=options.threads)
        engines: dict[str, Callable[[], np.ndarray]] = {
            "PyTorch, packed, fp32": in_torch(packed, "fp32"),
            "PyTorch, bf16": in_torch(plain, "bf16"),
            "ONNX Runtime, fp32": lambda: exported.compute(image.numpy(), rows).probability[0],
        }
        if importlib.util.find_spec("openvino"):
            engines["OpenVINO, fp32"] = in_openvino(file, image.numpy(), rows, options.threads)
        expected = next(iter(engines.values()))()
        seconds: dict[str, list[float]] = defaultdict(list)
        for repeat in range(options.repeats + 3):
            for name, run in engines.items():
                began = time.process_time()
                found = run()
                if repeat >= 3:
                    seconds[name].append(time.process_time() - began)
                elif repeat == 0:
                    print(f"{name}: differs by {np.abs(found - expected).max():.1e}")
    first = statistics.median(next(iter(seconds.values())))
    print("\n| engine | times faster |\n|---|---:|")
    for name, values in seconds.items():
        print(f"| {name} | {first / statistics.median(values):.2f} |")
    print_layers(engines["PyTorch, packed, fp32"], options.repeats)


def in_openvino(file: Path, image: np.ndarray, text: np.ndarray | None, threads: int) -> Callable[[], np.ndarray]:
    """Return what runs an exported file with OpenVINO."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    inputs = [image] if text is None else [image, text]
    return lambda: next(iter(compiled(inputs).values()))[0]


def print_layers(run: Callable[[], np.ndarray], repeats: int) -> None:
    """Print the share of each kind of operation in the processor time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(repeats):
            run()
    shares: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        kind = next((kind for word, kind in KINDS.items() if word in event.key), "the rest")
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    print("\n| operations | share of the time, % |\n|---|---:|")
    for kind, value in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {100 * value / total:.0f} |")


if __name__ == "__main__":
    main()
