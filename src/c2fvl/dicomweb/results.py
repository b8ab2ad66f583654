"""Results that are sent back to the archive.

The UIDs of a result follow from its image, the model and the settings, so the same result is never stored twice: an
archive can be asked whether it has it, and takes a second copy for the first.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from c2fvl.dicomweb.archive import Archive
from c2fvl.dicomweb.uids import derived_uid
from c2fvl.files import storage
from c2fvl.files.dicom_headers import import_pydicom, quiet
from c2fvl.inference.outputs.encode import dicom_bytes
from c2fvl.inference.outputs.endings import ENDINGS, NEED_DICOM, ClinicalOptions
from c2fvl.inference.predictor import Predictor
from c2fvl.version import __version__

FILM_RESULTS = ("seg", "sc")
"""What is sent back for a film: the exact mask, and the overlay for viewers that show no segmentation of a film."""
VOLUME_RESULTS = ("seg",)


def identity_of(
    predictor: Predictor,
    images: Iterable[str],
    *,
    report: str | None = None,
    orientation: str | None = None,
    window: tuple[float, float] | None = None,
    clinical: ClinicalOptions = ClinicalOptions(),
) -> list[Any]:
    """Return all on which the result for images, named by their SOPInstanceUID, depends: plain values."""
    model = predictor.model
    said = [report, orientation] if report and report.strip() else None
    return [
        sorted(images), __version__, model.name, model.weights_sha256, model.threshold, model.trust, model.precision,
        said, window, clinical.keep_text, clinical.geometry,
    ]  # fmt: skip


def result_uid(identity: Sequence[Any], kind: str) -> str:
    """Return the SOPInstanceUID of the result of a kind, one of `ENDINGS`."""
    return derived_uid("instance", kind, *identity)


def results_of(record: dict[str, Any], out: Path) -> dict[str, Path]:
    """Return the DICOM files that a record names, by their kind."""
    endings = {kind: ENDINGS[kind] for kind in NEED_DICOM}
    return {kind: out / name for kind, end in endings.items() for name in record["files"] if name.endswith(end)}


def store_results(archive: Archive, study: str, files: dict[str, Path], identity: Sequence[Any]) -> dict[str, str]:
    """Send the files of one image back, those that the archive does not have; return their UIDs by their kind.

    The files get these UIDs too, so that what lies in the folder is what the archive has. Raises `ObjectError` for what
    the archive does not take.
    """
    objects = _with_uids(files, identity)
    missing = {uid: data for uid, data in objects.items() if not archive.has_object(study, uid)}
    if missing:
        archive.store(study, missing)
    return {kind: result_uid(identity, kind) for kind in files}


def _with_uids(files: dict[str, Path], identity: Sequence[Any]) -> dict[str, bytes]:
    """Give DICOM files that belong together their UIDs, also where one refers to another; return their contents."""
    pydicom = import_pydicom()
    with quiet():
        made = {kind: pydicom.dcmread(path) for kind, path in files.items()}
        replaced: dict[str, str] = {}
        for kind, dataset in made.items():
            replaced[str(dataset.SOPInstanceUID)] = result_uid(identity, kind)
            replaced[str(dataset.SeriesInstanceUID)] = derived_uid("series", kind, *identity)
        for dataset in made.values():
            for part in (dataset, dataset.file_meta):
                part.walk(lambda _, element: _replace(element, replaced))
    contents = {}
    for kind, dataset in made.items():
        data = dicom_bytes(dataset)
        storage.write_bytes(files[kind], data)
        contents[result_uid(identity, kind)] = data
    return contents


def _replace(element: Any, replaced: dict[str, str]) -> None:
    if element.VR == "UI" and isinstance(element.value, str) and element.value in replaced:
        element.value = replaced[element.value]
