"""Is this a film such as the network was trained on? A small picture of each film, and what is usual among them.

Every film is averaged to 16 × 16 pixels of mean 0 and deviation 1. Two figures are kept apart: `kind`, how far the
picture lies from the training films in the directions in which these differ (a Mahalanobis distance) and across them;
and `pose`, a least-squares discrimination of training films against the same films turned over, turned by a quarter,
or with black and white exchanged. What lies beyond the limits, which few of the training films do, is flagged, and so
is a film without contrast. No torch, no network: it tells nothing of diseases, only of pictures.
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
"""Standard deviation of a film's brightness, of 1, below which there is nothing on it."""
FRACTION_BEYOND = 0.005
"""Share of the training films that lie beyond each limit."""
MIN_IMAGES = 4 * NUM_AXES
NUM_FOLDS = 5
_SMOOTHING, _RIDGE, _MAX_SQUARE = 0.02, 10.0, 16.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OodScore:
    """What a film looks like beside those that the network was trained on."""

    kind: float
    """1 or more lies beyond the limit; 0 for a blank film."""
    pose: float
    """1 or more lies beyond the limit."""
    reasons: tuple[str, ...]
    """In words why it is flagged; empty for a film such as the others."""

    def as_dict(self) -> dict[str, Any]:
        """Return the record of it."""
        return {
            "is_in_distribution": not self.reasons,
            "kind": round(self.kind, 3),
            "pose": round(self.pose, 3),
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True)
class OodDetector:
    """What is usual among the films of a training part."""

    mean: Floats = field(repr=False)
    """(256,) of the small pictures."""
    axes: Floats = field(repr=False)
    """(256, 48) directions of most variance, the first the largest."""
    variances: Floats = field(repr=False)
    """(48,) along them."""
    weights: Floats = field(repr=False)
    """(1 + 256 + 48,) of the discrimination."""
    limits: Floats
    """(3,): mean square across the axes, and the limits of kind and pose."""

    @classmethod
    def fit(cls, pictures: Floats) -> "OodDetector":
        """Return what is usual among small pictures (N, 256), as `picture` makes them, and their mirrored forms.

        Raises `ValueError` for fewer than `MIN_IMAGES`.
        """
        if len(pictures) < MIN_IMAGES:
            raise ValueError(
                f"{len(pictures)} films with contrast are too few to tell what is usual; expected are {MIN_IMAGES} "
                "or more"
            )
        fold = np.arange(len(pictures)) % NUM_FOLDS  # limits come from films that were not fitted to
        kinds, poses = [], []
        for held in range(NUM_FOLDS):
            part = cls._fitted(pictures[fold != held])
            upright = _upright(pictures[fold == held])
            kinds.append(part._kind(upright))
            poses.append(part._features(upright) @ part.weights)
        found = cls._fitted(pictures)
        kind = float(np.quantile(np.concatenate(kinds), 1 - FRACTION_BEYOND))
        pose = float(np.quantile(np.concatenate(poses), FRACTION_BEYOND))
        return replace(found, limits=np.array([found.limits[0], kind, pose]))

    @classmethod
    def _fitted(cls, pictures: Floats) -> "OodDetector":
        """Return what is usual among small pictures, with limits of 1."""
        upright = _upright(pictures)
        mean = upright.mean(0)
        values, vectors = np.linalg.eigh(np.cov(upright.T) + _SMOOTHING * np.eye(SIDE**2))
        axes, variances = vectors[:, ::-1][:, :NUM_AXES], values[::-1][:NUM_AXES]
        along = (upright - mean) @ axes[:, :NUM_KIND_AXES]
        across = (((upright - mean) ** 2).sum(1) - (along**2).sum(1)).mean()
        found = cls(mean, axes, variances, np.zeros(1 + SIDE**2 + NUM_AXES), np.array([across, 1.0, 1.0]))
        wrong = [_turned(pictures, change) for _, change in _WRONG]
        features = np.concatenate([found._features(group) for group in (upright, *wrong)])
        targets = np.concatenate([np.ones(len(upright)), -np.ones(sum(map(len, wrong)))])
        fractions = np.where(targets > 0, 1 / len(upright), 1 / sum(map(len, wrong))) * len(targets)
        weighted = (features * fractions[:, None]).T
        weights = np.linalg.solve(weighted @ features + _RIDGE * np.eye(features.shape[1]), weighted @ targets)
        return replace(found, weights=weights)

    def score(self, image: np.ndarray) -> OodScore:
        """Return how a film (H, W, 3) in [0, 1] looks beside the others."""
        if image.std() < MIN_CONTRAST:
            return OodScore(0.0, 0.0, ("it is blank: its brightness hardly varies",))
        return self.score_thumbnail(thumbnail(image))

    def score_thumbnail(self, small: Floats) -> OodScore:
        """Return the same of a small picture (256,)."""
        _, kind_limit, pose_limit = self.limits
        kind = float(self._kind(small[None])[0] / kind_limit)
        # 1 at the limit, 0 for a film that is surely upright
        pose = float((1 - self._features(small[None]) @ self.weights)[0] / (1 - pose_limit))
        reasons = []
        if kind >= 1:
            reasons.append("it does not look like the films that the network was trained on")
        if pose >= 1:
            reasons.append("it looks turned over, turned by a quarter, or with black and white exchanged")
        return OodScore(kind, pose, tuple(reasons))

    def to_bytes(self) -> bytes:
        """Return it as safetensors."""
        return to_safetensors({name: np.ascontiguousarray(getattr(self, name), np.float32) for name in _SHAPES})

    @classmethod
    def from_bytes(cls, data: bytes, *, where: Path | str) -> "OodDetector":
        """Return what `to_bytes` gave; `ValueError` that names `where` for anything else."""
        try:
            found = parse_safetensors(data)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{where} is damaged: {error}") from error
        wrong = [name for name, shape in _SHAPES.items() if name not in found or found[name].shape != shape]
        if wrong or not all(np.isfinite(values).all() for values in found.values()):
            raise ValueError(f"{where} does not hold what is usual among films: {', '.join(wrong) or 'not finite'}")
        return cls(**{name: found[name].astype(np.float64) for name in _SHAPES})

    def _kind(self, pictures: Floats) -> Floats:
        centred = pictures - self.mean
        along = centred @ self.axes[:, :NUM_KIND_AXES]
        across = (centred**2).sum(1) - (along**2).sum(1)
        return np.asarray((along**2 / self.variances[:NUM_KIND_AXES]).mean(1) + across / self.limits[0])

    def _features(self, pictures: Floats) -> Floats:
        centred = pictures - self.mean
        squares = np.minimum((centred @ self.axes) ** 2 / self.variances, _MAX_SQUARE)
        return np.concatenate([np.ones((len(pictures), 1)), centred, squares], axis=1)


def thumbnail(image: np.ndarray) -> Floats:
    """Return a film (H, W, 3) as a small picture (256,) of mean 0 and deviation 1."""
    small = cv2.resize(image.mean(axis=2).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    centred = small.astype(np.float64) - small.mean()
    return np.asarray(centred / max(float(centred.std()), _SMOOTHING))


def fraction_flagged(ood_detector: OodDetector, pictures: Floats) -> dict[str, float]:
    """Return the share of small pictures (N, 256) of films that are flagged, as they are and changed."""
    changes = (("as they are", lambda grid: grid), ("mirrored", _mirror), *_WRONG)
    return {
        name: float(np.mean([bool(ood_detector.score_thumbnail(small).reasons) for small in _turned(pictures, change)]))
        for name, change in changes
    }


def _upright(pictures: Floats) -> Floats:
    """Return the pictures and their mirrored forms."""
    return np.concatenate([pictures, _turned(pictures, _mirror)])


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


def _turned(pictures: Floats, change: Any) -> Floats:
    return np.asarray(change(pictures.reshape(-1, SIDE, SIDE))).reshape(len(pictures), -1)
