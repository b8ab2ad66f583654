"""Predictions of many images, written to a folder."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from c2fvl.data.prefetch import prefetch
from c2fvl.files import shards, storage
from c2fvl.inference.ct_window import window_of
from c2fvl.inference.engine import Computed
from c2fvl.inference.outputs.endings import ENDINGS, ClinicalOptions, remarks_on_outputs
from c2fvl.inference.prediction import Prediction, Prepared
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import Request, check_names
from c2fvl.inference.save import check_outputs, file_names, save_prediction
from c2fvl.inference.series_requests import is_volume
from c2fvl.inference.volume_to_folder import VolumeOptions, volume_to_folder
from c2fvl.progress import SILENT, Progress


def predict_to_folder(
    predictor: Predictor,
    requests: Iterable[Request],
    out: Path | str,
    *,
    orientation: str | None = None,
    outputs: Sequence[str] | None = None,
    window: tuple[float, float] | None = None,
    skip_existing: bool = False,
    clinical: ClinicalOptions = ClinicalOptions(),
    workers: int = 1,
    progress: Progress = SILENT,
) -> Iterator[dict[str, Any]]:
    """Predict one image after another into `out` and yield the record of each, which is also written as `<name>.json`.

    While the network computes, `workers` threads read the next images and as many write the last results; only a few
    images are held at a time, however many there are. `outputs` are some of `save.OUTPUTS`; the record is always
    written. None writes the mask as PNG, that of a CT volume as NIfTI or DICOM segmentation. `window` is for volumes as
    in `predict_volume`, and `progress` follows the slices of a volume. With `skip_existing` an image whose record of
    the same model, report and settings is there is not predicted again: its record comes with "skipped".

    Raises `ValueError`, before anything is written, where results would replace one of the images or each other. Files
    of an image from an earlier call are removed first. For an image that cannot be read the record has an "error" and
    no file is written; the images after it are still predicted.
    """
    out, requests = storage.check_folder(out, what="masks"), list(requests)
    of_volumes = VolumeOptions(outputs, orientation, window, clinical, skip_existing, progress)
    outputs = check_outputs((*(outputs or ("png",)), "json"))
    for_ct = window is not None or window_of(predictor.engine.config) is not None
    check_request_names(requests, out, predictor.model.classes)

    def prepare(request: Request) -> _Job:
        if is_volume(request, for_ct=for_ct):
            return _Job(request, is_volume=True)
        if skip_existing and (record := _existing(predictor, request, out, outputs, orientation)):
            return _Job(request, record=record)
        try:
            prepared = predictor.prepare(request.image, request.report, orientation=request.orientation or orientation)
        except (OSError, ValueError) as error:
            return _Job(request, error=str(error).removeprefix(f"{request.image}: "))
        return _Job(request, prepared)

    def write(job: _Job) -> dict[str, Any]:
        return _write(predictor, job, out, outputs, clinical)

    maximum = predictor.batch_size
    read = prefetch(prepare, requests, workers=workers, maximum=maximum)

    def compute_volume(request: Request) -> dict[str, Any]:
        return volume_to_folder(predictor, request, out, of_volumes)

    return prefetch(write, _computed(predictor, read, compute_volume), workers=workers, maximum=maximum)


def check_request_names(requests: Sequence[Request], out: Path, classes: Sequence[str]) -> None:
    """Raise `ValueError` where results would replace one of the images or each other."""
    check_names(requests, classes)
    images = {file.resolve() for request in requests for file in request.files}
    for request in requests:
        for name in file_names(request.name, classes):
            if (out / name).resolve() in images:
                raise ValueError(f"{out / name} is an image to be predicted and would be replaced; name another folder")


@dataclass(frozen=True)
class _Job:
    """An image on its way from its file to its mask."""

    request: Request
    prepared: Prepared | None = None
    found: Computed | None = None
    error: str = ""
    record: dict[str, Any] | None = None
    """Of an earlier call, where the image is skipped, or of a volume."""
    is_volume: bool = False


def _existing(
    predictor: Predictor, request: Request, out: Path, outputs: Sequence[str], orientation: str | None
) -> dict[str, Any] | None:
    """Return the record of an earlier call that would be made again the same; None where there is none."""
    written = out / f"{request.name}.json"
    try:
        if not written.is_file() or _is_newer(request.image, written):
            return None
        record = json.loads(written.read_text(encoding="utf-8"))
        possible = [output for output in outputs if output not in record["left_out"]]
        names = file_names(request.name, predictor.model.classes, possible)
        if not all((out / name).is_file() for name in names):
            return None
        said, model = record["report"] or {}, predictor.model
        sentence = request.report if request.report and request.report.strip() else None
        whose = request.orientation or orientation or said.get("orientation_given")
        before = [record["image"], record["model"]["weights_sha256"], record["threshold"], record["trust"]]
        now = [request.shown, model.weights_sha256, model.threshold, model.trust]
        before += [said.get("sentence"), said.get("orientation_given")]
        now += [sentence, whose if sentence else None]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # it is damaged, or of another version: predicted anew
    return record | {"skipped": True} if before == now else None


def _is_newer(image: Path, record: Path) -> bool:
    return shards.holder_of(image).stat().st_mtime_ns > record.stat().st_mtime_ns


def _computed(
    predictor: Predictor, images: Iterable[_Job], compute_volume: Callable[[Request], dict[str, Any]]
) -> Iterator[_Job]:
    """Yield the images in order with what was computed for them in batches; those with an error stay as they are."""
    waiting: list[_Job] = []

    def compute() -> list[_Job]:
        readable = [image.prepared for image in waiting if image.prepared is not None]
        found = iter(predictor.run(readable) if readable else ())
        return [image if image.prepared is None else replace(image, found=next(found)) for image in waiting]

    for image in images:
        if image.is_volume:
            yield from compute()
            waiting.clear()
            yield replace(image, record=compute_volume(image.request))
            continue
        waiting.append(image)
        if sum(image.prepared is not None for image in waiting) == predictor.batch_size:
            yield from compute()
            waiting.clear()
    yield from compute()


def _write(
    predictor: Predictor, job: _Job, out: Path, outputs: Sequence[str], clinical: ClinicalOptions
) -> dict[str, Any]:
    """Write the files of one image and return its record."""
    request = job.request
    if job.record is not None:
        return job.record
    if (out / f"{request.name}.json").is_file():  # it is removed first and written last
        for name in reversed(file_names(request.name, predictor.model.classes)):
            (out / name).unlink(missing_ok=True)
    if job.prepared is None or job.found is None:
        return {"image": request.shown, "error": job.error}
    try:
        prediction = predictor.finish(job.prepared, job.found)
        made, reasons = _clinical_files(prediction, outputs, clinical)
        kept = [output for output in outputs if output not in reasons]
        if reasons and kept == ["json"]:
            raise ValueError("; ".join(reasons.values()))
        files = file_names(request.name, predictor.model.classes, kept)
        record = {"image": request.shown, "files": files, "left_out": reasons, **prediction.to_dict()}
        record["source"]["warnings"] += remarks_on_outputs(prediction.picture, kept)
        save_prediction(prediction, out, request.name, kept, record=record, made=made)
    except ValueError as error:
        return {"image": request.shown, "error": str(error)}
    return record


def _clinical_files(
    prediction: Prediction, outputs: Sequence[str], clinical: ClinicalOptions
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the clinical files of a prediction, and why others cannot be had; nothing where none is asked for."""
    if not set(outputs) & set(ENDINGS):
        return {}, {}
    from c2fvl.inference.outputs.of_prediction import possible_files

    return possible_files(prediction, tuple(outputs), clinical)
