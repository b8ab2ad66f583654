"""Out-of-distribution detection: does an image look like those that the network was trained on? No torch, no network.

Every image is averaged to a thumbnail of 16 × 16 pixels with mean 0 and standard deviation 1, which gets two scores:
`kind`, its distance from the training images along their principal axes (a Mahalanobis distance) and across them; and
`pose`, a least-squares discrimination of the training images from the same images flipped, turned by a quarter, or with
black and white exchanged. Images beyond the limits, which few training images are, and images without contrast are
flagged, and so is noise, of which nothing remains in a thumbnail. The scores say nothing about diseases.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as to_safetensors

SIDE = 16
NUM_AXES, NUM_KIND_AXES = 48, 32
MIN_CONTRAST = 0.01
"""An image whose brightness, from 0 to 1, has a smaller standard deviation is blank."""
MIN_COARSE = 0.4
"""Of noise, less of the standard deviation remains in the thumbnail; of films and CT slices 0.57 and more remains."""
FRACTION_BEYOND = 0.005
"""The fraction of the training images beyond each limit."""
MIN_IMAGES = 4 * NUM_AXES
NUM_FOLDS = 5
_SMOOTHING, _RIDGE, _MAX_SQUARE = 0.02, 10.0, 16.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OodScore:
    """How an image compares with the training images."""

    kind: float
    """1 or more is beyond the limit; 0 for a blank image."""
    pose: float
    """1 or more is beyond the limit; 0 for a blank image."""
    reasons: tuple[str, ...]
    """Why the image is flagged, in words; empty if it is not."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "is_in_distribution": not self.reasons,
            "kind": round(self.kind, 3),
            "pose": round(self.pose, 3),
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True)
class OodDetector:
    """The distribution of the thumbnails of a training split."""

    mean: Floats = field(repr=False)
    """(256,) mean thumbnail."""
    axes: Floats = field(repr=False)
    """(256, 48) principal axes, largest variance first."""
    variances: Floats = field(repr=False)
    """(48,) variances along the axes."""
    weights: Floats = field(repr=False)
    """(1 + 256 + 48,) weights of the discrimination."""
    limits: Floats
    """(3,): mean square across the axes, and the limits of kind and pose."""

    @classmethod
    def fit(cls, thumbnails: Floats) -> "OodDetector":
        """Return the distribution of thumbnails (N, 256), as `thumbnail` makes them, and of their mirror images.

        Raises `ValueError` for fewer than `MIN_IMAGES`.
        """
        if len(thumbnails) < MIN_IMAGES:
            raise ValueError(
                f"{len(thumbnails)} images with contrast are too few to fit the out-of-distribution check; expected "
                f"{MIN_IMAGES} or more"
            )
        fold = np.arange(len(thumbnails)) % NUM_FOLDS  # the limits come from images that were held out
        kinds, poses = [], []
        for held_out in range(NUM_FOLDS):
            fitted = cls._fit(thumbnails[fold != held_out])
            upright = _upright(thumbnails[fold == held_out])
            kinds.append(fitted._kind(upright))
            poses.append(fitted._features(upright) @ fitted.weights)
        detector = cls._fit(thumbnails)
        kind = float(np.quantile(np.concatenate(kinds), 1 - FRACTION_BEYOND))
        pose = float(np.quantile(np.concatenate(poses), FRACTION_BEYOND))
        return replace(detector, limits=np.array([detector.limits[0], kind, pose]))

    @classmethod
    def _fit(cls, thumbnails: Floats) -> "OodDetector":
        """Return the distribution of thumbnails, with limits of 1."""
        upright = _upright(thumbnails)
        mean = upright.mean(0)
        values, vectors = np.linalg.eigh(np.cov(upright.T) + _SMOOTHING * np.eye(SIDE**2))
        axes, variances = vectors[:, ::-1][:, :NUM_AXES], values[::-1][:NUM_AXES]
        along = (upright - mean) @ axes[:, :NUM_KIND_AXES]
        across = (((upright - mean) ** 2).sum(1) - (along**2).sum(1)).mean()
        detector = cls(mean, axes, variances, np.zeros(1 + SIDE**2 + NUM_AXES), np.array([across, 1.0, 1.0]))
        wrong = [_changed(thumbnails, change) for _, change in _WRONG]
        features = np.concatenate([detector._features(group) for group in (upright, *wrong)])
        targets = np.concatenate([np.ones(len(upright)), -np.ones(sum(map(len, wrong)))])
        balance = np.where(targets > 0, 1 / len(upright), 1 / sum(map(len, wrong))) * len(targets)
        weighted = (features * balance[:, None]).T
        weights = np.linalg.solve(weighted @ features + _RIDGE * np.eye(features.shape[1]), weighted @ targets)
        return replace(detector, weights=weights)

    def score(self, image: np.ndarray) -> OodScore:
        """Return the scores of an image (H, W) or (H, W, 3) in [0, 1]."""
        if image.std() < MIN_CONTRAST:
            return OodScore(0.0, 0.0, ("it is blank: its brightness hardly varies",))
        found = self.score_thumbnail(thumbnail(image))
        if _coarse_contrast(image) < MIN_COARSE:
            return replace(found, reasons=(*found.reasons, "its contrast lies in single pixels, as in noise"))
        return found

    def score_thumbnail(self, values: Floats) -> OodScore:
        """Return the scores of a thumbnail (256,)."""
        _, kind_limit, pose_limit = self.limits
        kind = float(self._kind(values[None])[0] / kind_limit)
        # 1 at the limit, 0 for an image that is certainly upright
        pose = float((1 - self._features(values[None]) @ self.weights)[0] / (1 - pose_limit))
        reasons = []
        if kind >= 1:
            reasons.append("it does not look like the images that the network was trained on")
        if pose >= 1:
            reasons.append("it looks flipped, turned by a quarter, or with black and white exchanged")
        return OodScore(kind, pose, tuple(reasons))

    def to_bytes(self) -> bytes:
        """Return the detector as safetensors."""
        return to_safetensors({name: np.ascontiguousarray(getattr(self, name), np.float32) for name in _SHAPES})

    @classmethod
    def from_bytes(cls, data: bytes, *, where: Path | str) -> "OodDetector":
        """Return the detector of `to_bytes`. Raises `ValueError`, which names `where`, for anything else."""
        try:
            arrays = parse_safetensors(data)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{where} is damaged: {error}") from error
        wrong = [name for name, shape in _SHAPES.items() if name not in arrays or arrays[name].shape != shape]
        if wrong or not all(np.isfinite(values).all() for values in arrays.values()):
            raise ValueError(f"{where} is no out-of-distribution check: {', '.join(wrong) or 'not finite'}")
        return cls(**{name: arrays[name].astype(np.float64) for name in _SHAPES})

    def _kind(self, thumbnails: Floats) -> Floats:
        centred = thumbnails - self.mean
        along = centred @ self.axes[:, :NUM_KIND_AXES]
        across = (centred**2).sum(1) - (along**2).sum(1)
        return np.asarray((along**2 / self.variances[:NUM_KIND_AXES]).mean(1) + across / self.limits[0])

    def _features(self, thumbnails: Floats) -> Floats:
        centred = thumbnails - self.mean
        squares = np.minimum((centred @ self.axes) ** 2 / self.variances, _MAX_SQUARE)
        return np.concatenate([np.ones((len(thumbnails), 1)), centred, squares], axis=1)


def thumbnail(image: np.ndarray) -> Floats:
    """Return an image (H, W) or (H, W, 3) as a thumbnail (256,) with mean 0 and standard deviation 1."""
    small = _small(_grey(image))
    centred = small.astype(np.float64) - small.mean()
    return np.asarray(centred / max(float(centred.std()), _SMOOTHING))


def _grey(image: np.ndarray) -> np.ndarray:
    return (image if image.ndim == 2 else image.mean(axis=2)).astype(np.float32, copy=False)


def _small(grey: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)).ravel()


def _coarse_contrast(image: np.ndarray) -> float:
    """Return the fraction of the standard deviation of an image that remains in its thumbnail."""
    grey = _grey(image)
    return float(_small(grey).std() / max(float(grey.std()), 1e-9))


def fraction_flagged(detector: OodDetector, thumbnails: Floats) -> dict[str, float]:
    """Return the fraction of thumbnails (N, 256) that are flagged, as they are and changed."""
    changes = (("as they are", lambda grid: grid), ("mirrored", _mirror), *_WRONG)
    return {
        name: float(np.mean([bool(detector.score_thumbnail(row).reasons) for row in _changed(thumbnails, change)]))
        for name, change in changes
    }


def _upright(thumbnails: Floats) -> Floats:
    """Return the thumbnails and their mirror images."""
    return np.concatenate([thumbnails, _changed(thumbnails, _mirror)])


def _mirror(grid: Floats) -> Floats:
    return grid[:, :, ::-1]


_WRONG = (
    ("upside down", lambda grid: grid[:, ::-1]),
    ("turned by half", lambda grid: grid[:, ::-1, ::-1]),
    ("turned left", lambda grid: np.rot90(grid, 1, axes=(1, 2))),
    ("turned right", lambda grid: np.rot90(grid, 3, axes=(1, 2))),
    ("black and white exchanged", lambda grid: -grid),
    ("mirrored, black and white exchanged", lambda grid: -grid[:, :, ::-1]),
)
_SHAPES = {
    "mean": (SIDE**2,), "axes": (SIDE**2, NUM_AXES), "variances": (NUM_AXES,),
    "weights": (1 + SIDE**2 + NUM_AXES,), "limits": (3,),
}  # fmt: skip


def _changed(thumbnails: Floats, change: Any) -> Floats:
    return np.asarray(change(thumbnails.reshape(-1, SIDE, SIDE))).reshape(len(thumbnails), -1)
