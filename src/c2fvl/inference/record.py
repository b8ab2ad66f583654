"""The record of a prediction: plain values for JSON. Every zone in it says whose left it means. No torch."""

from typing import Any

import numpy as np

from c2fvl.inference.prediction import Given, PredictedBy, Prediction
from c2fvl.reports.findings import FINDINGS, TRUST, explain, findings_of
from c2fvl.reports.free_text.reader import read_free_text
from c2fvl.reports.report import Report
from c2fvl.reports.zones import ZONES, third_key, zone_key


def record_of(prediction: Prediction) -> dict[str, Any]:
    """Return the record of a prediction, without the names of files."""
    mask, model, findings = prediction.mask, prediction.model, prediction.findings
    height, width = mask.shape
    sure = prediction.estimated_dice
    area = int(np.count_nonzero(mask))
    picture = prediction.picture
    return {
        "height": height,
        "width": width,
        "area": area,
        "area_fraction": float(np.mean(mask > 0)),
        "area_per_class": {
            name: int(np.count_nonzero(mask == number)) for number, name in enumerate(model.classes, start=1)
        },
        "area_per_third": {third_key(zone): pixels for zone, pixels in prediction.areas.items()},
        "zones": [zone_key(zone, "image") for zone in ZONES if zone in prediction.zones],
        "area_unit": "pixel",
        "area_mm2": None if picture.spacing is None else round(area * picture.spacing[0] * picture.spacing[1], 1),
        "source": picture.as_record(),
        "threshold": model.threshold,
        "trust": model.trust,
        "estimated_dice": None if sure is None else round(sure, 4),  # further digits depend on the size of the batch
        "calibrated": model.is_calibrated,
        "report": report_record(prediction.given, reads_images=model.reads_images),
        "ood": None if prediction.ood is None else prediction.ood.as_dict(),
        "predicted_findings": None
        if findings is None
        else findings.as_dict("image") | {"remarks": list(findings.remarks(prediction.given.orientation))},
        "model": model_record(model),
    }


def model_record(model: PredictedBy) -> dict[str, Any]:
    """Return what names the model of a prediction."""
    return {
        "name": model.name,
        "preset": model.preset,
        "path": model.path,
        "weights_sha256": model.weights_sha256,
        "precision": model.precision,
        "device": model.device,
        "engine": model.engine,
    }


def report_record(given: Given, *, reads_images: bool) -> dict[str, Any] | None:
    """Return what was read of the report; None without one."""
    understood = given.report
    if understood is None:
        if not given.refusal:
            return None
        return {"sentence": given.sentence, "orientation_given": given.orientation, "refused": given.refusal}
    said: dict[str, Any] = {
        "sentence": given.sentence,
        "orientation_given": given.orientation,
        "understood": str(understood),
        "orientation": understood.orientation,
        "zones": [zone_key(zone, understood.orientation) for zone in ZONES if zone in understood.zones],
        "number": understood.number,
        "not_understood": list(understood.unread),
        "contradictions": list(understood.contradictions()),
    }
    if reads_images:
        said["explained"] = list(explain(understood.in_orientation(given.orientation)))
        if not understood.has_attributes:
            said |= _findings_of_free_text(understood, given.orientation)
    return said


def _findings_of_free_text(report: Report, orientation: str) -> dict[str, Any]:
    """Return the findings that the network was given, as the record of a caption holds them."""
    row = findings_of(report)
    values = {name: None if np.isnan(value) else int(value) for name, value in zip(FINDINGS[:TRUST], row, strict=False)}
    parsed = read_free_text(report.in_orientation(orientation).text)
    return {
        "zones": [zone_key(zone, report.orientation) for zone in ZONES if values[zone] == 1],
        "free_zones": [zone_key(zone, report.orientation) for zone in ZONES if values[zone] == 0],
        "number": values["number"],
        "not_understood": list(parsed.not_understood),
        "uncertain": list(parsed.uncertain),
        "contradictions": list(parsed.contradictions),
    }
