"""Requests to one archive over HTTP: credentials, limits of time and size, and errors in words.

An archive is not trusted: no answer is followed to another address, none is larger than the caller allows, and none
takes longer than the limit. Proxies, passwords and certificates of the environment are not used.
"""

import base64
import ipaddress
import ssl
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from c2fvl.files.parsing import parse_json

_CHUNK = 65536
_CONNECT_SECONDS = 10
_MAX_JSON = 16 * 2**20
_MAX_SECRET = 65536
_JSON_TYPES = ("application/dicom+json", "application/json")
_AWAY = {
    HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT,
}  # fmt: skip
"""Statuses after which the same request may succeed later."""


class ArchiveError(ValueError):
    """The archive refuses a request, or its answer is of no use."""


class ArchiveAwayError(ArchiveError):
    """The archive does not answer now; it may later."""


class ObjectError(ArchiveError):
    """One object cannot be had or stored; others may."""


@dataclass(frozen=True)
class Credentials:
    """What the archive is told of the user: a bearer token, or a name and a password, each from a file."""

    token_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("--user and --password-file belong together; give both")
        if self.token_file is not None and self.user is not None:
            raise ValueError("--token-file and --user exclude each other; give one")

    @property
    def is_given(self) -> bool:
        """Tell whether there are any."""
        return self.token_file is not None or self.user is not None

    def header(self) -> dict[str, str]:
        """Return the header that carries them, with the files as they are now."""
        if self.token_file is not None:
            return {"Authorization": f"Bearer {_secret(self.token_file)}"}
        if self.password_file is not None:
            pair = f"{self.user}:{_secret(self.password_file)}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}
        return {}


def _secret(path: Path) -> str:
    """Return the only line of a file."""
    with path.open("rb") as file:
        content = file.read(_MAX_SECRET + 1)
    try:
        found = content.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        found = ""
    if not found or not found.isprintable() or len(content) > _MAX_SECRET:
        raise ValueError(f"{path} must hold one line, the token or the password, and nothing else")
    return found


@dataclass(frozen=True)
class Answer:
    """What the archive answered to a request that it did not refuse."""

    status: int
    content_type: str
    body: bytes


class Connection:
    """The way to one archive.

    `url` is the root of its DICOMweb services, such as http://127.0.0.1:8042/dicom-web. `timeout` is the longest
    silence of the archive in seconds; a whole answer may take ten times as long. Raises `ValueError` for a URL that
    cannot be used, and for credentials that would travel unencrypted to another machine unless `unencrypted`.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials = Credentials(),
        *,
        ca_file: Path | None = None,
        timeout: float = 60,
        unencrypted: bool = False,
    ) -> None:
        import requests

        self._requests: Any = requests
        parts = _checked_url(url)
        self.url = parts.geturl().rstrip("/")
        self.is_exposed = parts.scheme == "http" and not _is_loopback(parts.hostname or "")
        if credentials.is_given and self.is_exposed and not unencrypted:
            raise ValueError(
                "the URL begins with http://, so the password or token would travel unencrypted to another machine; "
                "use https://, or --allow-unencrypted if the network itself is protected"
            )
        self._credentials, self._timeout = credentials, timeout
        self._authorization = credentials.header()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update({"User-Agent": "c2fvl", "Accept-Encoding": "identity"})
        if ca_file is not None:
            _check_ca_file(ca_file)
            self._session.verify = str(ca_file)

    def renew_credentials(self) -> None:
        """Read the files of the credentials again; while one cannot be read, what was read before is used."""
        try:
            self._authorization = self._credentials.header()
        except (OSError, ValueError):
            return

    def get_json(self, path: str, parameters: dict[str, str]) -> list[Any]:
        """Return the list that a search answers; empty where nothing is found."""
        accept = ", ".join(_JSON_TYPES)
        answer = self.request("GET", path, parameters=parameters, headers={"Accept": accept}, limit=_MAX_JSON)
        if answer.status == HTTPStatus.NO_CONTENT or not answer.body.strip():
            return []
        kind = answer.content_type.partition(";")[0].strip().lower()
        if kind not in _JSON_TYPES:
            raise ArchiveError(self._no_dicomweb(f"it answers with {kind or 'no content type'}, expected JSON"))
        try:
            found = parse_json(answer.body)
        except ValueError as error:
            raise ArchiveError(self._no_dicomweb("its answer is no JSON that can be read")) from error
        if not isinstance(found, list):
            raise ArchiveError(self._no_dicomweb("its answer to a search is no list"))
        return found

    def request(
        self,
        method: str,
        path: str,
        *,
        limit: int,
        parameters: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
        accepted: tuple[int, ...] = (),
    ) -> Answer:
        """Return the answer to a request, of at most `limit` bytes; statuses `accepted` are no error.

        Raises `ArchiveAwayError` where the archive does not answer or is busy, `ObjectError` for what it does not have,
        and `ArchiveError` for other refusals.
        """
        errors = self._requests.exceptions
        end = time.monotonic() + 10 * self._timeout
        try:
            with self._session.request(
                method, f"{self.url}{path}", params=parameters, data=data,
                headers={**(headers or {}), **self._authorization}, stream=True, allow_redirects=False,
                timeout=(min(_CONNECT_SECONDS, self._timeout), self._timeout),
            ) as response:  # fmt: skip
                status = response.status_code
                if status not in accepted:
                    self._check(status, response.headers, path)
                body = self._read(response, limit, end)
                return Answer(status, response.headers.get("Content-Type", ""), body)
        except errors.SSLError as error:
            raise ArchiveError(
                f"{self.url}: the certificate is not trusted or TLS fails ({_tls_reason(error)}); name the certificate "
                "of your authority with --ca-file"
            ) from None
        except errors.Timeout:
            raise ArchiveAwayError(f"{self.url} does not answer within {self._timeout:g} s") from None
        except (errors.ConnectionError, errors.ChunkedEncodingError) as error:
            raise ArchiveAwayError(f"{self.url} {_broken(error)}") from None
        except (errors.RequestException, ValueError) as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(f"{self.url}: the request cannot be made ({type(error).__name__})") from None

    def _check(self, status: int, headers: Any, path: str) -> None:
        """Raise the error that a status means; none for success."""
        if status in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            return
        if 300 <= status < 400:
            to = str(headers.get("Location", "nowhere"))[:200]
            raise ArchiveError(
                f"{self.url} sends requests on to {to}; they are not followed. Give that address if it is right"
            )
        if status == HTTPStatus.UNAUTHORIZED:
            given = "refuses the password or token" if self._authorization else "wants a password or a token"
            raise ArchiveError(f"{self.url} {given} (401); see --token-file, and --user with --password-file")
        is_object, is_study = "/instances/" in path, path.startswith("/studies/")
        if status == HTTPStatus.FORBIDDEN and not is_object:
            raise ArchiveError(
                f"{self.url} does not allow this ({path.partition('?')[0]}, 403); ask for the right to it"
            )
        if status == HTTPStatus.NOT_FOUND:
            if is_study:
                raise ObjectError(f"the archive does not have this {'object' if is_object else 'study'} any more (404)")
            raise ArchiveError(self._no_dicomweb("there is nothing at this address (404)"))
        if status in _AWAY:
            raise ArchiveAwayError(f"{self.url} cannot answer now ({status})")
        if is_object:
            raise ObjectError(f"the archive does not give this object ({status})")
        raise ArchiveError(self._no_dicomweb(f"it refuses {path} ({status})"))

    def _read(self, response: Any, limit: int, end: float) -> bytes:
        """Return the body as it comes, within the limits."""
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise ArchiveError(f"{self.url} compresses its answers though it was asked not to")
        body = bytearray()
        while chunk := self._chunk(response):
            body += chunk
            if len(body) > limit:
                raise ObjectError(f"the answer is larger than {limit >> 20} MiB and was not read")
            if time.monotonic() > end:
                raise ArchiveAwayError(f"{self.url} takes more than {10 * self._timeout:g} s for one answer")
        return bytes(body)

    def _chunk(self, response: Any) -> bytes:
        """Return what has come of the body; errors of the layer below become those of requests."""
        from urllib3 import exceptions

        try:
            return bytes(response.raw.read1(_CHUNK, decode_content=False))
        except exceptions.ReadTimeoutError as error:
            raise self._requests.exceptions.ReadTimeout(error) from error
        except (exceptions.HTTPError, OSError) as error:
            raise self._requests.exceptions.ChunkedEncodingError(error) from error

    def _no_dicomweb(self, why: str) -> str:
        return (
            f"{self.url} does not answer as a DICOMweb service: {why}. Give the root of the service; of Orthanc, it is "
            "http://HOST:8042/dicom-web"
        )


def _checked_url(url: str) -> SplitResult:
    if "@" in url:  # first, so that no message repeats it
        raise ValueError(
            "the URL holds a user or a password, which other users of this machine can see; give --user and "
            "--password-file"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the URL {url!r} cannot be read ({error}); expected https://HOST/dicom-web") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"the URL is {url!r}; expected https://HOST/dicom-web, or http:// on this machine")
    if parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise ValueError(f"the URL is {url!r}; expected the root of a DICOMweb service, without ? and #")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_ca_file(path: Path) -> None:
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        raise ValueError(f"--ca-file {path} cannot be used ({reason}); give certificates as a PEM file") from error


def _causes(error: BaseException) -> list[BaseException]:
    """Return the errors that led to an error of requests, which hides them in arguments, contexts and reasons."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or any(one is other for other in found):
            continue
        found.append(one)
        waiting += [getattr(one, "reason", None), *one.args, one.__cause__, one.__context__]
    return found


def _broken(error: BaseException) -> str:
    """Return in words what broke a connection."""
    causes = _causes(error)
    if any(isinstance(one, ConnectionRefusedError) for one in causes):
        return "does not answer (connection refused)"
    words = " ".join(type(one).__name__ for one in causes)
    if "NameResolution" in words or "gaierror" in words:
        return "does not answer (its name is not known)"
    if "IncompleteRead" in words or "InvalidChunkLength" in words:
        return "cut its answer short"
    reason = next((one.strerror for one in causes if isinstance(one, OSError) and one.strerror), "")
    return f"does not answer ({reason.lower() or 'the connection broke'})"


def _tls_reason(error: BaseException) -> str:
    for one in _causes(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return str(one.verify_message)
    return next((str(one.reason) for one in _causes(error) if isinstance(one, ssl.SSLError) and one.reason), "unknown")
