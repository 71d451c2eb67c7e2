"""OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1), made of the operations that are really there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cloned_proxy import __version__
from cloned_proxy.control.errors import ErrorAnswer
from cloned_proxy.control.guard import PROOF_HEADER
from cloned_proxy.control.operation import Operation

_COMPONENTS: Final = "#/components/schemas/{model}"
_READING: Final = (400, 401, 403, 405, 421, 422, 503)
_CHANGING: Final = (408, 413, 415)
_PROOF: Final = {
    "name": PROOF_HEADER,
    "in": "header",
    "schema": {"type": "string", "const": "1"},
    "description": "With a cookie, together with the browser's own Origin; not needed with a bearer token.",
}


def openapi(operations: Iterable[Operation], *, prefix: str, cookie: str) -> dict[str, Any]:
    """The whole document."""
    operations = tuple(operations)
    models = {model for operation in operations for model in (operation.answer, operation.body) if model is not None}
    schemas, refs = _schemas({*models, ErrorAnswer})
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = paths.setdefault(f"{prefix}{operation.path}", {})
        path[operation.method.lower()] = _described(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "cloned-proxy control API", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie},
            },
        },
        "security": [{"token": []}, {"session": []}],
    }


def _schemas(models: set[type[BaseModel]]) -> tuple[dict[str, Any], dict[type[BaseModel], dict[str, Any]]]:
    ordered = sorted(models, key=lambda model: model.__name__)
    found, definitions = models_json_schema([(model, "validation") for model in ordered], ref_template=_COMPONENTS)
    return definitions.get("$defs", {}), {model: found[(model, "validation")] for model in ordered}


def _described(operation: Operation, refs: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    statuses = [*_READING, *(_CHANGING if operation.changes else ()), *operation.refusals]
    described: dict[str, Any] = {
        "operationId": _identifier(operation),
        "summary": operation.summary,
        "parameters": [*_places(operation), *_query(operation)],
        "responses": {
            str(operation.status): _success(operation, refs),
            **{str(status): _content("application/json", refs[ErrorAnswer], "Refused") for status in sorted(statuses)},
        },
    }
    if operation.changes:
        described["parameters"].append(_PROOF)
    if operation.body is not None:
        content = {"application/json": {"schema": refs[operation.body]}}
        described["requestBody"] = {"required": bool(operation.body.model_fields), "content": content}
    if not operation.paired:
        described["security"] = []
    return described


def _success(operation: Operation, refs: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    if operation.answer is not None:
        return _content(operation.media_type, refs[operation.answer], "Done")
    kind = "object" if operation.media_type == "application/json" else "string"
    return _content(operation.media_type, {"type": kind}, "Done")


def _content(media_type: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _identifier(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path)
    return "_".join([operation.method.lower(), *words])


def _places(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": f"^{pattern}$"}}
        for name, pattern in operation.places.items()
    ]


def _query(operation: Operation) -> list[dict[str, Any]]:
    schema = operation.query.model_json_schema()
    definitions = schema.get("$defs", {})
    return [
        {"name": name, "in": "query", "required": False, "schema": _inlined(field, definitions)}
        for name, field in schema.get("properties", {}).items()
    ]


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A parameter's schema stands for itself: what it refers to is put in its place. `null` cannot be in a query."""
    match schema:
        case {"$ref": str(ref)}:
            return _inlined(definitions[ref.rpartition("/")[2]], definitions)
        case {"anyOf": [only, {"type": "null"}], **rest}:
            return {**_inlined(only, definitions), **{key: rest[key] for key in rest.keys() - {"default"}}}
        case dict():
            return {key: _inlined(value, definitions) for key, value in schema.items()}
        case list():
            return [_inlined(item, definitions) for item in schema]
        case _:
            return schema
