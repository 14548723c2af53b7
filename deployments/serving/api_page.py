"""The OpenAPI document as a page: plain HTML, without scripts."""

from html import escape
from typing import Any

Json = dict[str, Any]


def api_page(document: Json) -> str:
    """Return the page: endpoints with their fields and statuses."""
    info = document["info"]
    sections = [
        _operation(document, method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
        f'{escape(info["title"])}</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="static/css/api.css"></head><body><main><h1>{escape(info["title"])}</h1>'
        f"<p>{escape(info['description'])}</p>"
        '<p>For programs: <a href="openapi.json">openapi.json</a>. The chat page: <a href=".">here</a>.</p>'
        f"{''.join(sections)}</main></body></html>"
    )


def _operation(document: Json, method: str, path: str, operation: Json) -> str:
    statuses = ", ".join(sorted(operation["responses"]))
    text = escape(operation.get("description", ""))
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{text}</p>"
        f"{_fields(document, operation)}<p>Statuses: {statuses}.</p></section>"
    )


def _fields(document: Json, operation: Json) -> str:
    body = operation.get("requestBody")
    if not body:
        return ""
    name = body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
    schema = document["components"]["schemas"][name]
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{escape(_type(value))}</td>"
        f"<td>{'required' if field in required else ''}</td><td>{escape(value.get('description', ''))}</td></tr>"
        for field, value in schema["properties"].items()
    )
    return f"<table><tr><th>field</th><th>type</th><th></th><th>what it does</th></tr>{rows}</table>"


def _type(schema: Json) -> str:
    """Return the type in words.

    >>> _type({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
    'string or array of string'
    """
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"] if part.get("type") != "null")
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
