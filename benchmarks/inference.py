"""How much faster than the published form C2FVL answers, and how near to what the machine can do.

    python benchmarks/inference.py [--width 64] [--batch 1] [--threads 2] [--repeats 10] [--compile] [--json FILE]

Everything is timed in one process and in turn, so that only ratios mean something: the published form
(`published_c2fvl.py`), our network as it is trained, its inference form, and that form made ready for the processor.
The peak is the best median of three large convolutions and a large matrix product in the same precision; the share of
it counts the operations that each form really does. Outputs are compared before anything is timed.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from published_c2fvl import PublishedC2FVL
from torch import nn

from c2fvl.checkpoints.provenance import provenance
from c2fvl.files import storage
from c2fvl.inference.cost import count_flops
from c2fvl.inference.speed import Conditions, Speed, in_own_process
from c2fvl.models import Output, build_model
from c2fvl.models.inference_model import optimize
from c2fvl.models.layers.blocks import ConvNormReLU

PEAK_CONVOLUTIONS = ((64, 224), (128, 112), (256, 56))
PEAK_MATRIX = 2048
WARM_UP = 2
PUBLISHED = "published form"


def timed(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the sorted seconds of each, taken in turn so that what else the machine does befalls all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UP + repeats):
        for name, run in runs.items():
            run()  # so that its own weights and maps are in the cache, as they are image after image
            began = time.perf_counter()
            run()
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    return {name: sorted(values) for name, values in seconds.items()}


def large_products() -> dict[str, tuple[Callable[[], Any], float]]:
    """Return large convolutions (3 × 3, channels-last, made ready) and a matrix product, each with its operations."""
    found: dict[str, tuple[Callable[[], Any], float]] = {}
    for width, side in PEAK_CONVOLUTIONS:
        image = torch.rand(1, width, side, side).to(memory_format=torch.channels_last)
        convolution = optimize(_Alone(width), example=image)
        operations = 2 * 9 * width**2 * side**2
        found[f"convolution {width}→{width} at {side}²"] = functools.partial(convolution, image), operations
    matrix = torch.rand(PEAK_MATRIX, PEAK_MATRIX)
    found[f"matrix product {PEAK_MATRIX}²"] = functools.partial(torch.mm, matrix, matrix), 2 * PEAK_MATRIX**3
    return found


class _Alone(nn.Sequential):
    """One convolution unit, as the networks have them."""

    def __init__(self, width: int) -> None:
        super().__init__(ConvNormReLU(width, width))


def probability(network: nn.Module, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return the probability of the lesion, which the published form gives itself."""
    found = network(image, text)
    return found.logits.sigmoid() if isinstance(found, Output) else found[0]


def peak_memory(form: str, options: argparse.Namespace) -> float:
    """Return how much memory, in MiB, a process needs above that of PyTorch itself to answer by one form."""

    def start() -> Callable[[], Any]:
        torch.set_grad_enabled(False)
        image, text = torch.rand(options.batch, 3, 224, 224), torch.ones(options.batch, 1, 8)
        if form == PUBLISHED:
            return functools.partial(PublishedC2FVL(options.width).eval(), image, text)
        image = image.contiguous(memory_format=torch.channels_last)
        network = build_model("c2fvl", base_width=options.width)
        return functools.partial(optimize(network, example=image, in_place=True), image, text)

    torch.set_grad_enabled(False)
    conditions = Conditions(batch_size=options.batch, repeats=3, threads=options.threads)
    return Speed.of(start, conditions).peak_memory


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="also by torch.compile; takes minutes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    ours = build_model("c2fvl", base_width=options.width).eval()
    published = PublishedC2FVL.of(ours).eval()
    image = torch.rand(options.batch, 3, 224, 224)
    text = torch.tensor([1, 2, 1, 0, 1, 0, 1, 1.0]).repeat(options.batch, 1, 1)
    ours = ours.to(memory_format=torch.channels_last)
    last = image.contiguous(memory_format=torch.channels_last)
    plain, packed = optimize(ours), optimize(ours, example=image)
    expected = probability(published, image, text)
    networks: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "published form": (published, image),
        "our network": (ours, last),
        "inference form": (plain, last),
        "inference form, made ready": (packed, last),
    }
    meta = {"device": "meta"}
    shapes = (torch.zeros(options.batch, 3, 224, 224, **meta), torch.zeros(options.batch, 1, 8, **meta))
    operations = {
        "published form": count_flops(PublishedC2FVL(options.width).to(**meta), shapes)[""],
        "our network": count_flops(build_model("c2fvl", base_width=options.width).to(**meta), shapes)[""],
        "inference form": count_flops(optimize(build_model("c2fvl", base_width=options.width)).to(**meta), shapes)[""],
    }
    operations["inference form, made ready"] = operations["inference form"]
    if options.compile:
        networks["inference form, compiled"] = torch.compile(plain), last
        operations["inference form, compiled"] = operations["inference form"]
    products = large_products()
    differences = {
        name: (probability(network, film, text) - expected).abs().max().item()
        for name, (network, film) in networks.items()
    }
    runs = {name: functools.partial(network, film, text) for name, (network, film) in networks.items()}
    seconds = timed(runs | {name: run for name, (run, _) in products.items()}, options.repeats)
    rates = {name: count / statistics.median(seconds[name]) / 1e9 for name, (_, count) in products.items()}
    best = max(rates.values())
    rows = []
    for name in networks:
        median = statistics.median(seconds[name])
        rows.append(
            {
                "form": name, "difference": differences[name], "seconds": median,
                "p95": seconds[name][round(0.95 * (options.repeats - 1))],
                "gflop": operations[name] / 1e9, "fraction_of_peak": operations[name] / median / 1e9 / best,
            }
        )  # fmt: skip
    print("| form | GFLOP | times faster | p95 / median | share of the peak | largest difference of probability |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['form']} | {row['gflop']:.1f} | {rows[0]['seconds'] / row['seconds']:.2f} | "
            f"{row['p95'] / row['seconds']:.2f} | {100 * row['fraction_of_peak']:.0f} % | {row['difference']:.0e} |"
        )
    memory = [in_own_process(peak_memory, form, options) for form in (PUBLISHED, "inference form, made ready")]
    print(f"\nPeak of memory of the last form: {memory[1] / memory[0]:.2f} of the published form's")
    print("\nPeak: " + ", ".join(f"{name} {rate / best:.2f}" for name, rate in rates.items()) + " of the best")
    if options.json:
        found = {
            "rows": rows, "peak_memory_mib": memory, "peak_gflops": rates, "batch": options.batch,
            "width": options.width,
            "environment": provenance(torch.device("cpu")),
        }  # fmt: skip
        storage.write_text(options.json, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
