"""The description of the REST interface (OpenAPI 3.1). No torch."""

from typing import Any

from c2fvl.serve.guards import MARK
from c2fvl.serve.settings import Limits
from c2fvl.version import __version__

_OBJECT = {"type": "object"}
_ORIENTATION = {
    "type": "string",
    "enum": ["patient", "image"],
    "description": "Whose left the report's left is. Without it: the image's for a caption, the patient's otherwise.",
}
_ERRORS = {
    "400": "The body cannot be read.",
    "401": "The token is missing or wrong.",
    "403": "Another web page asks, or the header X-C2FVL is missing.",
    "404": "There is no such model or address.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The body is no form.",
    "421": "The Host header does not name this server.",
    "422": "A field, the image or the report cannot be used; `detail` says why.",
    "500": "The server failed.",
    "503": "The queue is full; `Retry-After` says when to ask again.",
    "504": "The answer took too long.",
}


def openapi(limits: Limits, forms: tuple[str, ...]) -> dict[str, Any]:
    """Return the description for these limits and forms of an answer."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "c2fvl",
            "version": __version__,
            "description": "Text-guided segmentation of chest images. Research use, not for diagnosis.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": {
            "/api/v1/predict": {"post": _predict(limits, forms)},
            "/api/v1/read": {"post": _read(limits)},
            "/api/v1/health": {"get": _get("Tell that the server answers.", _OBJECT)},
            "/api/v1/ready": {"get": _get("Tell whether a further request would be taken.", _OBJECT)},
            "/api/v1/info": {"get": _get("Models, limits and forms of answers.", _OBJECT)},
            "/api/v1/models": {"get": _get("The models and the default.", _OBJECT)},
            "/api/v1/metrics": {"get": _get("Counters for Prometheus.", None, "text/plain")},
            "/api/v1/openapi.json": {"get": _get("This description.", _OBJECT)},
            "/api/v1/examples/{number}": {
                "get": _get("A synthetic image.", None, "image/png")
                | {"parameters": [{"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}}]}
            },
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Problem": {
                    "type": "object",
                    "required": ["type", "title", "status", "detail"],
                    "properties": {
                        "type": {"type": "string"},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string"},
                        "field": {"type": "string"},
                    },
                }
            },
        },
    }


def _predict(limits: Limits, forms: tuple[str, ...]) -> dict[str, Any]:
    choice = {"name": "as", "in": "query", "schema": {"type": "string", "enum": list(forms), "default": "json"}}
    fields = {
        "image": {"type": "string", "format": "binary", "description": "PNG, JPEG, TIFF, DICOM or 2-D NIfTI."},
        "report": {"type": "string", "maxLength": limits.report_characters},
        "orientation": _ORIENTATION,
        "trust": {"type": "number", "minimum": 0, "maximum": 1},
        "threshold": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "model": {"type": "string"},
    }
    schema = {"type": "object", "required": ["image"], "properties": fields, "additionalProperties": False}
    content: dict[str, Any] = {
        "application/json": {"schema": _OBJECT},
        "image/png": {},
        "application/dicom": {},
        "application/gzip": {},
        "application/octet-stream": {},
    }
    return {
        "summary": "Segment an image.",
        "parameters": [choice, _mark()],
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}},
        "responses": {"200": {"description": "The result.", "content": content}, **_problems()},
    }


def _read(limits: Limits) -> dict[str, Any]:
    fields = {
        "report": {"type": "string", "maxLength": limits.report_characters},
        "zones": {
            "type": "object",
            "description": "Instead of a report: left_upper … right_lower, each lesion or clear.",
            "additionalProperties": {"type": "string", "enum": ["lesion", "clear"]},
        },
        "orientation": _ORIENTATION,
        "model": {"type": "string"},
    }
    schema = {"type": "object", "properties": fields, "additionalProperties": False}
    return {
        "summary": "Tell what is understood of a report.",
        "parameters": [_mark()],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {"description": "What was read.", "content": {"application/json": {"schema": _OBJECT}}},
            **_problems(),
        },
    }


def _get(summary: str, schema: dict[str, Any] | None, media_type: str = "application/json") -> dict[str, Any]:
    content = {media_type: {} if schema is None else {"schema": schema}}
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}, **_problems()}}


def _mark() -> dict[str, Any]:
    return {"name": MARK, "in": "header", "required": True, "schema": {"type": "string"}}


def _problems() -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": meaning, "content": content} for status, meaning in _ERRORS.items()}
