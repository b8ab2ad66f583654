"""Near duplicates: one image with other grey values, size or compression, slightly cropped or rotated, or mirrored.

All chest films look similar, so an image is first reduced to a sketch of 64 x 64 values: the difference of each value
from its local mean, divided by the local contrast. What all films share, dark lungs in a bright body, and what misleads
a correlation most, the black border of a small film, thus have no more weight than any rib.

Three steps follow, each for the pairs that the step before has left: a perceptual hash of 64 bits (the signs of the
lowest frequencies of the cosine transform) of the sketch and of a few crops of it; the correlation after an affine
registration of one image to the other at 32 x 32 values with few iterations; the same at 64 x 64.

The limits were chosen on the 7145 films of QaTa-COV19 by looking at pairs. The last correlation has a gap there: of the
pairs whose hashes differ in up to 16 bits, 50 have 0.85 to 0.91 and 291 more. All inspected pairs above 0.91 were one
film in two forms, except for one follow-up of the same patient; below, there are such films too, more follow-ups, and
films of two patients with the same black border. CT slices of two patients of MosMedData+ stayed below 0.73. The limits
give 263 pairs, 256 of them among the 291; a search for the others takes eight times as long. A copy that lost more than
about a tenth of its side is not found.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from c2fvl.progress import SILENT, Progress

MIN_CORRELATION = 0.91
"""Two images with this correlation or more count as near duplicates."""
MAX_DISTANCE = 10
"""Bits in which the hashes of two images may differ."""
MAX_CANDIDATES = 400_000
"""Pairs with similar hashes that are compared; if there are more, the hashes must be more similar."""

_SIDE = 64
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_MEAN_WIDTH, _CONTRAST_WIDTH = 3.0, 4.5  # of the Gaussians around a value of the sketch
_MIN_CONTRAST = 0.02  # of the image's range, so that noise in plain regions is not amplified
_CLIP = 2.0
_SCALE = 60.0
_HASH_SIDE, _HASH_FREQUENCIES = 32, 8
_CROPS = ((0, 0, 0, 0), (3, 3, 3, 3), (6, 6, 6, 6), (6, 0, 0, 0), (0, 6, 0, 0), (0, 0, 6, 0), (0, 0, 0, 6))
"""Values cut off above, below, left and right of one sketch, so that its hash can match a cropped image."""
_BLUR = 1.5  # of the sketch at 32 x 32, so that a small crop or rotation changes little
_MIN_BLURRED = 0.7  # before registration; saves the slow steps half of the candidates, and loses 2 % of the pairs
_MIN_COARSE = 0.85  # the near duplicates of QaTa-COV19 had 0.89 and more, of the other candidates 4 % had 0.85
_MIN_OVERLAP = 0.6  # of the image that the registered one covers
_ROWS, _CHUNK = 256, 256


@dataclass(frozen=True)
class Duplicate:
    """Two near duplicates by their indices; `mirrored` if one is similar to the mirror image of the other."""

    first: int
    second: int
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class Search:
    """The near duplicates, highest correlation first, the number of candidates, and the bits allowed to differ."""

    pairs: tuple[Duplicate, ...]
    num_candidates: int
    max_distance: int


def sketch(pixels: NDArray[Any]) -> NDArray[np.int8]:
    """Return the sketch, (64, 64) int8, of an image (H, W) or (H, W, 3) of any size and range."""
    grey = pixels.astype(np.float32) if pixels.ndim == 2 else pixels.astype(np.float32) @ _LUMINANCE
    if grey.min() == grey.max():
        return np.zeros((_SIDE, _SIDE), np.int8)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    detail = small - cv2.GaussianBlur(small, (0, 0), _MEAN_WIDTH)
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), _CONTRAST_WIDTH))
    floor = _MIN_CONTRAST * float(small.max() - small.min())
    return np.rint(_SCALE * np.clip(detail / (contrast + floor + 1e-9), -_CLIP, _CLIP)).astype(np.int8)


def find_duplicates(sketches: NDArray[np.int8], *, workers: int = 1, progress: Progress = SILENT) -> Search:
    """Return the near duplicates among sketches (N, 64, 64); `progress` counts candidates.

    Images of a single value are ignored.
    """
    candidates, limit = _candidates(sketches)
    small = _halved(sketches)
    blurred = np.stack([cv2.GaussianBlur(values, (0, 0), _BLUR) for values in small]) if len(small) else small
    chunks = [candidates[start : start + _CHUNK] for start in range(0, len(candidates), _CHUNK)]
    best: dict[tuple[int, int], Duplicate] = {}
    done = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for chunk, pairs in zip(
            chunks, pool.map(lambda chunk: _confirm(sketches, small, blurred, chunk), chunks), strict=True
        ):
            for pair in pairs:
                known = best.get((pair.first, pair.second))
                if known is None or known.correlation < pair.correlation:
                    best[pair.first, pair.second] = pair
            done += len(chunk)
            progress.advance(done, len(candidates))
    best_first = sorted(best.values(), key=lambda pair: (-pair.correlation, pair.first, pair.second))
    return Search(tuple(best_first), len(candidates), limit)


def _hashes(sketches: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Return the hashes (crops, N) of 64 bits: which low frequencies of a crop of a sketch are above their median."""
    frequencies = np.empty((len(_CROPS), len(sketches), _HASH_FREQUENCIES**2), np.float32)
    for index, values in enumerate(sketches.astype(np.float32)):
        for row, (above, below, left, right) in zip(frequencies[:, index], _CROPS, strict=True):
            crop = values[above : _SIDE - below, left : _SIDE - right]
            small = cv2.resize(crop, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)
            row[:] = cv2.dct(small)[:_HASH_FREQUENCIES, :_HASH_FREQUENCIES].ravel()
    bits = frequencies > np.median(frequencies[:, :, 1:], axis=2, keepdims=True)  # the first is the mean
    return np.packbits(bits, axis=2).view(np.uint64)[:, :, 0]


def _candidates(sketches: NDArray[np.int8]) -> tuple[NDArray[np.int64], int]:
    """Return rows of (first, second, 1 if the second is mirrored, distance), and the distance allowed."""
    hashes = _hashes(sketches)
    others = (hashes, _hashes(sketches[:, :, ::-1]))
    usable = (sketches != 0).any(axis=(1, 2))
    candidates = [np.empty((0, 4), np.int64)]
    counts = np.zeros(65, np.int64)
    limit = MAX_DISTANCE
    for start in range(0, len(sketches), _ROWS):
        rows = slice(start, start + _ROWS)
        upper = np.arange(start, len(sketches)) > np.arange(len(sketches))[rows, None]
        upper &= usable[start:] & usable[rows, None]
        for is_mirrored in (0, 1):
            distances = _distances(hashes[:, rows], others[is_mirrored][:, start:])
            first, second = np.nonzero(upper & (distances <= limit))
            near = distances[first, second].astype(np.int64)
            candidates.append(np.stack([first + start, second + start, np.full(len(first), is_mirrored), near], axis=1))
            counts += np.bincount(near, minlength=65)
            if counts.sum() > MAX_CANDIDATES and limit > 0:
                limit = max(int(np.searchsorted(counts.cumsum(), MAX_CANDIDATES, side="right")) - 1, 0)
                candidates = [entries[entries[:, 3] <= limit] for entries in candidates]
                counts[limit + 1 :] = 0
    return np.concatenate(candidates), limit


def _distances(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the smallest distance (rows, N) of an image, or a crop of it, from another one, or a crop of that."""
    minimum = np.bitwise_count(first[0, :, None] ^ second[0])
    for crop in range(1, len(_CROPS)):
        np.minimum(minimum, np.bitwise_count(first[crop, :, None] ^ second[0]), out=minimum)
        np.minimum(minimum, np.bitwise_count(first[0, :, None] ^ second[crop]), out=minimum)
    return minimum


def _halved(sketches: NDArray[np.int8]) -> NDArray[np.float32]:
    half = (_SIDE // 2, _SIDE // 2)
    small = np.empty((len(sketches), *half), np.float32)
    for target, values in zip(small, sketches, strict=True):
        target[:] = cv2.resize(values.astype(np.float32), half, interpolation=cv2.INTER_AREA)
    return small


def _confirm(
    sketches: NDArray[np.int8], small: NDArray[np.float32], blurred: NDArray[np.float32], candidates: NDArray[np.int64]
) -> list[Duplicate]:
    pairs = []
    for is_mirrored in (False, True):
        chosen = candidates[candidates[:, 2] == is_mirrored, :2]
        columns = slice(None, None, -1 if is_mirrored else 1)
        similar = _correlations(blurred[chosen[:, 0]], blurred[chosen[:, 1]][:, :, columns]) >= _MIN_BLURRED
        for first, second in chosen[similar].tolist():
            if _align(small[first], small[second][:, columns], iterations=5, smoothing=3)[0] < _MIN_COARSE:
                continue
            moving = sketches[second][:, columns].astype(np.float32)
            correlation = _aligned_correlation(sketches[first].astype(np.float32), moving)
            if correlation >= MIN_CORRELATION:
                pairs.append(Duplicate(first, second, round(correlation, 4), is_mirrored))
    return pairs


def _aligned_correlation(fixed: NDArray[np.float32], moving: NDArray[np.float32]) -> float:
    """Return the correlation of two sketches after registration, -1 if they hardly overlap."""
    transform = _align(fixed, moving, iterations=30, smoothing=5)[1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moving = np.ascontiguousarray(moving)
    moved = cv2.warpAffine(moving, transform, (_SIDE, _SIDE), flags=flags).astype(np.float32)
    covered = cv2.warpAffine(np.ones_like(moving), transform, (_SIDE, _SIDE), flags=flags) > 0.99
    if covered.mean() < _MIN_OVERLAP:
        return -1.0
    return float(_correlations(fixed[covered][None], moved[covered][None])[0])


def _align(
    fixed: NDArray[np.float32], moving: NDArray[np.float32], *, iterations: int, smoothing: int
) -> tuple[float, NDArray[np.float32]]:
    """Return the correlation reached, and the affine map (2, 3) from pixels of `fixed` to pixels of `moving`."""
    transform = np.eye(2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, iterations, 1e-3)
    try:
        correlation, transform_found = cv2.findTransformECC(  # type: ignore[call-overload]  # None is allowed: no inputMask
            fixed, np.ascontiguousarray(moving), transform, cv2.MOTION_AFFINE, stop, None, smoothing
        )
    except cv2.error:  # no convergence: the images have nothing in common
        return -1.0, np.eye(2, 3, dtype=np.float32)
    return float(correlation), transform_found.astype(np.float32)


def _correlations(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the correlation of each row of `first` with that of `second`, 0 if one of the two is constant."""
    first, second = (values.reshape(len(values), math.prod(values.shape[1:])) for values in (first, second))
    first, second = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    sizes = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products: NDArray[np.float32] = np.einsum("ij,ij->i", first, second) / np.maximum(sizes, 1e-9)
    return products
