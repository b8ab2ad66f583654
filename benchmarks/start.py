"""How long it takes from the command to the answer: import, help, and the mask of one film.

    python benchmarks/start.py [--width 16] [--threads 2] [--repeats 5]

Each is started as a process of its own, in turn. The mask is made from a model folder, on PyTorch, and from the same
network exported, on ONNX Runtime. Shares are of the bounds that the project set itself, where it set one, and of the
time of the network's part: its answer to that film when it is loaded.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from c2fvl.checkpoints.trained_model import TrainedModel, save_model
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.inference.cost import example_settings
from c2fvl.inference.export import export
from c2fvl.inference.predictor import Predictor
from c2fvl.models import build_model

OUT = "a new folder for each answer"


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="c2fvl-benchmark-") as place:
        folder = Path(place)
        write_phantom(folder / "phantom", num_cases=10, seed=0)
        image = sorted((folder / "phantom" / "Test_Folder" / "img").iterdir())[0]
        config = example_settings("c2fvl", [f"base_width={options.width}"])
        network = build_model("c2fvl", config.model.arguments).eval()
        save_model(folder / "model", network, config, {})
        export(TrainedModel(network, config, {}, folder / "model"), folder / "network.onnx")
        command = [sys.executable, "-m", "c2fvl"]
        predict = [*command, "predict", str(image), "--out", OUT, "--model"]
        commands: dict[str, tuple[list[str], float | None]] = {
            "python, nothing imported": ([sys.executable, "-c", "pass"], None),
            "import c2fvl": ([sys.executable, "-c", "import c2fvl"], 0.1),
            "c2fvl --help": ([*command, "--help"], 0.5),
            "c2fvl predict FILM, with the included model": ([*predict[:-1]], None),
            **{
                f"c2fvl predict FILM --model {name}": ([*predict, str(folder / name)], bound)
                for name, bound in (("network.onnx", 1.5), ("model", None))
            },
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        for turn in range(1 + options.repeats):
            for number, (name, (arguments, _)) in enumerate(commands.items()):
                whole = [str(folder / f"out {turn} {number}") if part == OUT else part for part in arguments]
                began = time.perf_counter()
                subprocess.run(whole, check=True, capture_output=True, env=environment)
                if turn:
                    seconds[name].append(time.perf_counter() - began)
        own = {}
        for source in ("network.onnx", "model"):
            predictor = Predictor(folder / source)
            predictor(image)
            began = time.perf_counter()
            predictor(image)
            own[source] = time.perf_counter() - began
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    bare = medians["python, nothing imported"]
    print("| from start to end | times Python's own start | share of the bound | of which the network, once loaded |")
    print("|---|---:|---:|---:|")
    for name, (_, bound) in commands.items():
        spent = medians[name] - (bare if name == "import c2fvl" else 0)
        cells = [
            f"{medians[name] / bare:.1f}",
            "" if bound is None else f"{100 * spent / bound:.0f} % of {bound} s",
            f"{100 * own[source] / medians[name]:.0f} %" if (source := name.split()[-1]) in own else "",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
