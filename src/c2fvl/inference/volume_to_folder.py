"""The prediction of one CT volume, written to a folder. No torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c2fvl.data.cases import STRAY_FRACTION
from c2fvl.files import shards, storage
from c2fvl.files.images import write_labels, write_mask
from c2fvl.files.read_volume import read_volume
from c2fvl.inference.outputs.endings import ENDINGS, ClinicalOptions
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import Request
from c2fvl.inference.volumes import VolumePrediction, predict_volume
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.zones import zones_of

VOLUME_OUTPUTS = ("png", "seg", "nifti", "nrrd", "json")
"""The outputs that a volume can have; "png" is a folder with the mask of each slice."""


@dataclass(frozen=True)
class VolumeOptions:
    """What a user decides about the volumes of a call."""

    outputs: Sequence[str] | None = None
    """Some of `save.OUTPUTS`; None writes NIfTI for NIfTI, and a DICOM segmentation for a series."""
    orientation: str | None = None
    window: tuple[float, float] | None = None
    clinical: ClinicalOptions = ClinicalOptions()
    skip_existing: bool = False
    progress: Progress = SILENT


def volume_to_folder(predictor: Predictor, request: Request, out: Path, options: VolumeOptions) -> dict[str, Any]:
    """Predict a volume, write its files and return its record; with an "error" where that is not possible."""
    if options.skip_existing and (record := _existing(predictor, request, out, options)):
        return record
    _remove_old(out, request.name)
    try:
        found = predict_volume(
            predictor, read_volume(request.slices or request.image), request.report,
            orientation=request.orientation or options.orientation, window=options.window, progress=options.progress,
        )  # fmt: skip
        return _save(found, request, out, options)
    except (OSError, ValueError) as error:
        return {"image": request.shown, "error": str(error).removeprefix(f"{request.image}: ")}


def slice_names(name: str, count: int) -> list[str]:
    """Return the names of the masks of the slices, counted from the feet."""
    return [f"{name}_slices/{number:04d}.png" for number in range(1, count + 1)]


def _save(found: VolumePrediction, request: Request, out: Path, options: VolumeOptions) -> dict[str, Any]:
    """Write the files of a volume, the record last, and return it."""
    default = ("nifti" if not found.volume.headers else "seg" if _has_frame(found) else "png",)
    outputs = [name for name in VOLUME_OUTPUTS if name in (options.outputs or default) and name != "json"]
    left_out = [name for name in options.outputs or () if name not in VOLUME_OUTPUTS]
    made = _clinical(found, outputs, options.clinical)
    files = [f"{request.name}{ENDINGS[output]}" for output in made]
    slices = slice_names(request.name, len(found.mask)) if "png" in outputs else []
    record = {"image": request.shown, "files": [*files, *slices, f"{request.name}.json"], **found.to_dict()}
    if options.clinical.deidentified:
        _remove_uids(record)
    if left_out:
        record["source"]["warnings"].append(f"{', '.join(left_out)} cannot be written for a volume.")
    storage.make_folder((out / request.name).parent)
    for name, data in zip(files, made.values(), strict=True):
        storage.write_bytes(out / name, data)
    write = write_labels if len(found.model.classes) > 1 else write_mask
    planes = found.mask_in_file if found.volume.headers else found.mask
    for name, plane in zip(slices, planes, strict=False):
        storage.make_folder((out / name).parent)
        write(out / name, plane)
    storage.write_json(out / f"{request.name}.json", record)
    return record


def _remove_uids(record: dict[str, Any]) -> None:
    """Leave out by which UIDs an archive finds the patient."""
    record["source"]["series_instance_uid"] = None
    if record["largest_slice"]:
        record["largest_slice"].pop("sop_instance_uid", None)


def _clinical(found: VolumePrediction, outputs: Sequence[str], clinical: ClinicalOptions) -> dict[str, bytes]:
    """Return the content of the clinical files by the name of the output."""
    made: dict[str, bytes] = {}
    if not set(outputs) & set(ENDINGS):
        return made
    from c2fvl.inference.outputs.encode import dicom_bytes
    from c2fvl.inference.outputs.nifti_nrrd import grid_of_nifti, grid_of_series, nifti, nrrd
    from c2fvl.inference.outputs.seg import segmentation

    headers, mask = list(found.volume.headers), found.mask_in_file
    if "seg" in outputs:
        if not headers:
            raise ValueError(
                "seg can be written for DICOM series only, and this is NIfTI; leave it out of --output-type"
            )
        made["seg"] = dicom_bytes(
            segmentation(headers, np.ascontiguousarray(mask), _about(found), deidentified=clinical.deidentified)
        )
    if "nifti" in outputs or "nrrd" in outputs:
        grid = grid_of_series(headers) if headers else grid_of_nifti(found.volume.grid)
        array = mask if headers else mask.reshape(found.volume.grid.shape)
        made |= {name: write(array, grid) for name, write in (("nifti", nifti), ("nrrd", nrrd)) if name in outputs}
    return made


def _about(found: VolumePrediction) -> Any:
    from c2fvl.inference.outputs.result_info import ResultInfo

    sizes = {side: int(row.sum()) for side, row in found.voxels_per_side.items()}
    sides = [side for side, size in sizes.items() if size > STRAY_FRACTION * sum(sizes.values())]
    return ResultInfo.of_model(
        found.model,
        report_used=found.used is not None,
        zones=frozenset(zone for side in sides for zone in zones_of(side)),  # of slices, only their side is written
    )


def _has_frame(found: VolumePrediction) -> bool:
    """Tell whether a DICOM segmentation can refer to the slices: they must lie in one frame of reference."""
    return all(header.get("FrameOfReferenceUID") for header in found.volume.headers)


def _existing(predictor: Predictor, request: Request, out: Path, options: VolumeOptions) -> dict[str, Any] | None:
    """Return the record of an earlier call that would be made again the same; None where there is none."""
    path = out / f"{request.name}.json"
    try:
        written = path.stat().st_mtime_ns
        if any(shards.holder_of(source).stat().st_mtime_ns > written for source in request.slices or (request.image,)):
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        said, window, model = record["report"] or {}, record["window"], predictor.model
        if not all((out / name).is_file() for name in record["files"]):
            return None
        sentence = request.report if request.report and request.report.strip() else None
        whose = request.orientation or options.orientation or said.get("orientation_given")
        model_before = [record["model"]["weights_sha256"], record["threshold"], record["trust"]]
        if model_before != [model.weights_sha256, model.threshold, model.trust] or record["image"] != request.shown:
            return None
        same_report = [said.get("sentence"), said.get("orientation_given")] == [sentence, whose if sentence else None]
        same_outputs = set(map(_output_of, record["files"])) == _expected(options, record)
        same_window = options.window is None or list(options.window) == [window["center"], window["width"]]
        same_source = window["source"] in ("given", "file") if options.window else window["source"] != "given"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # it is damaged, or of another version: predicted anew
    is_same = same_report and same_outputs and same_window and same_source
    return record | {"skipped": True} if is_same else None


def _expected(options: VolumeOptions, record: dict[str, Any]) -> set[str]:
    """Return the outputs of this call; those of the record where they follow from the volume."""
    if options.outputs is None:
        return set(map(_output_of, record["files"]))
    return {name for name in VOLUME_OUTPUTS if name in options.outputs} | {"json"}


def _output_of(file: str) -> str:
    endings = {ENDINGS[name]: name for name in ("seg", "nifti", "nrrd")} | {".png": "png", ".json": "json"}
    return next(name for ending, name in endings.items() if file.endswith(ending))


def _remove_old(out: Path, name: str) -> None:
    """Remove the files of the same volume from an earlier call, the record first."""
    path = out / f"{name}.json"
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        files = []
    path.unlink(missing_ok=True)
    own = (f"{name}.", f"{name}_seg.dcm", f"{name}_slices/")
    for file in files:
        if isinstance(file, str) and file.startswith(own) and ".." not in Path(file).parts:
            (out / file).unlink(missing_ok=True)
