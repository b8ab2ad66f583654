"""The record of a segmented CT volume: plain values for JSON. Sides are the patient's. No torch."""

from typing import Any

import numpy as np

from c2fvl.inference.record import model_record, report_record
from c2fvl.inference.volumes import VolumePrediction
from c2fvl.reports.report import Report

EXPERIMENTAL = (
    "Experimental: the model was trained on grey values of single slices; the window {center:g},{width:g} HU was not "
    "validated on CT in HU."
)
ZONES_NOT_USED = (
    "Of a report on a volume only the side and 'no infection' are used, not zones and number; used of this one: {used}"
)
_UNLIKE = "{unlike} of {total} slices are unlike the images that the model was trained on."


def record_of_volume(prediction: VolumePrediction) -> dict[str, Any]:
    """Return the record of a prediction, without the names of files."""
    volume, model = prediction.volume, prediction.model
    is_lesion = prediction.mask > 0
    per_slice = np.count_nonzero(is_lesion, axis=(1, 2))
    by_side = {f"patient_{side}": row for side, row in prediction.voxels_per_side.items()}
    total = int(per_slice.sum())
    return {
        "slices": len(per_slice),
        "height": is_lesion.shape[1],
        "width": is_lesion.shape[2],
        "voxels": total,
        "voxels_fraction": total / is_lesion.size,
        "voxels_per_class": {
            name: int(np.count_nonzero(prediction.mask == number)) for number, name in enumerate(model.classes, start=1)
        },
        "volume_ml": _millilitres(total, volume.voxel_ml),
        "volume_ml_per_side": {side: _millilitres(int(row.sum()), volume.voxel_ml) for side, row in by_side.items()},
        "slices_with_lesion": int(np.count_nonzero(per_slice)),
        "slices_with_lesion_per_side": {side: int(np.count_nonzero(row)) for side, row in by_side.items()},
        "largest_slice": _slice(prediction, int(per_slice.argmax()), per_slice) if total else None,
        "midline_column": prediction.midline,
        "window": {
            "center": prediction.window[0],
            "width": prediction.window[1],
            "source": prediction.window_source,
            "validated_on_hu": False,
        },
        "experimental": True,
        "source": volume.as_record() | {"warnings": list(warnings_of(prediction))},
        "threshold": model.threshold,
        "trust": model.trust,
        "calibrated": model.is_calibrated,
        "report": _report(prediction),
        "slices_out_of_distribution": prediction.num_unlike,
        "model": model_record(model),
    }


def warnings_of(prediction: VolumePrediction) -> tuple[str, ...]:
    """Return what a user must know before relying on the prediction, each a whole sentence."""
    center, width = prediction.window
    found = [EXPERIMENTAL.format(center=center, width=width), *prediction.volume.warnings]
    if prediction.given.report is not None:
        found.append(ZONES_NOT_USED.format(used=_in_words(prediction.used)))
    unlike, total = prediction.num_unlike, len(prediction.mask)
    if unlike is not None and 2 * unlike > total:
        found.append(_UNLIKE.format(unlike=unlike, total=total))
    return tuple(found)


def _millilitres(voxels: int, voxel_ml: float | None) -> float | None:
    return None if voxel_ml is None else round(voxels * voxel_ml, 3)


def _slice(prediction: VolumePrediction, number: int, per_slice: np.ndarray) -> dict[str, Any]:
    volume = prediction.volume
    found: dict[str, Any] = {"number": number + 1, "pixels": int(per_slice[number])}
    if volume.headers:
        return found | {"sop_instance_uid": str(volume.headers[number].get("SOPInstanceUID", ""))}
    is_reversed = volume.lie.reversed[0]
    return found | {"index_in_file": len(per_slice) - 1 - number if is_reversed else number}


def _report(prediction: VolumePrediction) -> dict[str, Any] | None:
    said = report_record(prediction.given, reads_images=prediction.model.reads_images)
    return None if said is None else said | {"used_for_volume": _in_words(prediction.used)}


def _in_words(used: Report | None) -> str:
    """Return what was used, in which left and right are the patient's."""
    return "nothing." if used is None else str(used.in_orientation("patient"))
