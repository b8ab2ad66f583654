"""The benefit of right reports and the harm of wrong ones at each trust, and the default trust that follows.

For a network that reads the image before the report. Every image is encoded once; its mask is then decoded for each
perturbation of its report and each trust.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from c2fvl.checkpoints.folders import SETTINGS, TRUST_CURVE
from c2fvl.checkpoints.model_files import check_target, write_changed
from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.config_files import to_toml
from c2fvl.data.batches import EpochBatches, iterate_batches
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.part import Part
from c2fvl.data.perturbations import perturb_reports
from c2fvl.data.prefetch import prefetch
from c2fvl.data.scan import fingerprint, mask_fingerprint
from c2fvl.files import storage
from c2fvl.inference.cases import dataset_of
from c2fvl.inference.masks import check_probability, to_labels, to_original
from c2fvl.inference.torch_engine import inference_form, probabilities
from c2fvl.metrics.intervals import Bootstrap
from c2fvl.metrics.overlap import dice, overlap
from c2fvl.models.output import TrustNetwork
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.encoders import FindingsEncoder
from c2fvl.reports.findings import TRUST

TRUSTS = (0.0, 0.02, 0.05, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3, 0.5, 0.8, 1.0)
WRONG = ("shuffled", "sides_exchanged", "zone_off")
"""Perturbations that limit the default."""
MAX_HARM = {"shuffled": 1.0, "sides_exchanged": 1.0, "zone_off": 2.0}
"""Points of Dice below no report that each may cost at the default trust."""

Scores = dict[str, np.ndarray]
"""Dice per image (number of trusts, number of images), for right reports and each perturbation."""


def fit_trust(
    model: TrainedModel,
    part: Part,
    *,
    trusts: Sequence[float] = TRUSTS,
    keep: bool = False,
    out: Path | str | None = None,
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Return Dice per image with right and with wrong reports at each trust, and the default that is chosen.

    The default is the highest trust at which no perturbation of `WRONG` costs more than `MAX_HARM` against no report,
    averaged over the images. "held_out" says what such a choice does on other images: the default of each half of
    the patients, drawn by the seed of `part`, is scored on the other half. `keep` writes the default to the settings of
    the model folder, and the curve beside them; `out` writes both to a copy of the folder, as models of the package
    need it.

    Raises `ValueError` for a network without a trust, and for images without any readable report.
    """
    if not isinstance(model.network, TrustNetwork):
        raise ValueError(
            f"{model.path} holds the network {model.config.model.name}, which has no trust; it is for filmfirst"
        )
    images = dataset_of(model, part.with_text("right"))
    if not images.num_readable:
        raise ValueError(f"{part.root} ({part.split}): no image has a readable report, so there is nothing to trust")
    if keep or out is not None:
        check_target(model.path, out, "c2fvl fit-trust")
    trusts = sorted({0.0, *map(float, trusts)})
    scores = _score(model, images, trusts, seed=part.seed, batch_size=batch_size, progress=progress)
    found = _curve(images, scores, trusts) | {
        "held_out": _held_out(images, scores, trusts, part.seed),
        "weights_sha256": model.metrics.get("weights_sha256"),
        "measured_on": {
            "root": Path(part.root).resolve().name, "split": part.split, "num_cases": len(images), "seed": part.seed,
            "fingerprint": fingerprint(images.cases), "masks": mask_fingerprint(images.cases),
        },
    }  # fmt: skip
    if keep or out is not None:
        chosen = model.with_trust(found["default"])
        changed = {TRUST_CURVE: storage.json_bytes(found), SETTINGS: to_toml(chosen.config).encode()}
        write_changed(model.path, changed, out)
    return found


def _score(
    model: TrainedModel,
    images: CaseDataset,
    trusts: Sequence[float],
    *,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> Scores:
    """Return the Dice of every image at its original resolution, with every report at every trust."""
    texts = {name: _texts(images, name, seed) for name in ("right", *WRONG)}
    scores = {name: np.empty((len(trusts), len(images))) for name in texts}
    device = next(model.network.parameters()).device
    network = inference_form(model, batch_size=batch_size)
    assert isinstance(network, TrustNetwork)

    def predictions() -> Iterator[tuple[str, int, int, np.ndarray, np.ndarray | None]]:
        first = 0
        for batch in iterate_batches(images, EpochBatches(len(images), batch_size), workers=0):
            indices = range(first, first + len(batch.ids))
            first += len(batch.ids)
            with torch.inference_mode():
                encoded = network.encode_image(batch.to(device).image)
                for name, rows in texts.items():
                    given = torch.from_numpy(rows[indices.start : indices.stop]).to(device)
                    for step, trust in enumerate(trusts):
                        if name != "right" and trust == 0:
                            continue  # the image alone, whatever the report says
                        decoded = _decode(network, encoded, given, trust)
                        for row, index in enumerate(indices):
                            yield name, step, index, decoded[row], batch.original_masks[row]
            progress.advance(first, len(images))

    def score(prediction: tuple[str, int, int, np.ndarray, np.ndarray | None]) -> None:
        name, step, index, probability, mask = prediction
        assert mask is not None
        check_probability(probability)
        scores[name][step, index] = dice(overlap(to_labels(to_original(probability, mask.shape)), mask))

    for _ in prefetch(score, predictions(), maximum=16 * batch_size):
        pass
    for name in WRONG:
        scores[name][0] = scores["right"][0]
    return scores


def _texts(images: CaseDataset, perturbation: str, seed: int) -> np.ndarray:
    """Return the findings (N, 1, 9) of all images with perturbed reports."""
    encoder = images.encoder
    assert isinstance(encoder, FindingsEncoder)
    return np.stack([encoder.encode(case.report) for case in perturb_reports(images.cases, perturbation, seed=seed)])


def _decode(network: TrustNetwork, encoded: Any, text: torch.Tensor, trust: float) -> np.ndarray:
    text = text.clone()
    text[:, :, TRUST] = trust
    return probabilities(network.decode(encoded, text)).cpu().numpy()


def _curve(images: CaseDataset, scores: Scores, trusts: Sequence[float]) -> dict[str, Any]:
    """Return the points of the curve and the default that follows from them."""
    bootstrap = Bootstrap([case.group for case in images.cases])
    none = scores["right"][0]
    gain = float((scores["right"][-1] - none).mean())
    points: list[dict[str, Any]] = []
    bounded = _within_bounds(scores, np.arange(len(images)))
    for step, trust in enumerate(trusts):
        harm = {name: bootstrap.means(none - scores[name][step])[0].as_dict() for name in WRONG}
        right = scores["right"][step]
        points.append({
            "trust": trust, "right": bootstrap.means(right)[0].as_dict(),
            **{name: bootstrap.means(scores[name][step])[0].as_dict() for name in WRONG},
            "harm": harm, "within_bounds": bool(bounded[step]),
            "benefit_kept": float((right - none).mean()) / gain if gain > 0 else None,
        })  # fmt: skip
    default = trusts[np.flatnonzero(bounded)[-1]]
    return {"default": default, "max_harm": MAX_HARM, "none": bootstrap.means(none)[0].as_dict(), "points": points}


def _within_bounds(scores: Scores, rows: np.ndarray) -> np.ndarray:
    """Return for each trust whether no perturbation costs more than it may on these images; at trust 0 none does."""
    none = scores["right"][0, rows]
    costs = {name: 100 * (none - scores[name][:, rows]).mean(axis=1) for name in WRONG}
    return np.all([costs[name] <= MAX_HARM[name] for name in WRONG], axis=0)


def _held_out(images: CaseDataset, scores: Scores, trusts: Sequence[float], seed: int) -> dict[str, Any] | None:
    """Return the default of each half of the patients and its scores on the other half; None for one patient."""
    groups = [case.group or case.id for case in images.cases]
    names = sorted(set(groups))
    if len(names) < 2:
        return None
    first = {names[index] for index in np.random.default_rng(seed).permutation(len(names))[: len(names) // 2]}
    is_first = np.array([group in first for group in groups])
    chosen = {name: np.empty(len(images)) for name in scores}
    defaults = []
    for own in (is_first, ~is_first):
        step = np.flatnonzero(_within_bounds(scores, np.flatnonzero(own)))[-1]
        defaults.append(trusts[step])
        for name, values in chosen.items():
            values[~own] = scores[name][step, ~own]
    bootstrap = Bootstrap([case.group for case in images.cases])
    none, followed = scores["right"][0], scores["right"][-1]
    gain = float((followed - none).mean())
    return {
        "defaults": defaults,
        "right": bootstrap.means(chosen["right"])[0].as_dict(),
        "harm": {name: bootstrap.means(none - chosen[name])[0].as_dict() for name in WRONG},
        "benefit_kept": float((chosen["right"] - none).mean()) / gain if gain > 0 else None,
    }
