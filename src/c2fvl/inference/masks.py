"""Probability maps → the class of each pixel, at the network's resolution or the original one. No torch."""

import cv2
import numpy as np

THRESHOLD = 0.5


def check_probability(probability: np.ndarray) -> None:
    """Raise `ValueError` for a map that holds anything but probabilities, such as NaN after an overflow."""
    lowest, highest = float(probability.min()), float(probability.max())
    if not (lowest >= -1e-5 and highest <= 1 + 1e-5):  # a NaN fails too
        raise ValueError(
            f"the probability map holds values from {lowest:g} to {highest:g}, expected 0 to 1; the network overflows "
            "on this image, or its weights are damaged, so there is no mask"
        )


def to_labels(probability: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Return the class of each pixel (H, W) uint8: lesion from the threshold on, or the most probable of several."""
    if probability.ndim == 2:
        return (probability >= threshold).astype(np.uint8)
    return probability.argmax(axis=0).astype(np.uint8)


def to_original(probability: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the probability map, (S, S) or (C, S, S), bilinearly resized to (height, width) of the image."""
    if probability.shape[-2:] == tuple(shape):
        return probability
    if probability.ndim == 3:
        return np.stack([to_original(of_class, shape) for of_class in probability])
    return cv2.resize(probability, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
