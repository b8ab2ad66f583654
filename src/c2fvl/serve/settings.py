"""What a server is told when it starts, and its limits. No torch."""

import ipaddress
import socket
from dataclasses import dataclass

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What one request and all requests together may take; every number is a maximum."""

    body_bytes: int = 30 * MEGABYTE
    json_bytes: int = 64_000
    held_bytes: int = 400 * MEGABYTE
    """Of all bodies that are in memory at once."""
    fields: int = 8
    field_bytes: int = 16_384
    report_characters: int = 4_000
    pixels: int = 36_000_000
    queue: int = 64
    """Requests that wait or are computed; a further one is answered 503."""
    prepared: int = 8
    """Images that are decoded at once, and the size of a batch."""
    upload_seconds: float = 30.0
    answer_seconds: float = 120.0
    view_side: int = 1024
    """Pixels of the longer side of what the page shows."""
    volume_bytes: int = 250 * MEGABYTE
    """Of an image that a client of the MONAI Label protocol sends: a CT volume, compressed."""
    params_bytes: int = 64_000
    sessions: int = 16
    """Images that are kept for these clients; the oldest is dropped for a new one."""
    session_bytes: int = 600 * MEGABYTE
    session_seconds: float = 3600.0
    """After its last use an image is dropped."""
    volume_upload_seconds: float = 300.0
    volume_seconds: float = 900.0
    """For the answer to a volume, waiting included."""


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens and whom it answers."""

    host: str = "127.0.0.1"
    port: int = 8010
    token: str | None = None
    """Demanded of every request but those of the page and of `health` and `ready`; None demands nothing."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of this server beside its own, without a port."""
    allowed_origins: tuple[str, ...] = ()
    """Other pages that may ask, as `https://name:port`."""
    limits: Limits = Limits()
    monai_label: bool = False
    """Whether the MONAI Label protocol is answered too."""

    def hosts(self) -> frozenset[str]:
        """Return the names that the Host header of a request may have, without ports."""
        names = {*self.allowed_hosts, self.host.strip("[]")}
        if is_loopback(self.host):
            names |= {"localhost", "127.0.0.1", "::1"}
        elif self.host in ("0.0.0.0", "::"):
            names |= {"localhost", "127.0.0.1", "::1", socket.gethostname(), *_addresses()}
        return frozenset(name.lower() for name in names)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone: "localhost" or an address such as 127.0.0.1 or ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _addresses() -> set[str]:
    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return set()
    return {str(address[0]).partition("%")[0] for *_, address in found}
