"""Description of the HTTP API, in the form of OpenAPI 3.1. It is made of the table of operations. Pure."""

import re
from typing import Any

import msgspec

from mpchat import __version__
from mpchat.ipc.http_questions import JSON
from mpchat.protocol.http import API
from mpchat.protocol.messages import ErrorReply
from mpchat.supervisor.api.errors import STATUSES
from mpchat.supervisor.api.shapes import Nothing
from mpchat.supervisor.api.table import OPERATIONS, ROOM, Operation

_SCHEMAS = "#/components/schemas/"
_TOKEN = "token"
_ABOUT = """\
What a program beside the chat may do: say something, read rooms and history, moderate. The token comes from
`mpchat token NAME --role service`. `mpchat manual api` has examples. An error is the object of the wire,
`{"error": {"code": …, "text": …}}`."""
# A docstring's reference to other code.
_REFERENCE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")


def describe() -> dict[str, Any]:
    """Return the description."""
    bodies = [each.wanted for each in OPERATIONS if each.method == "POST"]
    shapes = list(dict.fromkeys([*bodies, *(each.result for each in OPERATIONS), ErrorReply]))
    schemas, components = msgspec.json.schema_components(shapes, ref_template=_SCHEMAS + "{name}")
    by_shape = dict(zip(shapes, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {API: {"get": _of_the_description()}}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, by_shape)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mpchat", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": _plain(components),
            "responses": {
                "Error": {
                    "description": f"Not done. The status follows from the code: {_statuses()}; else 400.",
                    "content": {JSON: {"schema": by_shape[ErrorReply]}},
                }
            },
            "securitySchemes": {_TOKEN: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
        "security": [{_TOKEN: []}],
    }


def _of_the_description() -> dict[str, Any]:
    return {
        "operationId": "describe",
        "summary": "Describe the API.",
        "security": [],
        "responses": {"200": {"description": "This description.", "content": {JSON: {}}}},
    }


def _operation(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "200": {"description": "Done.", "content": {JSON: {"schema": schemas[operation.result]}}},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    parameters = [_path_parameter()] if ROOM in operation.path else []
    if operation.method == "POST":
        content = {JSON: {"schema": schemas[operation.wanted]}}
        described["requestBody"] = {"required": True, "content": content}
    elif operation.wanted is not Nothing:
        parameters += _query_parameters(operation.wanted)
    if parameters:
        described["parameters"] = parameters
    return described


def _path_parameter() -> dict[str, Any]:
    return {
        "name": ROOM.strip("{}"),
        "in": "path",
        "required": True,
        "description": "The room's name, in any spelling, as percent-encoded UTF-8.",
        "schema": {"type": "string"},
    }


def _query_parameters(shape: Any) -> list[dict[str, Any]]:
    """Return the parameters that a shape with plain fields stands for."""
    schema = msgspec.json.schema(shape)["$defs"][shape.__name__]
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": of_field}
        for name, of_field in schema["properties"].items()
    ]


def _statuses() -> str:
    return ", ".join(f"{code} {status}" for code, status in STATUSES.items())


def _plain(value: Any) -> Any:
    """Return a schema whose descriptions are for readers of JSON: without a docstring's markup."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return _REFERENCE.sub(r"\1", value) if isinstance(value, str) else value
