"""Tar shards beside the folder that they were written from, and what a film costs before a network sees it.

    python benchmarks/shards.py [--cases 20000] [--rounds 5] [--folder DIR] [--json FILE]

Writes a data set of many small synthetic films and its shards. Folder and shards are read in turn, image and mask of
each case in one random order, as training reads them: from the disk (the system is asked to forget the files before)
and from its memory; then decoded and resized. What is printed are ratios of the same run. Memory is that of the process
after a part of the cases and after all. The last table is for films of full size, on one core.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from c2fvl.checkpoints.provenance import provenance
from c2fvl.config import DataConfig
from c2fvl.data.cases import Case
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.data.scan import scan
from c2fvl.data.shard_writer import cases_of, write_shards
from c2fvl.files import shards, storage
from c2fvl.files.read_picture import read_picture
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import collect
from c2fvl.inference.speed import resident
from c2fvl.inference.to_folder import predict_to_folder

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.dicom import as_bytes, film

DRAWN = 100
"""Films that are drawn; the others are copies of them under other names."""
DECODED = 2000
FILM = (3056, 2544)
"""Rows and columns of a common detector."""


def write_films(folder: Path, num_cases: int) -> Path:
    """Write the data set; return its root."""
    drawn, root = folder / "drawn", folder / "films"
    write_phantom(drawn, num_cases=DRAWN, seed=0, size=224)
    cases = [case for split in ("train", "val", "test") for case in scan(drawn, split)]
    contents = [(case.image.read_bytes(), case.mask.read_bytes()) for case in cases if case.mask is not None]
    rows = ["Image,Description"]
    for number in range(num_cases):
        name, (image, mask) = f"film-{number:06d}.png", contents[number % len(contents)]
        storage.write_bytes(root / "Train_Folder/img" / name, image, durable=False)
        storage.write_bytes(root / "Train_Folder/labelcol" / f"mask_{name}", mask, durable=False)
        rows.append(f'mask_{name},"{cases[number % len(cases)].report}"')
    storage.write_text(root / "Train_Folder/Train_text.csv", "\n".join(rows))
    return root


def forget(files: Iterable[Path]) -> None:
    """Ask the system to drop files from its memory."""
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def seconds(act: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def read_all(cases: Sequence[Case], order: np.ndarray) -> None:
    """Read image and mask of each case."""
    for index in order:
        case = cases[index]
        shards.read_bytes(case.image)
        shards.read_bytes(case.mask or case.image)


def measure_reading(root: Path, out: Path, rounds: int) -> dict[str, Any]:
    """Return seconds of folder and shards, in turn, for each way of reading."""
    roots, times = {"folder": root, "shards": out}, {}
    files = {name: [file for file in at.rglob("*") if file.is_file()] for name, at in roots.items()}
    settings = DataConfig(image_size=224, image_cache="none", text="none", missing_reports="allow")
    generator = np.random.default_rng(0)
    for number in range(rounds):
        order = generator.permutation(len(scan(root)))
        for name, at in roots.items() if number % 2 == 0 else reversed(roots.items()):
            cases: list[Case] = []
            times.setdefault(("list the cases", name), []).append(seconds(lambda c=cases, a=at: c.extend(scan(a))))
            dataset = CaseDataset(cases, settings)
            forget(files[name])
            times.setdefault(("read from the disk", name), []).append(seconds(lambda c=cases, o=order: read_all(c, o)))
            times.setdefault(("read from memory", name), []).append(seconds(lambda c=cases, o=order: read_all(c, o)))
            few = order[:DECODED]
            times.setdefault(("decode and resize", name), []).append(
                seconds(lambda d=dataset, o=few: [d.stored(int(index)) for index in o])
            )
    found = {}
    for what in dict.fromkeys(what for what, _ in times):
        folder, sharded = times[what, "folder"], times[what, "shards"]
        count = DECODED if what == "decode and resize" else len(order)
        found[what] = {
            "cases": min(count, len(order)),
            "folder_seconds": statistics.median(folder), "shards_seconds": statistics.median(sharded),
            "folder_over_shards": statistics.median(a / b for a, b in zip(folder, sharded, strict=True)),
            "ratios": [round(a / b, 3) for a, b in zip(folder, sharded, strict=True)],
        }  # fmt: skip
    return found


def measure_memory(out: Path, model: str, masks: Path) -> dict[str, float]:
    """Return MiB of the process while `predict` goes through all shards, and its images per second."""
    predictor, requests = Predictor(model, batch_size=8), collect([str(out)])
    found = {"listed": resident() / 2**20}
    parts = {len(requests) * tenths // 10: f"{tenths} tenths" for tenths in (1, 2, 4, 6, 8, 10)}
    began = time.perf_counter()
    for number, _ in enumerate(predict_to_folder(predictor, requests, masks), start=1):
        if number in parts:
            found[parts[number]] = resident() / 2**20
    return {**found, "images_per_second": number / (time.perf_counter() - began)}


def full_size_films() -> dict[str, bytes]:
    """Return one film of full size in the formats that archives hold."""
    generator = np.random.default_rng(0)
    smooth = cv2.resize(generator.normal(0.5, 0.2, (48, 40)), FILM[::-1], interpolation=cv2.INTER_CUBIC)
    values = np.clip(smooth + generator.normal(0, 0.01, FILM), 0, 1)
    grey, deep = (values * 255).astype(np.uint8), (values * 4095).astype(np.uint16)
    films = {
        "PNG, 8 bits": cv2.imencode(".png", grey)[1].tobytes(),
        "JPEG of quality 95": cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes(),
        "PNG, 16 bits": cv2.imencode(".png", deep * 16)[1].tobytes(),
    }
    known = {"bits": 12, "WindowCenter": 2048, "WindowWidth": 4096, "PixelSpacing": [0.139, 0.139]}
    for name, syntax in (("uncompressed", None), ("JPEG 2000", JPEG2000Lossless), ("JPEG-LS", JPEGLSLossless)):
        dataset = film(deep, **known)
        if syntax is not None:
            dataset.compress(syntax)
        films[f"DICOM, 12 bits, {name}"] = as_bytes(dataset)
    return films


def measure_films(model: str, rounds: int) -> dict[str, Any]:
    """Return for each format MB and milliseconds of each step of `predict`, the least of some rounds."""
    predictor, found = Predictor(model), {}
    for name, data in full_size_films().items():
        picture = read_picture(data)
        prepared = predictor.prepare(picture)
        steps = {
            "decode_ms": lambda data=data: read_picture(data),
            "resize_ms": lambda picture=picture: predictor.prepare(picture),
            "network_ms": lambda prepared=prepared: predictor.run([prepared]),
        }
        least = {step: min(seconds(act) for _ in range(rounds)) for step, act in steps.items()}
        found[name] = {"megabytes": len(data) / 1e6} | {step: 1e3 * value for step, value in least.items()}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="small")
    parser.add_argument("--folder", type=Path, help="where about 1 GB is free (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        root, out = write_films(Path(name), options.cases), Path(name) / "shards"
        cases = cases_of(root)
        written = seconds(lambda: write_shards(cases, out))
        found = {
            "cases": options.cases, "write_seconds": written,
            "megabytes": sum(file.stat().st_size for file in out.iterdir()) / 1e6,
            "reading": measure_reading(root, out, options.rounds),
            "memory_mib": measure_memory(out, options.model, Path(name) / "masks"),
            "films": measure_films(options.model, options.rounds),
            "provenance": provenance(torch.device("cpu")),
        }  # fmt: skip
    print(json.dumps(found, indent=2, default=str))
    if options.json is not None:
        storage.write_text(options.json, json.dumps(found, indent=2, default=str))


if __name__ == "__main__":
    main()
