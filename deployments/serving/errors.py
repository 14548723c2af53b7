"""What goes wrong, in the form in which OpenAI's API says it: {"error": {"message", "type", "param", "code"}}."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from deployments.serving.json_response import AsciiJSONResponse
from nanochat_core.inference.requests import EngineBusy, EngineFailed

logger = logging.getLogger("nanochat.serving")
BUSY_SECONDS = 2  # after which a refused client may try again
MAX_PROBLEMS = 3  # of a malformed request, that its answer lists


class ApiError(Exception):
    """An answer that says what is wrong; `code` and `param` as OpenAI's clients read them."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.kind = status, message, code, param, kind
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> AsciiJSONResponse:
        return AsciiJSONResponse(self.body(), self.status, headers=self.headers)

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the error, from outside of the application's handlers."""
        await self.response()(scope, receive, send)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that asks for something that cannot be."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, message: str) -> ApiError:
    return invalid(message, param, "unsupported_parameter")


def too_long(max_context: int, prompt_tokens: int, param: str) -> ApiError:
    message = (
        f"This model's context is {max_context} tokens, prompt and answer together, and the prompt alone has "
        f"{prompt_tokens}. Shorten it."
    )
    return invalid(message, param, "context_length_exceeded")


def unavailable(message: str, *, code: str, retry_seconds: int = BUSY_SECONDS) -> ApiError:
    """The server cannot answer now; trying again helps."""
    return ApiError(503, message, code=code, kind="server_error", headers={"Retry-After": str(retry_seconds)})


def too_many(message: str, retry_seconds: int, headers: Mapping[str, str] | None = None) -> ApiError:
    """This client asks for too much."""
    wait = {"Retry-After": str(retry_seconds)}
    return ApiError(
        429, message, code="rate_limit_exceeded", kind="rate_limit_error", headers=wait | dict(headers or {})
    )


def mistake() -> ApiError:
    message = "The server made a mistake; its log says more."
    return ApiError(500, message, code="internal_error", kind="server_error")


def of_engine(error: Exception) -> ApiError:
    """Return what to answer where the engine refuses or breaks a request; what is none of its errors is our mistake."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineBusy):
        return unavailable("All places are taken, and so is the line behind them: try again soon.", code="overloaded")
    if isinstance(error, EngineFailed):
        logger.error("the engine failed: %s", error)
        return ApiError(500, "The model failed on this request.", code="engine_failed", kind="server_error")
    if isinstance(error, ValueError):
        return invalid(f"The model cannot take this request: {error}.")
    logger.error("a mistake of the server", exc_info=error)
    return mistake()


def describe(problem: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return (message, param) of one problem that pydantic found.

    >>> describe({"type": "x", "loc": ("body", "messages", 0, "role"), "msg": "Field required"})
    ('messages[0].role: Field required', 'messages[0].role')
    """
    place = ""
    for part in problem["loc"][1:]:
        if str(part).startswith("<"):  # the form of a value that may have several (schemas.py)
            continue
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    if problem["type"] == "json_invalid":
        return f"The body is no JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}.", None
    if not place:
        return "The body must be a JSON object.", None
    return f"{place}: {problem['msg']}", place


async def on_validation_error(request: Request, error: Exception) -> AsciiJSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [describe(problem) for problem in error.errors()]
    shown = [message for message, _ in problems[:MAX_PROBLEMS]]
    more = len(problems) - len(shown)
    message = "; ".join(shown) + (f"; and {more} more problems" if more else "")
    return invalid(message, problems[0][1]).response()


async def on_http_error(request: Request, error: Exception) -> AsciiJSONResponse:
    """The framework's own errors: unknown routes, methods that a route does not have, files that are not there."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    known = {
        404: (f"There is nothing at {where}.", "unknown_url"),
        405: (f"This is no method of this address: {where}.", "method_not_supported"),
    }
    message, code = known.get(error.status_code, (str(error.detail), None))
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def on_api_error(request: Request, error: Exception) -> AsciiJSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def on_bug(request: Request, error: Exception) -> AsciiJSONResponse:
    """A mistake of ours: the log has its traceback, the client nothing but the fact."""
    return mistake().response()


def add_handlers(app: FastAPI) -> None:
    """Have all errors answered in OpenAI's form."""
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(Exception, on_bug)
