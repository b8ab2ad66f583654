"""The routes of the MONAI Label protocol, by which 3D Slicer and other viewers ask for a segmentation. No torch.

A client uploads an image once (a session), asks for it to be segmented, and gets a label map in the geometry of what it
sent. Nothing is trained and nothing is stored: images stay in memory for a while, and labels that a client wants to
save are refused, because a server that takes and drops them would lose work. `monai_label_params.py` has what a client
may ask for.
"""

import asyncio
import contextlib
import functools
import hmac
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from c2fvl.files.nifti import read_nifti_volume
from c2fvl.inference.outputs.nifti_nrrd import Grid, grid_of_nifti, nifti, nrrd
from c2fvl.inference.outputs.of_prediction import in_grid
from c2fvl.inference.volumes import predict_volume, report_on_slices
from c2fvl.serve.answers import Answer, Done, record
from c2fvl.serve.forms import Counter, FormBounds, PredictForm, form_of, read_body, read_json
from c2fvl.serve.monai_label_params import (
    Params,
    check_image,
    check_is_for_ct,
    check_is_for_films,
    check_is_read,
    check_is_used,
    config_of,
    is_for_ct,
    labels_of,
    params_of,
)
from c2fvl.serve.networks import ServedModel, ServedModels
from c2fvl.serve.problems import ProblemError
from c2fvl.serve.service import Service, client_errors, while_connected
from c2fvl.serve.settings import Limits
from c2fvl.serve.volumes import Ending, SlicePredictor
from c2fvl.version import __version__

NOT_STORED = (
    "This server stores no images and no labels, and it does not train. Save the segmentation in the viewer; in 3D "
    "Slicer with File > Save."
)
_ONE_FILE = "Send one image as one file, such as NIfTI; a DICOM series must be converted first."
_MAX_DRAINED = 4
"""Times `Limits.volume_bytes`: as much is read of a refused body, so that its client sees the reason."""
_Endpoint = Callable[[Request], Awaitable[Response]]


def _reading_all(endpoint: _Endpoint) -> _Endpoint:
    """Return an endpoint that reads a refused body to its end, since clients send all of it before they listen."""

    @functools.wraps(endpoint)
    async def whole(request: Request) -> Response:
        service: Service = request.app.state.service
        is_over = False

        async def receive() -> Message:
            nonlocal is_over
            message = await request.receive()
            is_over = message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        try:
            return await endpoint(Request(request.scope, receive))
        except ProblemError as problem:
            left = _MAX_DRAINED * service.limits.volume_bytes
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(service.limits.volume_upload_seconds):
                    while not is_over and left > 0:
                        left -= len((await receive()).get("body", b""))
            return problem.response()

    return whole


# what the server has


async def _info(request: Request) -> Response:
    models: ServedModels = request.app.state.service.models
    entries = {name: _entry(model) for name, model in models.by_name.items()}
    return JSONResponse(
        {
            "name": "c2fvl",
            "description": "Text-guided segmentation of chest images. Research use, not for diagnosis.",
            "version": __version__,
            "labels": list(dict.fromkeys(label for entry in entries.values() for label in entry["labels"])),
            "models": entries,
            "trainers": {},
            "strategies": {},
            "scoring": {},
            "train_stats": {},
            "datastore": {"total": 0, "completed": 0, "label_tags": {}},
        }
    )


def _entry(model: ServedModel) -> dict[str, Any]:
    for_ct = is_for_ct(model)
    by = model.plain.model
    return {
        "type": "segmentation",
        "labels": labels_of(model),
        "dimension": 3 if for_ct else 2,
        "description": f"{by.name} for {'CT volumes' if for_ct else 'chest films'}. Research use, not for diagnosis.",
        "config": config_of(model),
    }


async def _datastore(request: Request) -> Response:
    return JSONResponse({"objects": {}})


async def _not_stored(request: Request) -> Response:
    raise ProblemError(501, NOT_STORED)


async def _next_sample(request: Request) -> Response:
    service: Service = request.app.state.service
    with service.held.of_a_request() as counter:
        await read_json(request, counter, service.limits)
    return JSONResponse({})


async def _no_training(request: Request) -> Response:
    raise ProblemError(404, "No training runs. " + NOT_STORED)


# log in


async def _auth(request: Request) -> Response:
    return JSONResponse({"enabled": request.app.state.token is not None, "client_id": "", "realm": ""})


async def _token(request: Request) -> Response:
    service: Service = request.app.state.service
    token: str | None = request.app.state.token
    with service.held.of_a_request() as counter:
        body = await read_body(request, counter, service.limits)
    if token is None:
        return JSONResponse({"access_token": None, "token_type": None})
    try:
        given = parse_qs(body.decode(), max_num_fields=8).get("password", [""])
    except ValueError as error:
        raise ProblemError(400, "The body is no form with username and password.") from error
    if not hmac.compare_digest(given[0].encode(), token.encode()):
        raise ProblemError(401, "The password is wrong. It is the token of the server; the user name does not matter.")
    return JSONResponse({"access_token": token, "token_type": "bearer"})


async def _valid_token(request: Request) -> Response:
    return JSONResponse({"username": "", "roles": ["user"]})


# sessions


async def _create_session(request: Request) -> Response:
    service: Service = request.app.state.service
    expiry = request.query_params.get("expiry", "0")
    if not (expiry.isascii() and expiry.isdigit()):
        raise ProblemError(422, "The expiry must be a number of seconds.", field="expiry")
    if request.query_params.get("uncompress", "false").lower() not in ("false", "0"):
        raise ProblemError(422, f"Archives are not opened. {_ONE_FILE}", field="uncompress")
    with service.held.of_a_request() as counter:
        _, image = await _read_form(request, counter, service.limits, "files")
    if image is None:
        raise ProblemError(422, f"The form has no image in the field `files`. {_ONE_FILE}", field="files")
    check_image(image)
    session = service.sessions.add(image, float(expiry))
    return JSONResponse({"session_id": session.name, "session_info": session.info()})


async def _session(request: Request) -> Response:
    sessions = request.app.state.service.sessions
    name = request.path_params["session_id"]
    found = sessions.remove(name) if request.method == "DELETE" else sessions.find(name)
    return JSONResponse(found.info())


async def _read_form(
    request: Request, counter: Counter, limits: Limits, file_field: str
) -> tuple[dict[str, str], bytes | None]:
    """Return the text fields of a form and the content of its file, None without one."""
    bounds = FormBounds(limits.volume_bytes, limits.fields, limits.params_bytes, limits.volume_upload_seconds)
    texts: dict[str, str] = {}
    image: bytes | None = None
    async with form_of(request, counter, bounds, _ONE_FILE) as items:
        for name, value in items:
            if isinstance(value, str):
                texts[name] = value
            elif isinstance(value, UploadFile) and name == file_field:
                image = await value.read()
            else:
                raise ProblemError(422, f"The form has a file that is not used; the field is `{file_field}`.")
    return texts, image


# segmentation


@dataclass(frozen=True)
class _Asked:
    """A request for a segmentation."""

    model: ServedModel
    image: bytes
    params: Params
    output: str
    began: float

    def answer(self, record: dict[str, Any], mask: NDArray[Any], grid: Grid) -> Answer:
        """Return a mask in the pixel grid of the image, and its record, as the client asked for them."""
        said = {
            "label_names": labels_of(self.model),
            "latencies": {"total": round(time.monotonic() - self.began, 3)},
            **record,
        }
        about = json.dumps(said, allow_nan=False).encode()
        if self.output == "json":
            return Answer(about, "application/json", "")
        extension = self.params.extension
        name = f"c2fvl_{secrets.token_hex(8)}{extension}"  # stock clients save under it, beside other results
        content = nrrd(mask, grid, compress=self.params.compress) if extension == ".nrrd" else nifti(mask, grid)
        if self.output == "image":
            return Answer(content, "application/octet-stream", name)
        boundary = secrets.token_hex(24)
        lines = (
            f"--{boundary}",
            'Content-Disposition: form-data; name="params"',
            "Content-Type: application/json",
            "",
            about.decode(),
            f"--{boundary}",
            f'Content-Disposition: form-data; name="image"; filename="{name}"',
            "Content-Type: application/octet-stream",
            "",
            "",
        )
        body = b"".join(("\r\n".join(lines).encode(), content, f"\r\n--{boundary}--\r\n".encode()))
        return Answer(body, f"multipart/form-data; boundary={boundary}", "")


async def _infer(request: Request) -> Response:
    service: Service = request.app.state.service
    began = time.monotonic()
    model = _model(service.models, request.path_params["model"])
    output = request.query_params.get("output", "all")
    if output not in ("all", "image", "json"):
        raise ProblemError(422, "The output must be all, image or json.", field="output")
    with service.held.of_a_request() as counter:
        texts, sent = await _read_form(request, counter, service.limits, "file")
        params = params_of(texts.get("params") or "{}", model, service.limits)
        asked = _Asked(model, _image(service, request, sent), params, output, began)
        with service.queue.place():
            work = (_volume if is_for_ct(model) else _film)(service, asked)
            answer = await while_connected(request, work, service.limits.volume_seconds)
    headers = {"Content-Disposition": f'attachment; filename="{answer.file_name}"'} if answer.file_name else {}
    return Response(answer.content, headers={**headers, "Content-Type": answer.media_type})


def _model(models: ServedModels, name: str) -> ServedModel:
    """Return a model by the name in a path, in which stock clients write a blank as "+"."""
    return models.find(name if name in models.by_name else name.replace("+", " "))


def _image(service: Service, request: Request, sent: bytes | None) -> bytes:
    session = request.query_params.get("session_id", "")
    if sent is not None and session:
        raise ProblemError(422, "Send a file or a session_id, not both.", field="session_id")
    if session:
        return service.sessions.find(session, used=True).image
    if not sent:
        raise ProblemError(404, "This server has no images of its own. Send the image in a session, or as `file`.")
    check_image(sent)
    return sent


async def _film(service: Service, asked: _Asked) -> Answer:
    image, params = asked.image, asked.params
    await service.in_pool(lambda: check_is_for_films(asked.model, image, service.models))
    params.check_orientation(image)

    def answer(done: Done) -> Answer:
        check_is_read(done.prediction.given)
        return asked.answer(record(done), *in_grid(done.prediction))

    form = PredictForm(image, params.report, params.orientation, params.trust, params.threshold, asked.model.name)
    return await service.predict(form, answer)


async def _volume(service: Service, asked: _Asked) -> Answer:
    model, params = asked.model, asked.params
    check_is_for_ct(model, asked.image)

    def work(ending: Ending) -> Answer:
        with client_errors():
            predictor = SlicePredictor(model, service.network, trust=params.trust, threshold=params.threshold)
            given = predictor.understand_or_refuse(params.report, orientation=params.orientation, default="patient")
            check_is_read(given)
            check_is_used(given, report_on_slices(given.report, reads_images=predictor.reads_images))
            ending.stage("read")
            volume = read_nifti_volume(asked.image)
            if math.prod(volume.values.shape[1:]) > service.limits.pixels:
                raise ValueError(f"the slices have more than {service.limits.pixels} pixels")
            found = predict_volume(predictor, volume, params.report, orientation=params.orientation, progress=ending)
        about = found.to_dict()
        about["model"]["path"] = model.name  # its place on this machine is not told
        grid = grid_of_nifti(volume.grid)
        return asked.answer(about, found.mask_in_file.reshape(grid.shape), grid)

    return await service.volumes.run(work)


def _route(path: str, endpoint: _Endpoint, *methods: str) -> Route:
    return Route(path, _reading_all(endpoint), methods=list(methods))


MONAI_LABEL_ROUTES = (
    _route("/info/", _info, "GET"),
    _route("/session/", _create_session, "PUT"),
    _route("/session/{session_id}", _session, "GET", "DELETE"),
    _route("/infer/{model}", _infer, "POST"),
    _route("/datastore/", _datastore, "GET"),
    _route("/datastore/", _not_stored, "PUT"),
    _route("/datastore/image", _not_stored, "GET", "PUT", "DELETE"),
    _route("/datastore/label", _not_stored, "GET", "PUT", "DELETE"),
    _route("/activelearning/{strategy}", _next_sample, "POST"),
    _route("/train/", _no_training, "GET", "POST", "DELETE"),
    _route("/train/{model}", _no_training, "POST"),
    _route("/auth/", _auth, "GET"),
    _route("/auth/token", _token, "POST"),
    _route("/auth/token/valid", _valid_token, "GET"),
)
