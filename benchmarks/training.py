"""How much faster C2FVL trains than the published form: one optimizer step on a CPU.

    python benchmarks/training.py [--width 64] [--batch 4] [--threads 2] [--repeats 5] [--compile] [--json FILE]

Each form steps in its own process, in turn with the others, so that other load on the machine affects all alike: the
published form (`published_c2fvl.py`) as PyTorch runs it by default, the same with freed memory kept, and our network as
`c2fvl train` runs it. The losses of the first step are compared before the times are printed.
"""

import argparse
import json
import statistics
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from published_c2fvl import PublishedC2FVL
from torch.nn import functional

from c2fvl.checkpoints.provenance import provenance
from c2fvl.files import storage
from c2fvl.inference.speed import resident, resident_peak
from c2fvl.models import Output, build_model
from c2fvl.training.allocator import keep_freed_memory
from c2fvl.training.recompute import recompute_activations

FORMS = ("published form", "published form, memory kept", "our network as it trains", "the same, parts recomputed")
COMPILED = "the same, compiled"
SIDE_FRACTION = 0.1


def work(pipe: Connection, form: str, options: argparse.Namespace) -> None:
    """Take one step for each message and answer with loss, seconds and memory; end at None."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if form != FORMS[0]:
        keep_freed_memory()
    before = resident()
    network = build_model("c2fvl", base_width=options.width, dropout=0.0).train()
    image = torch.rand(options.batch, 3, 224, 224)
    mask = (torch.rand(options.batch, 224, 224) > 0.7).float()
    text = torch.tensor([1, 2, 1, 0, 1, 0, 1, 1.0]).repeat(options.batch, 1, 1)
    if form not in FORMS[:2]:
        network = network.to(memory_format=torch.channels_last)
        if form == FORMS[3]:
            recompute_activations(network)
        image = image.contiguous(memory_format=torch.channels_last)
    else:
        network = PublishedC2FVL.of(network)
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    if form == COMPILED:
        network.compile()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    while pipe.recv() is not None:
        began = time.perf_counter()
        optimizer.zero_grad()
        found = network(image, text)
        ours = isinstance(found, Output)
        probability, sides = (found.logits.sigmoid(), found.aux) if ours else (found[0], found[1:])
        loss = functional.binary_cross_entropy(probability[:, 0], mask)
        for side in sides:
            loss = loss + SIDE_FRACTION * functional.binary_cross_entropy_with_logits(side[:, 0], mask)
        loss.backward()
        optimizer.step()
        pipe.send({"seconds": time.perf_counter() - began, "loss": loss.item(), "memory": resident_peak() - before})


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also by torch.compile; takes minutes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    forms = (*FORMS, COMPILED) if options.compile else FORMS
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    for form in forms:
        pipes[form], theirs = context.Pipe()
        context.Process(target=work, args=(theirs, form, options), daemon=True).start()
        theirs.close()
    answers: dict[str, list[dict[str, Any]]] = {form: [] for form in forms}
    for _ in range(1 + options.repeats):
        for form, pipe in pipes.items():
            pipe.send("step")
            answers[form].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(None)
    first = [answers[form][0]["loss"] for form in forms]
    if max(first) - min(first) > 1e-5:
        raise SystemExit(f"the forms do not compute the same: their first losses are {first}")
    rows = [
        {
            "form": form,
            "seconds": statistics.median(answer["seconds"] for answer in answers[form][1:]),
            "memory": answers[form][-1]["memory"],
        }
        for form in forms
    ]
    print("| form | times faster | peak memory, fraction of the published |")
    print("|---|---:|---:|")
    for row in rows:
        print(
            f"| {row['form']} | {rows[0]['seconds'] / row['seconds']:.2f} | {row['memory'] / rows[0]['memory']:.2f} |"
        )
    if options.json:
        found = {
            "rows": rows, "batch": options.batch, "width": options.width, "threads": options.threads,
            "environment": provenance(torch.device("cpu")),
        }  # fmt: skip
        storage.write_text(options.json, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
