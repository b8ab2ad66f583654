"""Images that clients of the MONAI Label protocol upload once and refer to: in memory alone, few, and not for long."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from c2fvl.serve.problems import ProblemError
from c2fvl.serve.settings import Limits

UNKNOWN = (
    "The server has no image for this session. It keeps images in memory only, for {minutes:.0f} minutes after their "
    "last use, and drops the oldest when it needs room. Load the image again."
)


@dataclass
class Session:
    """An uploaded image."""

    name: str
    """What requests call it by; nobody can guess it."""
    image: bytes = field(repr=False)
    expiry: float
    """Seconds after the last use."""
    created: float
    last_used: float

    def info(self) -> dict[str, object]:
        """Return what the protocol tells of a session, without a place on this machine."""
        return {
            "name": self.name, "path": "", "image": "", "meta": {}, "create_ts": int(self.created),
            "last_access_ts": int(self.last_used), "expiry": int(self.expiry),
        }  # fmt: skip


class Sessions:
    """The uploaded images, limited in number, bytes and time. A new one drops those that were not used for longest."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self.limits, self._clock = limits, clock
        self._sessions: dict[str, Session] = {}

    def add(self, image: bytes, expiry: float | None = None) -> Session:
        """Keep an image, for `expiry` seconds after its last use if that is shorter than the limit."""
        self.drop_expired()
        longest = self.limits.session_seconds
        now = self._clock()
        new = Session(secrets.token_hex(16), image, longest if not expiry else min(expiry, longest), now, now)
        while self._sessions and not self._has_room(len(image)):
            self._sessions.pop(min(self._sessions.values(), key=lambda session: session.last_used).name)
        self._sessions[new.name] = new
        return new

    def find(self, name: str, *, used: bool = False) -> Session:
        """Return a session, and count it as `used` now. Raises `ProblemError` 404 for one that is not, or no more."""
        self.drop_expired()
        if name not in self._sessions:
            raise ProblemError(404, UNKNOWN.format(minutes=self.limits.session_seconds / 60))
        found = self._sessions[name]
        if used:
            found.last_used = self._clock()
        return found

    def remove(self, name: str) -> Session:
        """Drop a session and return it. Raises `ProblemError` 404 as `find` does."""
        found = self.find(name)
        del self._sessions[name]
        return found

    def drop_expired(self) -> None:
        """Drop what was not used for too long."""
        now = self._clock()
        self._sessions = {
            name: session for name, session in self._sessions.items() if now < session.last_used + session.expiry
        }

    @property
    def num_bytes(self) -> int:
        """The bytes of all images that are kept."""
        return sum(len(session.image) for session in self._sessions.values())

    def __len__(self) -> int:
        return len(self._sessions)

    def _has_room(self, number: int) -> bool:
        return len(self) < self.limits.sessions and self.num_bytes + number <= self.limits.session_bytes
