"""A real server, uvicorn and all, in a thread of the test's process."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployments.serving.server import Server
from deployments.serving.state import ServedEngine
from nanochat_core.serve_spec import ServeSpec, parse_serve_spec
from tests.fake_engine import wait_until


class LiveServer:
    """The server, and where it answers."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.url = server.url
        self.exit_code: int | None = None
        self.error: BaseException | None = None


@contextmanager
def running_server(engine: ServedEngine, *, folder: Path | None = None, **spec: Any) -> Iterator[LiveServer]:
    """Serve the engine on a free port of loopback for the length of the block; `spec` are fields of the ServeSpec."""
    temporary = tempfile.TemporaryDirectory(prefix="nanochat-serving-")
    folder = folder or Path(temporary.name)
    whole: ServeSpec = parse_serve_spec(
        {
            "model_folder": "unused",
            "tokenizer_folder": "unused",
            "model_name": getattr(engine, "model_name", "fake"),
            "port": 0,
            "drain_seconds": 1,
        }
        | spec
    )
    server = Server(whole, lambda _: engine, folder=folder)
    live = LiveServer(server, folder)

    def serve() -> None:
        try:
            live.exit_code = asyncio.run(server.run())
        except BaseException as error:
            live.error = error

    thread = threading.Thread(target=serve, name="server")
    thread.start()
    try:
        wait_until(lambda: server.state.is_ready or not thread.is_alive())
        if live.error:
            raise live.error
        live.url = server.url
        yield live
    finally:
        if thread.is_alive():
            server.stop()
        thread.join(60)
        temporary.cleanup()
        assert not thread.is_alive(), "the server does not end"
