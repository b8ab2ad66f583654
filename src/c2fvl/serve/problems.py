"""Errors as the server answers them: problem JSON (RFC 9457). No torch."""

from http import HTTPStatus

from starlette.responses import JSONResponse, Response


class ProblemError(Exception):
    """A request that is not answered, with its status and the reason in words for the client."""

    def __init__(self, status: int, detail: str, *, field: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.field, self.retry_after = status, detail, field, retry_after

    def response(self) -> Response:
        """Return the answer."""
        content: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.field is not None:
            content["field"] = self.field
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
            headers["Connection"] = "close"  # the rest of the body is not waited for
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(content, self.status, headers, media_type="application/problem+json")
