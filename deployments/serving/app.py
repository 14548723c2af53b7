"""The application of one server: its endpoints, and the layers that a request passes on its way to them."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from deployments.serving import chat_api, completions_api, server_api, tokenizer_api
from deployments.serving.access import Access
from deployments.serving.auth import Auth
from deployments.serving.errors import add_handlers
from deployments.serving.front_door import FrontDoor
from deployments.serving.pages import add_pages
from deployments.serving.rate_limit import RateLimit
from deployments.serving.request_body import RequestBody
from deployments.serving.response_schemas import ChatCompletionChunk, CompletionChunk
from deployments.serving.security_headers import SecurityHeaders
from deployments.serving.server_api import VERSION
from deployments.serving.state import ServerState

DESCRIPTION = (
    "OpenAI's API for the model of this server. Fields and values that begin with nanochat_ are its own. Errors have "
    'the form {"error": {"message", "type", "param", "code"}}.'
)
METHODS = ("GET", "POST")
EXPOSED = ("x-request-id", "retry-after")


class ServingApi(FastAPI):
    """The endpoints; their document has the errors that really come."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document: malformed requests are answered with 400, never with the framework's 422."""
        if not self.openapi_schema:
            document = super().openapi()
            schemas = document["components"]["schemas"]
            for chunk in (ChatCompletionChunk, CompletionChunk):  # no response as a whole, so FastAPI leaves them out
                schema = chunk.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= schema.pop("$defs") | {chunk.__name__: schema}
            if self.state.serving.needs_key:
                document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"key": []}]
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        return super().openapi()


def create_app(state: ServerState) -> ASGIApp:
    """Return the application, as uvicorn runs it."""
    api = ServingApi(
        title="nanochat",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.serving = state
    for module in (chat_api, completions_api, tokenizer_api, server_api):
        api.include_router(module.router)
    add_pages(api)
    add_handlers(api)
    return wrapped(api, state)


def wrapped(api: ASGIApp, state: ServerState) -> ASGIApp:
    """Put the layers around the endpoints; a request passes the last one first."""
    spec = state.spec
    app: ASGIApp = RequestBody(api, spec.limits)
    app = RateLimit(app, spec.per_client)
    app = Auth(app, state.keys)
    app = FrontDoor(app, state)
    if spec.cors_origins:
        app = CORSMiddleware(app, **cors(spec.cors_origins))
    return Access(SecurityHeaders(app), state)


def cors(origins: Sequence[str]) -> dict[str, Any]:
    """Return what web pages of these origins may do."""
    headers = ["authorization", "content-type", "user-agent", "x-request-id"]
    return {
        "allow_origins": list(origins),
        "allow_methods": list(METHODS),
        "allow_headers": headers,
        "expose_headers": list(EXPOSED),
    }
