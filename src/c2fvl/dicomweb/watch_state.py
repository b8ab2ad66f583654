"""What `c2fvl dicomweb watch` has done: a small file for each study, written whole, in one folder. No patient data."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from c2fvl.dicomweb.uids import is_uid
from c2fvl.files import storage
from c2fvl.files.parsing import parse_json
from c2fvl.files.partial import clear_partial, sole_user

DONE, FAILED, SKIPPED, OPEN = "done", "failed", "skipped", "open"
_STATUSES = (DONE, FAILED, SKIPPED, OPEN)
_KEPT_SECONDS = 100 * 24 * 60 * 60
"""A study that was not touched for so long is forgotten; the archive still knows what it has."""


@dataclass
class FilmState:
    """What became of one film."""

    status: str = OPEN
    """ "open" is to be done, or done again; "failed" is set aside; "skipped" is no chest film."""
    reason: str = ""
    tries: int = 0
    """How often work on it began without an end."""
    not_before: float = 0
    """The time, in seconds since 1970, before which it is not tried again."""
    stored: dict[str, str] = field(default_factory=dict)
    """The UIDs of the results by their kind."""


class WatchState:
    """The states of all films, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._studies: dict[str, dict[str, FilmState]] = {}
        for path in sorted(self._folder.glob("*.json")):
            if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                storage.remove_file(path)
            elif is_uid(path.stem):
                self._studies[path.stem] = _read(path)

    @property
    def _folder(self) -> Path:
        return self.folder / "studies"

    def film(self, study: str, uid: str) -> FilmState:
        """Return the state of a film; of a new one, that it is to be done."""
        return self._studies.get(study, {}).get(uid, FilmState())

    def note(self, study: str, uid: str, state: FilmState) -> None:
        """Set the state of a film and write it."""
        films = self._studies.setdefault(study, {})
        films[uid] = state
        content = {"films": {each: asdict(one) for each, one in films.items()}}
        storage.write_json(self._folder / f"{study}.json", content)

    def reopen_failed(self) -> int:
        """Let the films that were set aside be tried again; return their number."""
        failed = [(study, uid) for study, films in self._studies.items() for uid, one in films.items()
                  if one.status == FAILED]  # fmt: skip
        for study, uid in failed:
            self.note(study, uid, FilmState())
        return len(failed)


@contextlib.contextmanager
def opened_state(folder: Path | str) -> Iterator[WatchState]:
    """Yield the state in a folder, for this process alone.

    Raises `ValueError` where another process uses the folder, and for a file in it that cannot be read.
    """
    folder = storage.check_folder(folder, what="state")
    storage.make_folder(folder)
    with sole_user(folder) as is_sole:
        if not is_sole:
            raise ValueError(
                f"{folder} is used by another `c2fvl dicomweb watch`; stop that one, or give this one another folder "
                "with --state"
            )
        clear_partial(folder)  # images that a killed watch left
        yield WatchState(folder)


def _read(path: Path) -> dict[str, FilmState]:
    try:
        films = {uid: FilmState(**one) for uid, one in parse_json(path.read_bytes())["films"].items()}
        if not all(
            one.status in _STATUSES
            and isinstance(one.tries, int)
            and isinstance(one.reason, str)
            and isinstance(one.not_before, int | float)
            for one in films.values()
        ):
            raise ValueError("unknown values")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove it: what the archive has already is not stored again"
        ) from error
    return films
