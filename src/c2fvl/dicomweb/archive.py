"""The services of a DICOMweb archive that c2fvl uses: search (QIDO-RS), retrieve (WADO-RS) and store (STOW-RS)."""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from c2fvl.dicomweb import multipart
from c2fvl.dicomweb.connection import Answer, ArchiveAwayError, ArchiveError, Connection, ObjectError
from c2fvl.dicomweb.uids import is_uid
from c2fvl.files.dicom_headers import parse, value
from c2fvl.files.images import MAX_PIXELS
from c2fvl.files.parsing import parse_json

_STUDY, _SERIES, _OBJECT, _CLASS = "0020000D", "0020000E", "00080018", "00080016"
_MODALITY, _COUNT = "00080060", "00201208"
_STORED, _REFUSED, _REFERENCED, _REASON = "00081199", "00081198", "00081155", "00081197"
_PAGE = 200
_MAX_FOUND = 50_000
_MAX_OBJECT = 2 * MAX_PIXELS + 2**26
"""16-bit pixels of the largest film that is decoded, and its header."""
_MAX_STORE_ANSWER = 2**20
_REASONS = {
    0x0110: "processing failure", 0x0111: "it is there already", 0x0122: "its SOP class is not supported",
    0x0124: "not authorized", 0xA700: "out of resources", 0xA900: "it does not match its SOP class",
    0xC000: "it cannot be understood", 0xC122: "its transfer syntax is not supported",
}  # fmt: skip


@dataclass(frozen=True)
class FoundStudy:
    """A study that a search found."""

    uid: str
    count: int | None = None
    """The number of its objects, where the archive says it."""


@dataclass(frozen=True)
class FoundSeries:
    """A series that a search found."""

    study: str
    uid: str
    modality: str = ""


@dataclass(frozen=True)
class FoundObject:
    """An object, such as an image, that a search found."""

    study: str
    series: str
    uid: str
    sop_class: str = ""
    """Empty where the archive does not say it."""

    @property
    def path(self) -> str:
        """Return its address below the root of the archive, by which records name it."""
        return f"studies/{self.study}/series/{self.series}/instances/{self.uid}"


@dataclass(frozen=True)
class Fetched:
    """An object as the archive stores it."""

    found: FoundObject
    data: bytes
    header: Any
    """The `pydicom.Dataset`."""


class Archive:
    """An archive behind a `Connection`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.num_odd = 0
        """Search results that were left out because they have no UID that can be one."""

    def studies(self, *, modality: str, since: str) -> list[FoundStudy]:
        """Return the studies with series of a modality from a date on, YYYYMMDD."""
        found = self._search("/studies", _STUDY, ModalitiesInStudy=modality, StudyDate=f"{since}-", includefield=_COUNT)
        return [FoundStudy(uid, _count(item)) for uid, item in found]

    def has_study(self, study: str) -> bool:
        """Tell whether the archive has a study."""
        return any(uid == study for uid, _ in self._search("/studies", _STUDY, StudyInstanceUID=study))

    def series(self, study: str) -> list[FoundSeries]:
        """Return the series of a study."""
        found = self._search(f"/studies/{study}/series", _SERIES)
        return [FoundSeries(study, uid, _text(item, _MODALITY)) for uid, item in found]

    def objects(self, series: FoundSeries) -> list[FoundObject]:
        """Return the objects of a series."""
        found = self._search(f"/studies/{series.study}/series/{series.uid}/instances", _OBJECT)
        return [FoundObject(series.study, series.uid, uid, _text(item, _CLASS)) for uid, item in found]

    def has_object(self, study: str, uid: str) -> bool:
        """Tell whether a study has an object."""
        try:
            found = self._search(f"/studies/{study}/instances", _OBJECT, SOPInstanceUID=uid)
        except ObjectError:  # how some archives say that nothing is found
            return False
        return any(one == uid for one, _ in found)

    def fetch(self, found: FoundObject) -> Fetched:
        """Return an object in the transfer syntax in which it is stored.

        Raises `ObjectError` for an answer that is cut short, damaged, too large, or another object.
        """
        answer = self.connection.request(
            "GET", f"/{found.path}", limit=_MAX_OBJECT,
            headers={"Accept": f'multipart/related; type="{multipart.DICOM}"; transfer-syntax=*'},
        )  # fmt: skip
        try:
            parts = multipart.decode(answer.content_type, answer.body)
            if len(parts) != 1:
                raise ValueError(f"the answer holds {len(parts)} objects, expected one")
        except ValueError as error:
            raise ObjectError(str(error)) from error
        try:
            header = parse(parts[0])
        except ValueError as error:  # its message may quote the header
            raise ObjectError("the object is damaged and cannot be read as DICOM") from error
        expected = {"StudyInstanceUID": found.study, "SeriesInstanceUID": found.series, "SOPInstanceUID": found.uid}
        for name, uid in expected.items():
            if str(value(header, name) or "") != uid:
                raise ObjectError(f"the archive gave another object than was asked for: its {name} differs")
        return Fetched(found, parts[0], header)

    def store(self, study: str, objects: dict[str, bytes]) -> None:
        """Store objects, by their UIDs, and see to it that the archive has them.

        Raises `ObjectError` with the reason for what it does not take.
        """
        content_type, body = multipart.encode(list(objects.values()), secrets.token_hex(16))
        answer = self.connection.request(
            "POST", "/studies", data=body, limit=_MAX_STORE_ANSWER,
            headers={"Content-Type": content_type, "Accept": "application/dicom+json"},
            accepted=(HTTPStatus.ACCEPTED, HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.NOT_ACCEPTABLE,
                      HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        )  # fmt: skip
        stored, refused = _stored(answer)
        missing = [uid for uid in objects if uid not in stored]
        missing = [uid for uid in missing if not self.has_object(study, uid)]  # not every archive lists what it took
        if missing:
            reason = next((refused[uid] for uid in missing if uid in refused), f"status {answer.status}")
            raise ObjectError(f"the archive does not store {len(missing)} of {len(objects)} results ({reason})")

    def _search(self, path: str, key: str, **parameters: str) -> list[tuple[str, dict[str, Any]]]:
        """Return what a search finds, each with its UID, which stands under `key`.

        Archives cut long answers as they like, so pages are asked for until one brings nothing new.
        """
        found: dict[str, dict[str, Any]] = {}
        seen = 0
        while True:
            page = self._page(path, parameters, seen)
            new = 0
            for item in page:
                uid = _text(item, key)
                if not is_uid(uid):
                    self.num_odd += 1
                elif uid not in found:
                    found[uid] = item
                    new += 1
            seen += len(page)
            if not new:
                return list(found.items())
            if len(found) > _MAX_FOUND:
                raise ArchiveError(f"the search {path} finds more than {_MAX_FOUND} entries; ask for fewer")

    def _page(self, path: str, parameters: dict[str, str], offset: int) -> list[Any]:
        try:
            return self.connection.get_json(path, {**parameters, "limit": str(_PAGE), "offset": str(offset)})
        except ArchiveAwayError:
            raise
        except ArchiveError:
            if offset:  # some archives refuse to begin behind the last entry
                return []
            raise


def _stored(answer: Answer) -> tuple[set[str], dict[str, str]]:
    """Return the UIDs that the answer to a store lists as stored, and why others were refused."""
    try:
        found = parse_json(answer.body)
    except ValueError:
        return set(), {}
    if answer.status not in (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT):
        return set(), {}
    stored = {_text(item, _REFERENCED) for item in _items(found, _STORED)}
    refused = {}
    for item in _items(found, _REFUSED):  # always there, empty where all was stored
        code = _first(item, _REASON)
        reason = _REASONS.get(code, f"reason {code:04X}") if isinstance(code, int) else "no reason is given"
        refused[_text(item, _REFERENCED)] = reason
    return stored - set(refused), refused


def _items(found: Any, tag: str) -> Iterator[Any]:
    for one in found if isinstance(found, list) else [found]:
        element = one.get(tag) if isinstance(one, dict) else None
        items = element.get("Value") if isinstance(element, dict) else None
        yield from items if isinstance(items, list) else ()


def _first(item: Any, tag: str) -> Any:
    return next(_items(item, tag), None)


def _text(item: Any, tag: str) -> str:
    found = _first(item, tag)
    return found.strip(" \0") if isinstance(found, str) else ""


def _count(item: Any) -> int | None:
    found = _first(item, _COUNT)
    if isinstance(found, str) and re.fullmatch("[0-9]{1,9}", found):
        return int(found)
    return found if isinstance(found, int) else None
