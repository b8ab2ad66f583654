"""Start and stop a server: its socket, its certificate, its token. No torch."""

import logging
import secrets
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from c2fvl.serve.settings import ServerSettings, is_loopback

_MIN_TOKEN = 16
_STOP_SECONDS = 10


@dataclass(frozen=True)
class Certificate:
    """The files of TLS."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raise `ValueError` for files that are no certificate with its key."""
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            raise ValueError(
                f"--tls-cert {self.certificate} and --tls-key {self.key} cannot be used ({reason}); give a certificate "
                "and its key as PEM files"
            ) from error


def read_token(path: Path) -> str:
    """Return the token in a file; raises `ValueError` for one that is short or no single word."""
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{path}: the token must be one word of at least {_MIN_TOKEN} ASCII characters; make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


def new_token() -> str:
    """Return a new token."""
    return secrets.token_urlsafe(32)


def bind(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens; raises `ValueError` where it cannot, such as at a port that is taken."""
    host, port = settings.host.strip("[]"), settings.port
    if port > 65535:
        raise ValueError(f"--port must be between 0 and 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(f"--host {host} is no address of this machine ({error.strerror or error})") from error
    try:
        if sys.platform != "win32":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        reason = "the port is taken" if error.errno in _TAKEN else error.strerror or str(error)
        raise ValueError(
            f"cannot listen at {host} port {port}: {reason}. Give another one with --port, or --port 0 for any free one"
        ) from error
    return found


_TAKEN = {98, 48, 10048}
"""EADDRINUSE of Linux, macOS and Windows."""


def address_of(settings: ServerSettings, listening: socket.socket, *, secure: bool) -> str:
    """Return the address to open in a browser."""
    host = settings.host.strip("[]")
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{name}:{listening.getsockname()[1]}/"


def run(
    app: ASGIApp,
    settings: ServerSettings,
    listening: socket.socket,
    *,
    certificate: Certificate | None = None,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal; requests that are being answered get some seconds to end. `started` is called once.

    No access log is written, and messages of the package that could hold a report are not logged.
    """
    quiet_logs()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_STOP_SECONDS,
        h11_max_incomplete_event_size=32_768,
        http="h11",
        loop="asyncio",
        ssl_certfile=None if certificate is None else certificate.certificate,
        ssl_keyfile=None if certificate is None else certificate.key,
    )
    server = _Server(config, started)
    server.run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            threading.Thread(target=self._when_started, daemon=True).start()


def quiet_logs() -> None:
    """Keep out of the logs what is said about single images and reports: it quotes them, as pydicom quotes values."""
    warnings.simplefilter("ignore")
    for name in _QUOTING:
        logging.getLogger(name).setLevel(logging.CRITICAL)


_QUOTING = (
    "c2fvl.inference", "c2fvl.files", "c2fvl.reports", "c2fvl.data",
    "uvicorn", "asyncio", "pydicom", "highdicom", "nibabel", "PIL",
)  # fmt: skip


def needs_token(host: str) -> bool:
    """Tell whether a server at this host must demand a token."""
    return not is_loopback(host)
