"""Two thousand images of all sizes and formats through predict, some of them damaged."""

import json
import random
import shutil
from pathlib import Path

import cv2
import numpy as np
from outcome import Outcome, Stage, in_child, resident

from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import collect
from c2fvl.inference.to_folder import predict_to_folder

COUNT = 2000
MAX_GROWTH = 50 * 2**20
SIDES = (1, 2, 3, 7, 31, 32, 33, 64, 100, 224, 255, 257, 640)


def predict_images(stage: Stage, models: list[Path]) -> Outcome:
    """Predict 2 000 images by each model in turn until the time is over."""
    outcome = Outcome("images")
    for number, draw in stage.rounds():
        folder = stage.folder / f"images-{number}"
        damaged = _write_images(folder / "in", draw)
        model = models[number % len(models)]
        result, error = in_child(lambda model=model, folder=folder: _predict(model, folder), seconds=1200)
        if error:
            outcome.fail(f"{folder} by {model.name}: {error}")
            continue
        failed, growth = result
        outcome.tried[f"images by {model.name}"] += COUNT
        outcome.tried["damaged images"] += len(damaged)
        wrong = [
            *(f"{name} is damaged and was predicted" for name in sorted(damaged - failed)),
            *(f"{name} is whole and was not predicted" for name in sorted(failed - damaged)),
            *([f"{growth >> 20} MiB more after {COUNT} images"] if growth > MAX_GROWTH else []),
            *_faults(folder, damaged),
        ]
        for what in wrong:
            outcome.fail(f"{folder}: {what}")
        if not wrong:
            shutil.rmtree(folder)
    return outcome


def _write_images(folder: Path, draw: random.Random) -> set[str]:
    """Write the images and return the stems of those that nothing can read."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(draw.randrange(2**32))
    damaged = set()
    for number in range(COUNT):
        shape = draw.choice(SIDES), draw.choice(SIDES)
        kind = draw.choice(("grey", "colour", "deep", "jpg", "tif"))
        dtype = np.uint16 if kind == "deep" else np.uint8
        pixels = generator.integers(0, np.iinfo(dtype).max, shape + ((3,) if kind == "colour" else ()), dtype)
        path = folder / f"{number:04}.{kind if kind in ('jpg', 'tif') else 'png'}"
        data = cv2.imencode(path.suffix, pixels)[1].tobytes()
        if draw.random() < 0.02:
            damaged.add(path.stem)
            data = draw.choice((b"", b"no image", data[:20]))
        path.write_bytes(data)
    return damaged


def _predict(model: Path, folder: Path) -> tuple[set[str], int]:
    """Return the stems of the images that failed, and the bytes that the process has grown by since the first 500."""
    requests = collect([str(folder / "in")])
    failed, begin = set(), 0
    for number, (request, record) in enumerate(
        zip(requests, predict_to_folder(Predictor(model), requests, folder / "out"), strict=True)
    ):
        if isinstance(record, Exception) or "error" in record:
            failed.add(request.image.stem)
        if number == COUNT // 4:
            begin = resident()
    return failed, resident() - begin


def _faults(folder: Path, damaged: set[str]) -> list[str]:
    """Return what is wrong with the masks that were written."""
    found = []
    for path in sorted((folder / "in").iterdir()):
        mask = folder / "out" / f"{path.stem}.png"
        if path.stem in damaged:
            if mask.exists():
                found.append(f"{mask} is there")
            continue
        shape = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape[:2]
        mask_pixels = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        if mask_pixels is None or mask_pixels.shape != shape or not set(np.unique(mask_pixels)) <= {0, 255}:
            found.append(f"{mask} is no mask of {shape[0]}×{shape[1]}")
        json.loads((folder / "out" / f"{path.stem}.json").read_text())
    return found
