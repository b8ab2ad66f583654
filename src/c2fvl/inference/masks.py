"""Probability maps → the class of each pixel, at the network's resolution or the original one. No torch."""

import cv2
import numpy as np

THRESHOLD = 0.5


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
