"""The routes of the server: the page, and the REST interface under /api/v1. No torch.

A request to predict goes this way: its body is counted and read into memory; it takes a place in the queue, or is
answered 503; up to `Limits.prepared` images are decoded, computed in batches by the network's thread, and written as
the form that was asked for. A client that goes away gives its place back at once.
"""

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from c2fvl.data.phantom.examples import MODEL, NUM_EXAMPLES, reports
from c2fvl.serve.answers import FORMS
from c2fvl.serve.examples import example_image
from c2fvl.serve.forms import checked_orientation, checked_report, read_json, read_predict_form
from c2fvl.serve.guards import Guards
from c2fvl.serve.metrics import PREDICT
from c2fvl.serve.monai_label import MONAI_LABEL_ROUTES
from c2fvl.serve.networks import ServedModels
from c2fvl.serve.openapi import openapi
from c2fvl.serve.page_file import read_page
from c2fvl.serve.problems import ProblemError
from c2fvl.serve.readings import reading_of, sentence_from_zones
from c2fvl.serve.service import Service, while_connected
from c2fvl.serve.settings import ServerSettings


async def _predict(request: Request) -> Response:
    service: Service = request.app.state.service
    wanted = request.query_params.get("as", "json")
    if wanted not in FORMS:
        raise ProblemError(422, f"`as` must be one of {', '.join(FORMS)}.", field="as")
    with service.held.of_a_request() as counter:
        form = await read_predict_form(request, counter, service.limits)
        with service.queue.place():
            answer = await while_connected(request, service.predict(form, FORMS[wanted]), service.limits.answer_seconds)
    headers = (
        {} if wanted in ("json", "view") else {"Content-Disposition": f'attachment; filename="{answer.file_name}"'}
    )
    return Response(answer.content, headers=headers, media_type=answer.media_type)


async def _read(request: Request) -> Response:
    service: Service = request.app.state.service
    with service.held.of_a_request() as counter:
        body = await read_json(request, counter, service.limits)
    unknown = sorted(set(body) - {"report", "zones", "orientation", "model"})
    if unknown:
        raise ProblemError(422, "The body has a field that is not known. Fields: report, zones, orientation, model.")
    name = body.get("model")
    if name is not None and not isinstance(name, str):
        raise ProblemError(422, "The model must be a name.", field="model")
    report = sentence_from_zones(body["zones"]) if "zones" in body else body.get("report")
    text = checked_report(report, service.limits)
    return JSONResponse(reading_of(text, checked_orientation(body.get("orientation")), service.models.find(name)))


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    service: Service = request.app.state.service
    if not service.network.is_alive:
        raise ProblemError(503, "The network does not compute.", retry_after=5)
    if service.queue.taken >= service.queue.places:
        raise ProblemError(503, "The queue is full.", retry_after=1)
    return JSONResponse({"status": "ready"})


async def _models(request: Request) -> Response:
    return JSONResponse(request.app.state.service.models.about())


async def _info(request: Request) -> Response:
    service: Service = request.app.state.service
    limits = service.limits
    return JSONResponse(
        service.models.about()
        | {
            "use": "Research use, not for diagnosis.",
            "as": list(FORMS),
            "limits": {
                "body_bytes": limits.body_bytes,
                "pixels": limits.pixels,
                "report_characters": limits.report_characters,
                "queue": limits.queue,
            },
            "example_model": MODEL if MODEL in service.models.by_name else None,
            "examples": [{"number": number, "report": report} for number, report in enumerate(reports())],
        }
    )


async def _example(request: Request) -> Response:
    number = int(request.path_params["number"])
    if number >= NUM_EXAMPLES:
        raise ProblemError(404, f"There are the examples 0 to {NUM_EXAMPLES - 1}.")
    return Response(example_image(number), media_type="image/png")


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    gauges: dict[str, tuple[str, float]] = {
        "c2fvl_queue_taken": ("Requests that wait or are computed.", service.queue.taken),
        "c2fvl_queue_places": ("Places of the queue.", service.queue.places),
        "c2fvl_held_bytes": ("Bodies in memory.", service.held.number),
        "c2fvl_batches_total": ("Batches that the network computed.", service.network.num_batches),
        "c2fvl_images_total": ("Images that the network computed.", service.network.num_images),
    }
    return PlainTextResponse(service.metrics.text(gauges), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi(request.app.state.service.limits, tuple(FORMS)))


async def _page(request: Request) -> Response:
    return Response(request.app.state.page, media_type="text/html; charset=utf-8")


_ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("/", "GET", _page),
    (PREDICT, "POST", _predict),
    ("/api/v1/read", "POST", _read),
    ("/api/v1/health", "GET", _health),
    ("/api/v1/ready", "GET", _ready),
    ("/api/v1/info", "GET", _info),
    ("/api/v1/models", "GET", _models),
    ("/api/v1/metrics", "GET", _metrics),
    ("/api/v1/openapi.json", "GET", _openapi),
    ("/api/v1/examples/{number:int}", "GET", _example),
)


async def _problem(request: Request, error: Exception) -> Response:
    if isinstance(error, ProblemError):
        return error.response()
    status = error.status_code if isinstance(error, HTTPException) else 500
    return ProblemError(status, _DETAILS.get(status, "The request cannot be answered.")).response()


_DETAILS = {
    404: "There is nothing at this address.",
    405: "This address does not take this method.",
    500: "The server failed at this request. Its log has the place.",
}


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the metrics count it


def build_app(models: ServedModels, settings: ServerSettings) -> ASGIApp:
    """Return the server as an ASGI application."""
    service = Service(models, settings.limits, tuple(path for path, _, _ in _ROUTES))
    page, policy = read_page()
    app = Starlette(
        routes=[
            *(Route(path, endpoint, methods=[method]) for path, method, endpoint in _ROUTES),
            *(MONAI_LABEL_ROUTES if settings.monai_label else ()),
        ],
        exception_handlers={
            ProblemError: _problem,
            HTTPException: _problem,
            ClientDisconnect: _gone,
            Exception: _problem,
        },
        lifespan=service.running,
    )
    app.state.service, app.state.page, app.state.token = service, page, settings.token
    return Guards(app, settings, policy, service.metrics.count)
