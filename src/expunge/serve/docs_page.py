"""A page for people made from the API's OpenAPI description. It needs no script and nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = Path(__file__).parent / "console" / "docs.html.j2"
DEPTH = 6
"""Levels of nested fields that are shown."""


def docs_page(openapi: dict[str, Any]) -> str:
    """HTML with every route, its parameters, body fields and answers. Serve it with `console.HEADERS`; it loads console/style.css."""
    description = _Description(openapi)
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in openapi.get("paths", {}).items():
        for method, described in methods.items():
            if isinstance(described, dict):
                route = {"method": method.upper(), "path": path, **description.route(described)}
                groups.setdefault((described.get("tags") or ["Other"])[0], []).append(route)
    return _template().render(info=openapi.get("info", {}), groups=groups)


@cache
def _template() -> Template:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


class _Description:
    """Reads schemas, and what they refer to, of one OpenAPI description. A schema may refer to itself."""

    def __init__(self, openapi: dict[str, Any]):
        self._openapi = openapi

    def route(self, described: dict[str, Any]) -> dict[str, Any]:
        contents = described.get("requestBody", {}).get("content", {}).values()
        body = next((one.get("schema", {}) for one in contents), {})
        parameters = [
            self._field(p["name"], {"description": p.get("description", ""), **p.get("schema", {})}, p.get("required", False))
            | {"place": p["in"]}
            for p in described.get("parameters", [])
        ]  # fmt: skip
        return {
            "summary": described.get("summary", ""),
            "says": described.get("description", ""),
            "parameters": parameters,
            "body": self._fields(body),
            "body_type": self._type(body) if body else "",
            "answers": {
                code: one.get("description", "") for code, one in described.get("responses", {}).items()
            },
        }

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """What a reference inside of the description stands for."""
        for _ in range(DEPTH):
            if "$ref" not in schema:
                return schema
            place: Any = self._openapi
            for part in schema["$ref"].removeprefix("#/").split("/"):
                place = place.get(part, {})
            schema = place
        return {}

    def _fields(self, schema: dict[str, Any], prefix: str = "", depth: int = 0) -> list[dict[str, Any]]:
        """The fields of an object, those of objects inside of it after their own, with dotted names."""
        if depth > DEPTH:
            return []
        schema = self._resolved(schema)
        if "items" in schema:
            return self._fields(schema["items"], f"{prefix.removesuffix('.')}[].", depth + 1)
        rows = []
        for one in _choices(schema):
            rows += self._fields(one, prefix, depth + 1)
        for name, field in schema.get("properties", {}).items():
            rows.append(self._field(f"{prefix}{name}", field, name in schema.get("required", ())))
            rows += self._fields(field, f"{prefix}{name}.", depth + 1)
        return rows

    def _field(self, name: str, schema: dict[str, Any], required: bool) -> dict[str, Any]:
        says = schema.get("description") or self._resolved(schema).get("description", "")
        return {
            "name": name,
            "type": self._type(schema),
            "required": required,
            "default": schema.get("default"),
            "says": says,
        }

    def _type(self, schema: dict[str, Any], depth: int = 0) -> str:
        """In words: "string", "list of integer", "string or null", "one of a, b"."""
        schema = self._resolved(schema) if depth < DEPTH else {}
        if choices := _choices(schema):
            return " or ".join(dict.fromkeys(self._type(one, depth + 1) for one in choices))
        if "enum" in schema:
            return "one of " + ", ".join(str(value) for value in schema["enum"])
        if "const" in schema:
            return str(schema["const"])
        if schema.get("type") == "array":
            return f"list of {self._type(schema.get('items', {}), depth + 1)}"
        return schema.get("format") or schema.get("type") or "anything"


def _choices(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", [])]
