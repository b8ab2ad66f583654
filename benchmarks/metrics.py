"""How long the scores of a case and the intervals of a data set take, as shares of the bounds that the project set.

    python benchmarks/metrics.py [--cases 60] [--repeats 3]

A case is a lesion mask of the phantom, scored against the one of the next film: seldom alike, often several areas. Time
is that of one processor core at work (its own clock, so that other programs do not count), the median over cases. The
draws are 10 000 of 2113 cases in 474 groups, for 40 scores at once, with the medians and quartiles of two.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from c2fvl.data.phantom.draw import draw_case
from c2fvl.metrics.case_scores import score_case
from c2fvl.metrics.intervals import Bootstrap

BOUNDS = {224: 0.005, 1024: 0.060}
BOUND_OF_DRAWS = 2.0
CASES, GROUPS, SCORES = 2113, 474, 40


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print("| what | median, share of the bound | 95th percentile | bound |")
    print("|---|---:|---:|---|")
    for side, bound in BOUNDS.items():
        masks = [draw_case(0, number, size=side).mask for number in range(options.cases)]
        masks = [np.asarray(mask, np.uint8) for mask in masks]
        for name, spacing in (("square pixels", (1.0, 1.0)), ("unequal spacing", (1.0, 1.2))):
            seconds = [
                _seconds(partial(score_case, first, second, spacing=spacing))
                for _ in range(options.repeats)
                for first, second in itertools.pairwise(masks)
            ]
            low, high = statistics.median(seconds) / bound, float(np.percentile(seconds, 95)) / bound
            print(f"| every score of a case of {side}², {name} | {low:.2f} | {high:.2f} | {1000 * bound:.0f} ms |")
    generator = np.random.default_rng(0)
    scores = generator.random((CASES, SCORES))
    groups = [str(group) for group in generator.integers(0, GROUPS, CASES)]

    def draw() -> None:
        bootstrap = Bootstrap(groups)
        bootstrap.means(scores)
        for column in (0, 1):
            bootstrap.quantiles(scores[:, column], (0.25, 0.5, 0.75))

    drawn = [_seconds(draw) for _ in range(options.repeats)]
    fractions = [seconds / BOUND_OF_DRAWS for seconds in drawn]
    print(f"| 10 000 draws of {CASES} cases | {statistics.median(fractions):.2f} | {max(fractions):.2f} | 2 s |")


def _seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


if __name__ == "__main__":
    main()
