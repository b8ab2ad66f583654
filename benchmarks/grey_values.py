"""What damaged grey values cost, what the check of grey values repairs and says, and what slips through.

    python benchmarks/grey_values.py MODEL ROOT [--split val] [--num-images 120] [--threads 1]

Each image, taken for one of 12 bits, is damaged in each of the ways that occur: read with the wrong number of bits,
cut to 8 bits, shown in a senseless window, inverted. Prints the mean Dice without a report of the damaged image as it
is and after the check, the fraction with a warning, and the fraction that fails in silence: a Dice more than 10 points
below that of the sound image, and no warning. The last lines count warnings on sound images.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from c2fvl.data.scan import scan
from c2fvl.files.images import read_mask
from c2fvl.files.read_picture import read_picture
from c2fvl.files.sanity import check_grey_values
from c2fvl.inference.predictor import Predictor
from c2fvl.metrics.overlap import dice, overlap

MAX_LOSS = 0.1


def marked(values: np.ndarray, side: int) -> np.ndarray:
    """Return 16-bit values with a white marker in a corner."""
    values = values.copy()
    values[6 : 6 + side, 6 : 6 + side] = 65535
    return values / 65535


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the values in the window between two percentiles, with 8 bits."""
    first, last = np.percentile(values, (low, high))
    return np.rint(255 * np.clip((values - first) / max(last - first, 1), 0, 1)) / 255


DAMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda v: v / 4095,
    "stretched to percentiles 0.5 and 99.5": lambda v: between(v, 0.5, 99.5),
    "12 bits read as 16": lambda v: v / 65535,
    "12 bits read as 16, marker of 0.2 %": lambda v: marked(v, 10),
    "12 bits read as 16, marker of 1.8 %": lambda v: marked(v, 30),
    "10 bits read as 16": lambda v: (v // 4) / 65535,
    "14 bits read as 16": lambda v: v * 4 / 65535,
    "12 bits cut to 8: read as 16": lambda v: (v // 16 // 16) / 255,
    "12 bits cut to 8: lower byte": lambda v: (v % 256) / 255,
    "12 bits cut to 8: over 255 is white": lambda v: np.minimum(v, 255) / 255,
    "inverted": lambda v: (4095 - v) / 4095,
    "12 bits read as 16, inverted": lambda v: (4095 - v) / 65535,
    "16-bit table over 4095": lambda v: np.minimum(v * 16, 4095) / 4095,
    "window between percentiles 25 and 75": lambda v: between(v, 25, 75),
    "window between percentiles 40 and 60": lambda v: between(v, 40, 60),
    "window between percentiles 15 and 85": lambda v: between(v, 15, 85),
    "window between percentiles 10 and 90": lambda v: between(v, 10, 90),
    "window over the lower half": lambda v: np.minimum(v * 2, 4095) / 4095,
    "window over the upper half": lambda v: np.maximum(v * 2.0 - 4095, 0) / 4095,
    "contrast of 20 %": lambda v: np.rint(100 + 0.2 * v / 16) / 255,
    "contrast of 10 %": lambda v: np.rint(110 + 0.1 * v / 16) / 255,
    "contrast of 5 %": lambda v: np.rint(115 + 0.05 * v / 16) / 255,
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("root", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--num-images", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    predictor = Predictor(options.model)
    cases = scan(options.root, options.split)
    chosen = cases[:: max(1, len(cases) // options.num_images)][: options.num_images]
    generator = np.random.default_rng(0)
    sound, rows = np.zeros(len(chosen)), {}
    for index, case in enumerate(chosen):
        grey = read_picture(case.image).pixels * 4095
        values = np.clip(np.rint(grey + generator.uniform(-8, 8, grey.shape)), 0, 4095)  # as 12 bits, without steps
        mask = read_mask(case.mask)

        def score(pixels: np.ndarray, mask: np.ndarray = mask) -> float:
            return dice(overlap(predictor(pixels.astype(np.float32)).mask, mask))

        for name, damage in DAMAGES.items():
            damaged = damage(values).astype(np.float32)
            checked = check_grey_values(damaged)
            as_is = score(damaged)
            if name == "none":
                sound[index] = as_is
            after = as_is if checked.pixels is damaged else score(checked.pixels)
            silent = after < sound[index] - MAX_LOSS and not checked.warnings
            rows.setdefault(name, []).append((as_is, after, bool(checked.warnings), silent))
    print(f"{len(chosen)} images; Dice as it is, Dice after the check, % with a warning, % that fail in silence")
    for name, found in rows.items():
        as_is, after, warned, silent = np.mean(found, axis=0)
        print(f"{name:42} {100 * as_is:5.1f} {100 * after:5.1f} {100 * warned:5.1f} {100 * silent:5.1f}")
    remarks = [read_picture(case.image).warnings for case in cases]
    print(f"{sum(map(bool, remarks))} of {len(cases)} sound images have a warning")
    for case, said in zip(cases, remarks, strict=True):
        for remark in said:
            print(f"  {case.id}: {remark}")


if __name__ == "__main__":
    main()
