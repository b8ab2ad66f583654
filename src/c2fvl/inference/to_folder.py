"""Predictions of many images, written to a folder."""

import glob
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from c2fvl.data.pictures import case_panel
from c2fvl.data.prefetch import prefetch
from c2fvl.files import storage
from c2fvl.files.images import read_image, write_image, write_labels, write_mask, write_probability
from c2fvl.files.tables import read_csv
from c2fvl.inference.engine import Computed
from c2fvl.inference.predictor import Prediction, Predictor, Prepared
from c2fvl.messages import listed
from c2fvl.reports.findings import FINDINGS, TRUST, explain, findings_of
from c2fvl.reports.free_text.reader import read_free_text
from c2fvl.reports.predicted_findings import PredictedFindings
from c2fvl.reports.report import Report, default_orientation
from c2fvl.reports.zones import ZONES, read_orientation

logger = logging.getLogger(__name__)


_MAX_NAMES = 10
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def _written(stem: str, num_foreground: int = 1) -> tuple[str, ...]:
    """Return the names of all files that an image of this stem may leave in the folder; the record is the last."""
    return f"{stem}.png", *_probabilities(stem, num_foreground), f"{stem}_overlay.png", f"{stem}.json"


def _probabilities(stem: str, num_foreground: int) -> list[str]:
    """Return the file of the lesion's probability, or those of several classes."""
    if num_foreground == 1:
        return [f"{stem}_probability.png"]
    return [f"{stem}_probability_{number}.png" for number in range(1, num_foreground + 1)]


@dataclass(frozen=True)
class Request:
    """One image to predict."""

    image: Path
    report: str | None = None
    orientation: str | None = None
    """Whose left the report means, where a table says it."""


def collect(inputs: Sequence[str], *, table: Path | str | None = None, report: str | None = None) -> list[Request]:
    """Return the images of files, folders, globs and a csv table (columns image, report, orientation), each once.

    Of a folder the images are taken; what else lies there is named in a warning, hidden files apart.
    Raises `FileNotFoundError` for what is not there, and `ValueError` for two images whose results would overwrite each
    other, and for one image with two reports.
    """
    requests = [Request(path, report) for item in inputs for path in _expand(item)]
    if table is not None:
        requests += list(_from_table(Path(table), report))
    if not requests:
        raise ValueError("there is no image to predict; name files, folders, globs, or a table with --csv")
    images: dict[Path, Request] = {}
    for request in requests:
        other = images.setdefault(request.image.resolve(), request)
        if (other.report, other.orientation) != (request.report, request.orientation):
            raise ValueError(f"{request.image} is given with two reports; predict it into two folders")
    requests = list(images.values())
    seen: dict[str, Path] = {}
    for request in requests:
        for name in _written(request.image.stem):
            other_image = seen.setdefault(name, request.image)
            if other_image is request.image:
                continue
            raise ValueError(
                f"{other_image} and {request.image} would both be written as {name}; rename one, or predict them into "
                "two folders"
            )
    return requests


def predict_to_folder(
    predictor: Predictor,
    requests: Iterable[Request],
    out: Path | str,
    *,
    orientation: str | None = None,
    probability: bool = False,
    overlay: bool = False,
    workers: int = 1,
) -> Iterator[dict[str, Any]]:
    """Predict one image after another into `out` and yield the record of each, which is also written as `<stem>.json`.

    While the network computes, `workers` threads read the next images and as many write the last results; only a few
    images are held at a time, however many there are.

    Raises `ValueError`, before anything is written, where a result would replace one of the images. Writes
    `<stem>.png` (0 and 255, or the numbers of several classes, in the image's size), on request
    `<stem>_probability.png` (16 bit, value / 65535; of several classes `<stem>_probability_1.png` and so on) and
    `<stem>_overlay.png`; files of that image from an earlier call are removed first. For an image that cannot be read
    the record has an "error" and no file is written; the images after it are still predicted.
    """
    out, requests = storage.check_folder(out, what="masks"), list(requests)
    images = {request.image.resolve() for request in requests}
    for request in requests:
        for name in _written(request.image.stem, len(predictor.classes)):
            if (out / name).resolve() in images:
                raise ValueError(f"{out / name} is an image to be predicted and would be replaced; name another folder")

    def prepare(request: Request) -> _Job:
        try:
            pixels = read_image(request.image)
            prepared = predictor.prepare(pixels, request.report, orientation=request.orientation or orientation)
        except (OSError, ValueError) as error:
            return _Job(request, error=str(error).removeprefix(f"{request.image}: "))
        return _Job(request, prepared, pixels if overlay else None)

    def write(job: _Job) -> dict[str, Any]:
        return _write(predictor, job, out, job.request.orientation or orientation, probability=probability)

    maximum = predictor.batch_size
    read = prefetch(prepare, requests, workers=workers, maximum=maximum)
    return prefetch(write, _computed(predictor, read), workers=workers, maximum=maximum)


@dataclass(frozen=True)
class _Job:
    """An image on its way from its file to its mask."""

    request: Request
    prepared: Prepared | None = None
    pixels: np.ndarray | None = None
    """Where it is to be drawn."""
    found: Computed | None = None
    error: str = ""


def _computed(predictor: Predictor, images: Iterable[_Job]) -> Iterator[_Job]:
    """Yield the images in order with what was computed for them in batches; those with an error stay as they are."""
    waiting: list[_Job] = []

    def compute() -> list[_Job]:
        readable = [image.prepared for image in waiting if image.prepared is not None]
        found = iter(predictor.run(readable) if readable else ())
        return [replace(image, found=None if image.error else next(found)) for image in waiting]

    for image in images:
        waiting.append(image)
        if sum(not image.error for image in waiting) == predictor.batch_size:
            yield from compute()
            waiting.clear()
    yield from compute()


def _write(predictor: Predictor, job: _Job, out: Path, orientation: str | None, *, probability: bool) -> dict[str, Any]:
    """Write the files of one image and return its record."""
    request, stem = job.request, job.request.image.stem
    if (out / f"{stem}.json").is_file():  # it is removed first and written last
        for name in reversed(_written(stem, len(predictor.classes))):
            (out / name).unlink(missing_ok=True)
    if job.prepared is None or job.found is None:
        return {"image": str(request.image), "error": job.error}
    try:
        prediction = predictor.finish(job.prepared, job.found)
    except ValueError as error:
        return {"image": str(request.image), "error": str(error)}
    orientation = orientation or default_orientation(request.report or "")
    several = len(predictor.classes) > 1
    (write_labels if several else write_mask)(out / f"{stem}.png", prediction.mask)
    if probability:
        maps = prediction.probability[1:] if several else [prediction.probability]
        for name, of_class in zip(_probabilities(stem, len(predictor.classes)), maps, strict=True):
            write_probability(out / name, of_class)
    if job.pixels is not None:
        given = _as_given(request, prediction.report, orientation)
        picture = case_panel(job.pixels, prediction.mask, report=given, classes=predictor.classes)
        write_image(out / f"{stem}_overlay.png", picture)
    record = _record(predictor, request, prediction, orientation)
    storage.write_json(out / f"{stem}.json", record)
    return record


def _as_given(request: Request, report: Report | None, orientation: str) -> Report | None:
    """Return the report that was followed in the user's own words and orientation."""
    if report is None or not request.report:
        return report
    return replace(report.in_orientation(orientation), text=request.report)


def _record(predictor: Predictor, request: Request, prediction: Prediction, orientation: str) -> dict[str, Any]:
    understood = prediction.report
    said: dict[str, Any] | None = None
    if understood is not None:
        said = {
            "sentence": request.report,
            "orientation_given": orientation,
            "understood": str(understood),
            "orientation": understood.orientation,
            "zones": sorted(understood.zones),
            "number": understood.number,
            "not_understood": list(understood.unread),
            "contradictions": list(understood.contradictions()),
        }
        if predictor.reads_images:
            said["explained"] = list(explain(understood.in_orientation(orientation)))
            if not understood.has_attributes:
                said |= _findings_of_free_text(understood, orientation)
    elif prediction.refusal:
        said = {"sentence": request.report, "orientation_given": orientation, "refused": prediction.refusal}
    height, width = prediction.mask.shape
    sure, findings = prediction.estimated_dice, prediction.findings
    model = predictor.engine
    return {
        "image": str(request.image),
        "mask": f"{request.image.stem}.png",
        "height": height,
        "width": width,
        "area": int(np.count_nonzero(prediction.mask)),
        "area_fraction": float(np.mean(prediction.mask > 0)),
        "area_per_class": {
            name: int(np.count_nonzero(prediction.mask == number))
            for number, name in enumerate(predictor.classes, start=1)
        },
        "area_per_zone": prediction.areas,
        "area_unit": "pixel",
        "zones_orientation": "image",
        "threshold": predictor.threshold,
        "estimated_dice": None if sure is None else round(sure, 4),  # further digits depend on the size of the batch
        "calibrated": predictor.is_calibrated,
        "report": said,
        "ood": None if prediction.ood is None else prediction.ood.as_dict(),
        "predicted_findings": None if findings is None else _predicted(findings, orientation),
        "model": {
            "name": model.config.model.name,
            "preset": model.config.preset,
            "path": str(model.path),
            "weights_sha256": model.metrics.get("weights_sha256"),
        },
    }


def _predicted(findings: PredictedFindings, orientation: str) -> dict[str, Any]:
    """Return predicted findings by zones of the image, as all of the record, and remarks with the report's left."""
    return findings.as_dict("image") | {"remarks": list(findings.remarks(orientation))}


def _findings_of_free_text(report: Report, orientation: str) -> dict[str, Any]:
    """Return the findings that the network was given, as the record of a caption holds them."""
    row = findings_of(report)
    values = {name: None if np.isnan(value) else int(value) for name, value in zip(FINDINGS[:TRUST], row, strict=False)}
    parsed = read_free_text(report.in_orientation(orientation).text)
    return {
        "zones": sorted(zone for zone in ZONES if values[zone] == 1),
        "free_zones": sorted(zone for zone in ZONES if values[zone] == 0),
        "number": values["number"],
        "not_understood": list(parsed.not_understood),
        "uncertain": list(parsed.uncertain),
        "contradictions": list(parsed.contradictions),
    }


def _expand(item: str) -> list[Path]:
    path = Path(item)
    if path.is_dir():
        files = sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and not entry.is_dir())
        found = [entry for entry in files if entry.suffix.lower() in IMAGE_SUFFIXES]
        others = [entry.name for entry in files if entry not in set(found)]
        what = f"{len(others)} file(s) that are no PNG, JPEG or TIFF by name: {listed(others, _MAX_NAMES)}"
        if not found:
            holds = f"; it holds {what}" if others else ""
            raise FileNotFoundError(f"the folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)}){holds}")
        if others:
            logger.warning("%s: left out are %s", path, what)
        return found
    if path.exists():
        return [path]
    found = sorted(Path(name) for name in glob.glob(item, recursive=True))  # noqa: PTH207 - patterns may be absolute
    if not found:
        raise FileNotFoundError(f"{item!r} matches no file or folder; check the name")
    return [entry for entry in found if entry.is_file()]


def _from_table(path: Path, report: str | None) -> Iterator[Request]:
    columns, rows = read_csv(path)
    named = [column for column in ("report", "text") if column in columns]
    if "image" not in columns or len(named) > 1:
        raise ValueError(
            f"{path}: the columns are {', '.join(columns)}; expected image and, optionally, report (or text) and "
            "orientation"
        )
    whose = next((column for column in ("orientation", "frame") if column in columns), None)
    unused = sorted(set(columns) - {"image", *named, whose})
    if unused:
        names = ", ".join(map(str, unused))
        logger.warning("%s: the columns %s are not used, only image, report and orientation are", path, names)
    for number, row in rows:
        image = path.parent / row["image"].strip()  # an absolute path stays as it is
        if not image.is_file():
            raise FileNotFoundError(f"{path}, row {number}, column image: there is no file {image}")
        orientation = None
        if whose is not None and row[whose].strip():
            try:
                orientation = read_orientation(row[whose])
            except ValueError as error:
                raise ValueError(f"{path}, row {number}, column {whose}: {error}") from error
        yield Request(image, next((row[column] for column in named if row[column]), report), orientation)
