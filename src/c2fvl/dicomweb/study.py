"""Predict the films and CT series of a study in an archive: they are fetched, go the way of files, and are removed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2fvl.dicomweb.archive import Archive, Fetched, FoundObject, FoundSeries
from c2fvl.dicomweb.connection import ArchiveError, ObjectError
from c2fvl.dicomweb.results import FILM_RESULTS, VOLUME_RESULTS, identity_of, results_of, store_results
from c2fvl.dicomweb.uids import is_uid
from c2fvl.files import storage
from c2fvl.files.ct_series import CT_IMAGE, refusal_of
from c2fvl.files.dicom_film import FILM_CLASSES, is_own_result
from c2fvl.files.dicom_headers import uid_name
from c2fvl.inference.ct_window import window_of
from c2fvl.inference.outputs.endings import ClinicalOptions
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import Request
from c2fvl.inference.to_folder import predict_to_folder
from c2fvl.progress import SILENT, Progress

_FILMS_AT_ONCE = 8
_MAX_SERIES_BYTES = 2**32
"""On the disk, for the time of the prediction."""
_CT_FOR_FILMS = "a CT slice, and the model is for chest films; take --model ct_small, or give --window"
_FILM_FOR_CT = "a film or a capture, and the model is for CT slices; take --model default, or give --force-view"
OWN_RESULT = "a result of c2fvl"


@dataclass(frozen=True)
class StudyOptions:
    """What a user decides about the prediction of a study, as in `predict_to_folder`."""

    report: str | None = None
    orientation: str | None = None
    outputs: Sequence[str] | None = None
    window: tuple[float, float] | None = None
    clinical: ClinicalOptions = ClinicalOptions()
    store: bool = False
    """Whether the DICOM results are sent back to the archive."""
    workers: int = 1
    progress: Progress = SILENT


@dataclass(frozen=True)
class Skipped:
    """Objects of a series that were left out for one reason."""

    series: str
    reason: str
    objects: tuple[str, ...]


def predict_study(
    archive: Archive,
    predictor: Predictor,
    study: str,
    out: Path | str,
    options: StudyOptions = StudyOptions(),
    *,
    series: str | None = None,
) -> Iterator[dict[str, Any] | Skipped]:
    """Predict the films and CT series of a study, or of one series of it, into `out`.

    Yields the record of each as `predict_to_folder` does, and `Skipped` for what is neither. A record names its image
    by the address below the root of the archive; with `options.store` it has "stored", the UIDs of the results by their
    kind, or "error" where the archive does not take them. Raises `ValueError` for a study or a series that is not there
    or holds nothing to segment.
    """
    out = storage.check_folder(out, what="masks")
    run = _Run(archive, predictor, study, out, options)
    num_images = 0
    counts: Counter[str] = Counter()
    for one in _series(archive, study, series):
        for record in run.of_series(one):
            if isinstance(record, Skipped):
                counts[record.reason] += len(record.objects)
            else:
                num_images += 1
            yield record
    if not num_images:
        what = f"the study {study}" if series is None else f"the series {series}"
        holds = "; ".join(f"{count} × {reason}" for reason, count in counts.items())
        raise ArchiveError(
            f"{what} holds no chest film and no CT slices that can be segmented; it "
            + (f"holds {holds}" if holds else "is empty")
        )


def _series(archive: Archive, study: str, series: str | None) -> list[FoundSeries]:
    for name, uid in (("--study", study), ("--series", series)):
        if uid is not None and not is_uid(uid):
            raise ValueError(f"{name} must be a UID, numbers with dots between them, got {uid!r}")
    if not archive.has_study(study):
        raise ArchiveError(f"the archive has no study {study}; check the StudyInstanceUID")
    found = archive.series(study)
    if series is None:
        return found
    chosen = [one for one in found if one.uid == series]
    if not chosen:
        raise ArchiveError(f"the study {study} has no series {series}; check the SeriesInstanceUID")
    return chosen


class _Run:
    """One call of `predict_study`."""

    def __init__(self, archive: Archive, predictor: Predictor, study: str, out: Path, options: StudyOptions) -> None:
        self.archive, self.predictor, self.study, self.out, self.options = archive, predictor, study, out, options
        self._skipped: dict[str, list[str]] = {}
        """Objects of the series at hand that are left out, by the reason."""

    def of_series(self, series: FoundSeries) -> Iterator[dict[str, Any] | Skipped]:
        """Predict what can be predicted of a series; yield the records, then what was left out."""
        self._skipped = {}
        films: list[FoundObject] = []
        slices: list[FoundObject] = []
        is_for_ct = window_of(self.predictor.engine.config) is not None
        for found in self.archive.objects(series):
            if found.sop_class == CT_IMAGE:
                if is_for_ct or self.options.window is not None:
                    slices.append(found)
                else:
                    self._skip(_CT_FOR_FILMS, found)
            elif found.sop_class in FILM_CLASSES or not found.sop_class:
                if not is_for_ct or self.predictor.force_view:
                    films.append(found)
                else:
                    self._skip(_FILM_FOR_CT, found)
            else:
                name = uid_name(found.sop_class) if is_uid(found.sop_class) else "an object of an unknown kind"
                self._skip(f"{name}, neither a chest film nor a CT slice", found)
        for start in range(0, len(films), _FILMS_AT_ONCE):
            yield from self._films(films[start : start + _FILMS_AT_ONCE])
        if slices:
            yield from self._slices(slices)
        for reason, uids in self._skipped.items():
            yield Skipped(series.uid, reason, tuple(uids))

    def _skip(self, reason: str, *objects: FoundObject) -> None:
        self._skipped.setdefault(reason, []).extend(one.uid for one in objects)

    def _films(self, films: Sequence[FoundObject]) -> Iterator[dict[str, Any]]:
        """Predict some films of a series; results of this program among them are left out."""
        with storage.scratch_folder(self.out) as scratch:
            requests: dict[str, Request] = {}
            failed: list[dict[str, Any]] = []
            for film in films:
                try:
                    fetched = self.archive.fetch(film)
                except ObjectError as error:
                    failed.append({"image": film.path, "error": str(error)})
                    continue
                if is_own_result(fetched.header):
                    self._skip(OWN_RESULT, film)
                else:
                    requests[film.uid] = Request(_write(fetched, scratch), self.options.report, label=film.path)
            records = self._predicted(list(requests.values()), FILM_RESULTS)
            for uid, record in zip(requests, records, strict=True):
                yield self._sent([uid], record)
            yield from failed

    def _slices(self, slices: Sequence[FoundObject]) -> Iterator[dict[str, Any]]:
        """Predict the CT slices of a series as one volume; a series of scouts and the like is left out."""
        series = slices[0].series
        label = f"studies/{self.study}/series/{series}"
        with storage.scratch_folder(self.out) as scratch:
            size = 0
            files: list[Path] = []
            refusals: dict[str, list[FoundObject]] = {}
            for one in slices:
                try:
                    fetched = self.archive.fetch(one)
                except ObjectError as error:  # a volume with a hole that nobody sees is worse than none
                    yield {"image": label, "error": f"the slice {one.uid} cannot be had: {error}"}
                    return
                size += len(fetched.data)
                if size > _MAX_SERIES_BYTES:
                    yield {"image": label, "error": f"its slices take more than {_MAX_SERIES_BYTES >> 30} GiB"}
                    return
                files.append(_write(fetched, scratch / series))
                refusals.setdefault(refusal_of(fetched.header), []).append(one)
            if "" not in refusals:
                for reason, refused in refusals.items():
                    self._skip(reason, *refused)
                return
            request = Request(
                scratch / series, self.options.report, slices=tuple(sorted(files)), series_name=series, label=label
            )
            images = [path.stem for path in request.slices]
            for record in self._predicted([request], VOLUME_RESULTS):
                yield self._sent(images, record)

    def _predicted(self, requests: Sequence[Request], results: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Predict files; to store results, those for the archive are made whatever the outputs are."""
        options, outputs = self.options, self.options.outputs
        if options.store:
            outputs = (*results, *(outputs or (("png",) if results == FILM_RESULTS else ())))
        return predict_to_folder(
            self.predictor, requests, self.out, orientation=options.orientation, outputs=outputs, window=options.window,
            clinical=options.clinical, workers=options.workers, progress=options.progress,
        )  # fmt: skip

    def _sent(self, images: Sequence[str], record: dict[str, Any]) -> dict[str, Any]:
        """Send the results of a record back if that was asked for; return the record with what was stored."""
        options = self.options
        if not options.store or "error" in record:
            return record
        identity = identity_of(
            self.predictor, images, report=options.report, orientation=options.orientation, window=options.window,
            clinical=options.clinical,
        )  # fmt: skip
        try:
            files = results_of(record, self.out)
            if not files:
                raise ObjectError(f"no DICOM result could be made ({'; '.join(record['left_out'].values())})")
            return record | {"stored": store_results(self.archive, self.study, files, identity)}
        except ObjectError as error:
            return {"image": record["image"], "error": f"the result is in {self.out}, but {error}"}


def _write(fetched: Fetched, folder: Path) -> Path:
    path = folder / f"{fetched.found.uid}.dcm"
    storage.write_bytes(path, fetched.data, durable=False)
    return path
