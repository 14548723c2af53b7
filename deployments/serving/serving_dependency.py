"""How an endpoint gets at the server's state."""

from typing import Annotated

from fastapi import Depends, Request

from deployments.serving.state import ServerState


def state_of(request: Request) -> ServerState:
    """Return the state of the server that the request came to."""
    state: ServerState = request.app.state.serving
    return state


Serving = Annotated[ServerState, Depends(state_of)]
