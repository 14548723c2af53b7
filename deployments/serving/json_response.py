"""JSON in ASCII alone: whatever a client has sent and sees again, it can be written."""

import json
from typing import Any

from starlette.responses import Response


class AsciiJSONResponse(Response):
    """A value as JSON; other characters than ASCII's are escaped."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json_bytes(content)


ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)  # one for all: each token of a stream needs it


def json_bytes(value: Any) -> bytes:
    """Return the value as JSON, without blanks; raises ValueError for what JSON cannot say (infinity)."""
    return ENCODER.encode(value).encode("ascii")
