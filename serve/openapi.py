"""The description of the interface (OpenAPI). Bodies are read by hand, so their schemas are put in by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from s1 import __version__
from serve.protocol import ChatRequest, TextRequest

_BODIES: dict[str, type[BaseModel]] = {"/v1/chat/completions": ChatRequest, "/v1/completions": TextRequest}
_ERRORS = {
    "400": "A field is wrong or contradicts another, or the prompt fills the context.",
    "401": "The server asks for an API key.",
    "404": "The model is not served here.",
    "413": "The body is too long.",
    "429": "The queue is full; Retry-After says when to come back.",
    "503": "The model's replica was lost.",
    "504": "The deadline has passed.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "integer"},
            },
        }
    },
}


def describe(api: FastAPI) -> dict[str, Any]:
    """OpenAPI of `api`, request bodies and errors included."""
    description = get_openapi(title=api.title, version=__version__, description=api.description, routes=api.routes)
    schemas = description.setdefault("components", {}).setdefault("schemas", {})
    schemas["Error"] = _ERROR
    told = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, body in _BODIES.items():
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs"))
        operation = description["paths"][path]["post"]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation["responses"] |= {status: {"description": text, "content": told} for status, text in _ERRORS.items()}
        operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    for path in ("/v1/models", "/v1/models/{name}"):
        for status in ("401", "404"):
            description["paths"][path]["get"]["responses"][status] = {"description": _ERRORS[status], "content": told}
    return description
