"""What every request passes before it is answered, and what every answer carries. No torch.

The order: the Host header (against DNS rebinding), the Origin header and the header `X-C2FVL` (against other web
pages), the token, the length of the body. An error of the program is answered 500 without its words, which could hold a
report, and is logged by its type and place alone.
"""

import hmac
import logging
import time
import traceback
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from c2fvl.serve.problems import ProblemError
from c2fvl.serve.settings import ServerSettings

logger = logging.getLogger(__name__)

MARK = "X-C2FVL"
"""A header that every request must have that is no GET; a page of another origin cannot send it unasked."""
OPEN_PATHS = ("/", "/api/v1/health", "/api/v1/ready")
"""Answered without a token: the page holds no data."""
MONAI_LABEL_OPEN_PATHS = ("/auth/", "/auth/token")
"""Of the MONAI Label protocol: here clients ask whether a token is demanded, and log in."""
_MONAI_LABEL = ("/info/", "/session/", "/infer/", "/datastore/", "/activelearning/", "/train/", "/auth/")
"""How the paths of that protocol begin. Its clients send no header `X-C2FVL`; a browser tells the origin of a page."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"


class Guards:
    """The outermost layer of the server: it refuses, and it adds headers.

    `count` is told path, status and seconds of every answer. `policy` is the Content-Security-Policy of the page.
    """

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, policy: str, count: Callable[[str, int, float], None]
    ) -> None:
        self.app, self.settings, self.policy, self.count = app, settings, policy, count
        self.hosts = settings.hosts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._protect(MutableHeaders(scope=message), scope["path"], origin)
            await send(message)

        try:
            refused = self._refusal(scope, headers)
            if refused is not None:
                await refused(scope, receive, send_guarded)
            else:
                await self.app(scope, receive, send_guarded)
        except Exception as error:
            places = traceback.extract_tb(error.__traceback__)[-3:]
            where = " < ".join(f"{place.name}:{place.lineno}" for place in reversed(places))
            logger.error("an answer failed: %s at %s", type(error).__name__, where)
            if not status:
                detail = "The server failed at this request. Its log has the place."
                await ProblemError(500, detail).response()(scope, receive, send_guarded)
        finally:
            self.count(scope["path"], status, time.monotonic() - began)

    def _protect(self, headers: MutableHeaders, path: str, origin: str) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        headers["Content-Security-Policy"] = self.policy if path == "/" else _NO_CONTENT_POLICY
        if origin in self.settings.allowed_origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
            headers["Vary"] = "Origin"

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that goes no further."""
        try:
            self._check_host(headers)
            is_foreign = self._check_origin(headers)
            if scope["method"] == "OPTIONS" and is_foreign:
                return Response(status_code=204, headers=_PREFLIGHT)
            is_monai_label = self.settings.monai_label and scope["path"].startswith(_MONAI_LABEL)
            if scope["method"] not in ("GET", "HEAD") and MARK not in headers and not is_monai_label:
                raise ProblemError(403, f"The request has no header {MARK}. Send it with any value, such as 1.")
            self._check_token(scope["path"], headers)
            self._check_length(headers, is_counted_later=is_monai_label)
        except ProblemError as problem:
            return problem.response()
        return None

    def _check_host(self, headers: Headers) -> None:
        values = headers.getlist("host")
        if len(values) != 1 or host_name(values[0]) not in self.hosts:
            raise ProblemError(
                421, "The Host header does not name this server. Use the address that it printed, or --allow-host."
            )

    def _check_origin(self, headers: Headers) -> bool:
        """Return whether the request comes from an allowed page of another origin; refuse other ones."""
        origin = headers.get("origin")
        if origin is None or origin.partition("://")[2] == headers["host"]:
            return False
        if origin in self.settings.allowed_origins:
            return True
        raise ProblemError(403, "Another web page asks. Start the server with --allow-origin to let that page do so.")

    def _check_token(self, path: str, headers: Headers) -> None:
        if self.settings.token is None or path in OPEN_PATHS:
            return
        if self.settings.monai_label and path in MONAI_LABEL_OPEN_PATHS:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self.settings.token.encode()):
            raise ProblemError(401, "This server demands its token. Send the header: Authorization: Bearer TOKEN.")

    def _check_length(self, headers: Headers, *, is_counted_later: bool) -> None:
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ProblemError(400, "The Content-Length is no number.")
        if not is_counted_later and int(length) > self.settings.limits.body_bytes:
            raise too_large(self.settings.limits.body_bytes)


_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": f"authorization, content-type, {MARK.lower()}",
}


def too_large(maximum: int) -> ProblemError:
    """Return the answer to a body that is too long."""
    return ProblemError(413, f"The request is larger than {maximum // 1_000_000} MB.")


def host_name(host: str) -> str:
    """Return the name in a Host header without its port: "[::1]:80" gives "::1"."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
