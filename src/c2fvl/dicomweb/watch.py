"""Watch an archive for new chest films and send the results back, once each.

Two things hold this: the state on the disk, and the UIDs of the results, which follow from the film and the model
(`results.py`), so the archive is asked before a film is fetched. A film whose results arrived before the state was
written is found in the archive.
"""

import datetime
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from c2fvl.dicomweb.archive import Archive, Fetched, FoundObject, FoundStudy
from c2fvl.dicomweb.connection import ArchiveAwayError, ArchiveError, ObjectError
from c2fvl.dicomweb.results import FILM_RESULTS, identity_of, result_uid, results_of, store_results
from c2fvl.dicomweb.study import OWN_RESULT
from c2fvl.dicomweb.watch_state import DONE, FAILED, OPEN, SKIPPED, FilmState, WatchState
from c2fvl.files import storage
from c2fvl.files.dicom_film import CHEST_WORDS, FILM_CLASSES, is_own_result
from c2fvl.files.dicom_headers import text
from c2fvl.inference.ct_window import window_of
from c2fvl.inference.outputs.endings import ClinicalOptions
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import Request
from c2fvl.inference.to_folder import predict_to_folder

DELAYS = (60, 300, 1500, 7500)
"""Seconds until a film is tried again that could not be had or whose results were refused; then it is set aside."""
MAX_TRIES = len(DELAYS) + 1
"""So often a film is begun, also one at which the process was killed."""


@dataclass(frozen=True)
class WatchOptions:
    """What a user decides about a watch."""

    modalities: Sequence[str] = ("CR", "DX")
    since: datetime.date | int = 1
    """The first study date, or the number of days back from today."""
    every: float = 60
    once: bool = False
    store_ood: bool = False
    """Whether results are stored of films that are unlike those that the model was trained on."""
    clinical: ClinicalOptions = ClinicalOptions()

    def first_date(self) -> str:
        """Return the first study date as DICOM writes it."""
        since = self.since
        if isinstance(since, int):
            since = datetime.date.today() - datetime.timedelta(days=since)
        return since.strftime("%Y%m%d")


@dataclass(frozen=True)
class Event:
    """Something that happened, in one line."""

    text: str
    is_problem: bool = False


class Watch:
    """A watch of one archive."""

    def __init__(self, archive: Archive, predictor: Predictor, state: WatchState, options: WatchOptions) -> None:
        if window_of(predictor.engine.config) is not None:
            raise ValueError(
                f"the model {predictor.model.name} is for CT slices, and a watch takes chest films; choose another one "
                "with --model"
            )
        self.archive, self.predictor, self.state, self.options = archive, predictor, state, options
        self.num_failed = 0
        """Films that were set aside since the beginning."""
        self._said: set[str] = set()
        self._counts: dict[str, int] = {}
        """The number of objects of each study when nothing was left to do in it."""

    def run(self) -> Iterator[Event]:
        """Look for new films until a signal comes, or once; yield what happens.

        An archive that does not answer is waited for, except with `options.once`. Raises `ArchiveError` where the first
        search is refused.
        """
        is_away = was_there = False
        while True:
            try:
                for event in self.look():
                    if is_away:
                        yield Event(f"{self.archive.connection.url} answers again")
                        is_away = False
                    yield event
                if is_away:
                    yield Event(f"{self.archive.connection.url} answers again")
                is_away, was_there = False, True
            except ArchiveError as error:
                is_passing = isinstance(error, ArchiveAwayError) or was_there
                if self.options.once or not is_passing:
                    raise
                if not is_away:
                    yield Event(f"{error}; waiting for it", is_problem=True)
                is_away = True
            if self.options.once:
                return
            time.sleep(self.options.every)
            self.archive.connection.renew_credentials()

    def look(self) -> Iterator[Event]:
        """Search for new films once, and predict them."""
        studies: dict[str, FoundStudy] = {}
        for modality in self.options.modalities:
            for study in self.archive.studies(modality=modality, since=self.options.first_date()):
                studies[study.uid] = study
        for study in studies.values():
            if study.count is not None and self._counts.get(study.uid) == study.count:
                continue
            is_open = False
            try:
                films = self._films(study.uid)
            except ObjectError as error:  # it was deleted a moment ago, or its description is too large
                if study.uid not in self._said:
                    self._said.add(study.uid)
                    yield Event(f"studies/{study.uid}: left out: {error}", is_problem=True)
                continue
            for film in films:
                if self.state.film(film.study, film.uid).not_before <= time.time():
                    yield self._take(film)
                is_open = is_open or self.state.film(film.study, film.uid).status == OPEN
            if not is_open and study.count is not None:
                self._counts[study.uid] = study.count

    def _films(self, study: str) -> list[FoundObject]:
        """Return what may be films of a study and is not done."""
        found = [
            film
            for series in self.archive.series(study)
            if series.modality in self.options.modalities
            for film in self.archive.objects(series)
        ]
        return [
            film
            for film in found
            if (not film.sop_class or film.sop_class in FILM_CLASSES)
            and self.state.film(film.study, film.uid).status == OPEN
        ]

    def _take(self, film: FoundObject) -> Event:
        """Predict a film and store its results; note what became of it."""
        before = self.state.film(film.study, film.uid)
        if before.tries >= MAX_TRIES:
            reason = before.reason or f"the process ended {before.tries} times while it worked on this film"
            return self._note(film, FilmState(FAILED, reason, before.tries))
        begun = replace(before, tries=before.tries + 1)
        self.state.note(film.study, film.uid, begun)
        try:
            after = self._result(film)
        except (ArchiveError, OSError, KeyboardInterrupt) as error:
            if not self._is_of_film(error, film):
                self.state.note(film.study, film.uid, before)
                raise
            is_last = begun.tries >= MAX_TRIES
            later = time.time() + (0 if is_last else DELAYS[begun.tries - 1])
            after = replace(begun, status=FAILED if is_last else OPEN, reason=str(error), not_before=later)
        return self._note(film, after)

    def _is_of_film(self, error: BaseException, film: FoundObject) -> bool:
        """Tell whether an error concerns one film: an archive that answers searches is not away."""
        if isinstance(error, ArchiveAwayError):
            try:
                return self.archive.has_study(film.study)
            except ArchiveError:
                return False
        return isinstance(error, ObjectError)

    def _note(self, film: FoundObject, after: FilmState) -> Event:
        self.state.note(film.study, film.uid, after)
        self.num_failed += after.status == FAILED
        said = {
            DONE: after.reason,
            SKIPPED: f"skipped: {after.reason}",
            FAILED: f"set aside: {after.reason}",
            OPEN: f"not done, and tried again later: {after.reason}",
        }
        return Event(f"{film.path}: {said[after.status]}", is_problem=after.status in (FAILED, OPEN))

    def _result(self, film: FoundObject) -> FilmState:
        """Return what becomes of a film. Raises `ObjectError` where it cannot be had or its results are refused."""
        identity = identity_of(self.predictor, [film.uid], clinical=self.options.clinical)
        uids = {kind: result_uid(identity, kind) for kind in FILM_RESULTS}
        if all(self.archive.has_object(film.study, uid) for uid in uids.values()):
            return FilmState(DONE, "the archive has the results already", stored=uids)
        fetched = self.archive.fetch(film)
        if reason := _no_chest_film(fetched):
            return FilmState(SKIPPED, reason)
        with storage.scratch_folder(self.state.folder) as scratch:
            path = scratch / f"{film.uid}.dcm"
            storage.write_bytes(path, fetched.data, durable=False)
            out: Path = scratch / "results"
            request = Request(path, label=film.path)
            (record,) = predict_to_folder(
                self.predictor, [request], out, outputs=FILM_RESULTS, clinical=self.options.clinical
            )
            if "error" in record:
                return FilmState(FAILED, record["error"])
            unlike = (record["ood"] or {}).get("reasons", ())
            if unlike and not self.options.store_ood:
                return FilmState(FAILED, f"not stored, since its result cannot be relied on: {'; '.join(unlike)}")
            files = results_of(record, out)
            if len(files) < len(FILM_RESULTS):
                return FilmState(FAILED, "; ".join(record["left_out"].values()))
            stored = store_results(self.archive, film.study, files, identity)
        fraction = 100 * record["area_fraction"]
        return FilmState(DONE, f"lesion: {fraction:.1f} % of the image; stored {' and '.join(stored)}", stored=stored)


def _no_chest_film(fetched: Fetched) -> str:
    """Return why nobody wants a film segmented; empty for a chest film, and for one that does not say what it shows."""
    if is_own_result(fetched.header):
        return OWN_RESULT
    part = text(fetched.header, "BodyPartExamined")
    return "" if part in CHEST_WORDS else "its BodyPartExamined is not CHEST"
