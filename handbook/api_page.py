"""docs/api.md: the control API, rendered from the OpenAPI description that it gives of itself."""

from __future__ import annotations

from typing import Any, Final

from cloned_proxy.control.app import API
from cloned_proxy.control.endpoints import ALL
from cloned_proxy.control.openapi import openapi
from handbook.reference import intro, table

_ALWAYS: Final = frozenset({"400", "401", "403", "405", "408", "413", "415", "421", "422", "503"})
_PROOF: Final = "header"
_WORDS: Final = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}


def api_page() -> str:
    """The page as it should be."""
    described = openapi(ALL, prefix=API, cookie="session")
    parts = [intro("api"), "## Operations\n"]
    for path, methods in described["paths"].items():
        parts += [_operation(method, path, operation) for method, operation in methods.items()]
    parts.append("## Objects\n")
    for name, schema in sorted(described["components"]["schemas"].items()):
        parts.append(f"### {name}\n\n{_object(schema)}")
    return "\n".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    lines = [f"### `{method.upper()} {path}`\n", f"{operation['summary']}.\n"]
    given = [each for each in operation["parameters"] if each["in"] != _PROOF]
    if given:
        rows = [(f"`{each['name']}`", f"in the {each['in']}", _type(each["schema"])) for each in given]
        lines.append(table(("Parameter", "Where", "Type"), rows))
    if "requestBody" in operation:
        lines.append(f"Body: {_type(operation['requestBody']['content']['application/json']['schema'])}.\n")
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            [(kind, content)] = answer["content"].items()
            shape = _type(content["schema"]) if "$ref" in content["schema"] else f"`{kind}`"
            lines.append(f"Answer: {status}, {shape}.\n")
    if more := sorted(operation["responses"].keys() - _ALWAYS - {"200", "201", "202", "204"}):
        lines.append(f"Also refused with {', '.join(more)}.\n")
    if operation.get("security") == []:
        lines.append("Needs no token.\n")
    return "\n".join(lines)


def _object(schema: dict[str, Any]) -> str:
    if "properties" not in schema:
        return f"{_type(schema)}\n" if schema.keys() & {"enum", "type"} - {"object"} else "An empty object.\n"
    required = schema.get("required", [])
    rows = [
        (f"`{name}`", _type(field), "yes" if name in required else "") for name, field in schema["properties"].items()
    ]
    return table(("Field", "Type", "Always"), rows)


def _type(schema: dict[str, Any]) -> str:  # noqa: PLR0911  a table of cases
    match schema:
        case {"$ref": str(place)}:
            name = place.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": list(choices)} | {"oneOf": list(choices)}:
            return " or ".join(dict.fromkeys(map(_type, choices)))
        case {"enum": list(values)}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"type": "array", **rest}:
            return f"list of {_type(rest.get('items', {}))}"
        case {"type": "object", **rest}:
            return f"map of text to {_type(rest['additionalProperties'])}" if _is_map(rest) else "object"
        case {"type": "null"}:
            return "`null`"
        case {"type": str(kind)}:
            return _WORDS[kind]
        case _:
            return "any value"


def _is_map(schema: dict[str, Any]) -> bool:
    return isinstance(schema.get("additionalProperties"), dict)
