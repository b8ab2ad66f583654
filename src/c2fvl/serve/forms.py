"""The body of a request: counted while it comes in, kept in memory alone, and checked field by field. No torch.

Names of uploaded files are never used.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from c2fvl.files.parsing import parse_json
from c2fvl.reports.zones import ORIENTATIONS
from c2fvl.serve.guards import too_large
from c2fvl.serve.problems import ProblemError
from c2fvl.serve.settings import Limits

FIELDS = ("report", "orientation", "trust", "threshold", "model")
"""Of `predict`, beside the image."""


@dataclass(frozen=True)
class PredictForm:
    """What a request asks a prediction for."""

    image: bytes
    report: str | None = None
    orientation: str | None = None
    trust: float | None = None
    threshold: float | None = None
    model: str | None = None


class HeldBytes:
    """How many bytes of bodies are in memory."""

    def __init__(self, maximum: int) -> None:
        self.maximum, self.number = maximum, 0

    @contextlib.contextmanager
    def of_a_request(self) -> Iterator["Counter"]:
        """Within this context the bytes of one request are counted; they are given back at its end."""
        counter = Counter(self)
        try:
            yield counter
        finally:
            self.number -= counter.number


class Counter:
    """The bytes of one request."""

    def __init__(self, held: HeldBytes) -> None:
        self.held, self.number = held, 0

    def add(self, number: int) -> None:
        """Count further bytes; raises `ProblemError` 503 where all requests together hold too many."""
        self.number += number
        self.held.number += number
        if self.held.number > self.held.maximum:
            raise ProblemError(503, "The server holds too many images at once. Try again soon.", retry_after=2)

    async def counted(self, stream: AsyncGenerator[bytes, None], maximum: int) -> AsyncGenerator[bytes, None]:
        """Pass a body on while it is counted; raises `ProblemError` 413 beyond `maximum`."""
        async for chunk in stream:
            self.add(len(chunk))
            if self.number > maximum:
                raise too_large(maximum)
            yield chunk


async def read_predict_form(request: Request, counter: Counter, limits: Limits) -> PredictForm:
    """Return the checked fields of a request to predict; raises `ProblemError` for what cannot be taken."""
    bounds = FormBounds(limits.body_bytes, limits.fields, limits.field_bytes, limits.upload_seconds)
    async with form_of(request, counter, bounds, "Send the image in the field `image`.") as items:
        return await _checked(items, limits)


@dataclass(frozen=True)
class FormBounds:
    """What a form may hold beside its one file, and how long it may take; every number is a maximum."""

    body_bytes: int
    fields: int
    field_bytes: int
    seconds: float


@contextlib.asynccontextmanager
async def form_of(
    request: Request, counter: Counter, bounds: FormBounds, advice: str
) -> AsyncIterator[list[tuple[str, Any]]]:
    """Give the fields of a form within this context, in which its file is kept in memory.

    Raises `ProblemError` for a body that is no form or not within `bounds`, with `advice` on what to send.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ProblemError(415, f"The body is no multipart/form-data. {advice}")
    parser = MultiPartParser(
        request.headers,
        counter.counted(request.stream(), bounds.body_bytes),
        max_files=1,
        max_fields=bounds.fields,
        max_part_size=bounds.field_bytes,
    )
    parser.spool_max_size = 2 * bounds.body_bytes  # no upload is ever written to the disk
    try:
        async with asyncio.timeout(bounds.seconds):
            form = await parser.parse()
    except TimeoutError:
        raise _too_slow(bounds.seconds) from None
    except MultiPartException as error:
        raise ProblemError(400, f"The form cannot be read: {error.message} {advice}") from error
    async with contextlib.AsyncExitStack() as stack:
        for value in form.values():
            if isinstance(value, UploadFile):
                stack.push_async_callback(value.close)
        yield form.multi_items()


async def _checked(items: list[tuple[str, Any]], limits: Limits) -> PredictForm:
    image: bytes | None = None
    texts: dict[str, str] = {}
    for name, value in items:
        if name == "image" and isinstance(value, UploadFile):
            image = await value.read()
        elif name in FIELDS and isinstance(value, str) and name not in texts:
            texts[name] = value
        else:
            known = ", ".join(("image", *FIELDS))
            raise ProblemError(
                422, f"The form has a field that is not known, twice there or of the wrong kind. Fields: {known}."
            )
    if not image:
        raise ProblemError(422, "The form has no image. Send a file in the field `image`.", field="image")
    return PredictForm(
        image,
        checked_report(texts.get("report"), limits),
        checked_orientation(texts.get("orientation")),
        checked_fraction("trust", texts.get("trust")),
        checked_fraction("threshold", texts.get("threshold")),
        texts.get("model") or None,
    )


def checked_report(report: Any, limits: Limits) -> str | None:
    """Return a report, None for a blank one."""
    if report is None:
        return None
    if not isinstance(report, str):
        raise ProblemError(422, "The report must be a text.", field="report")
    if len(report) > limits.report_characters:
        detail = f"The report has {len(report)} characters; give at most {limits.report_characters}."
        raise ProblemError(422, detail, field="report")
    return report if report.strip() else None


def checked_orientation(orientation: Any) -> str | None:
    """Return "patient" or "image", None if nothing is said."""
    if orientation is None or orientation == "":
        return None
    if orientation == "viewer":
        return "image"
    if orientation not in ORIENTATIONS:
        detail = "The orientation must be 'patient' (the patient's left) or 'image' (left of the image)."
        raise ProblemError(422, detail, field="orientation")
    return str(orientation)


def checked_fraction(name: str, text: str | None) -> float | None:
    """Return a trust or a threshold, None if nothing is said."""
    if text is None or not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    is_inside = 0 <= number <= 1 if name == "trust" else 0 < number < 1
    if not is_inside:
        raise ProblemError(422, f"The {name} must be a number between 0 and 1.", field=name)
    return number


async def read_json(request: Request, counter: Counter, limits: Limits) -> dict[str, Any]:
    """Return the JSON object of a request; raises `ProblemError` for a body that is none."""
    return parsed_json(await read_body(request, counter, limits), "The body")


async def read_body(request: Request, counter: Counter, limits: Limits) -> bytes:
    """Return a short body. Raises `ProblemError` for one that is longer than `limits.json_bytes` or comes slowly."""
    chunks = []
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for chunk in counter.counted(request.stream(), limits.json_bytes):
                chunks.append(chunk)
    except TimeoutError:
        raise _too_slow(limits.upload_seconds) from None
    return b"".join(chunks)


def parsed_json(content: str | bytes, what: str) -> dict[str, Any]:
    """Return a JSON object; raises `ProblemError` 400 for a content that is none, and calls it `what`."""
    try:
        found = parse_json(content.decode("utf-8") if isinstance(content, bytes) else content)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, f"{what} is no JSON object in UTF-8.") from error
    if not isinstance(found, dict):
        raise ProblemError(400, f"{what} is JSON, but no object.")
    return found


def _too_slow(seconds: float) -> ProblemError:
    return ProblemError(408, f"The request took more than {seconds:.0f} s to arrive.")
