"""What the OpenAPI document says of each endpoint's answers: every status that can come."""

from typing import Any

from pydantic import BaseModel

from deployments.serving.response_schemas import Problem

PROBLEMS = {
    400: "The request asks for something that cannot be.",
    401: "The API key is missing or wrong.",
    403: "The Host header names a server that this is not.",
    404: "There is no such model.",
    408: "The request took too long to arrive.",
    413: "The request is too large.",
    415: "The body is not JSON.",
    429: "This client asks too often: wait as Retry-After says.",
    431: "The request's head is too large.",
    500: "The model or the server failed.",
    503: "Busy, loading or stopping: wait as Retry-After says.",
}
OF_ANY_GET = (400, 401, 403, 408, 413, 429, 431, 503)
OF_ANY_POST = (400, 401, 403, 404, 408, 413, 415, 429, 431, 500, 503)


RETRY_AFTER = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of errors."""
    return {status: _problem(status) for status in statuses}


def _problem(status: int) -> dict[str, Any]:
    documented: dict[str, Any] = {"model": Problem, "description": PROBLEMS[status]}
    return documented | ({"headers": RETRY_AFTER} if status in (429, 503) else {})


def documented(model: type[BaseModel], *, chunk: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of an endpoint that takes JSON and answers `model`, or a stream of chunks."""
    answer: dict[str, Any] = {"model": model, "description": "The answer."}
    if chunk is not None:
        answer["description"] = "The answer; with stream: true as server-sent events that end with [DONE]."
        kinds = {"anyOf": [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in (chunk, Problem)]}
        as_json = {"type": "string", "contentMediaType": "application/json", "contentSchema": kinds}
        data = {
            "description": "a chunk as JSON, an error as JSON, or [DONE]",
            "anyOf": [{"type": "string", "const": "[DONE]"}, as_json],
        }
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        answer["content"] = {"text/event-stream": {"schema": event}}
    return {200: answer, **problems(*OF_ANY_POST)}


def looked_up(model: type[BaseModel], *also: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of an endpoint that is only asked."""
    return {200: {"model": model, "description": "The answer."}, **problems(*sorted({*OF_ANY_GET, *also}))}
