"""The life of one server: load, take the port, answer, drain, end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvicorn

from deployments.serving.app import create_app
from deployments.serving.auth import ApiKeys
from deployments.serving.greeting import greeting
from deployments.serving.handover import ControlPaths, ControlSocket, OldServer, taking
from deployments.serving.http_protocol import look_after, protocol_class
from deployments.serving.listening import BACKLOG, bind, check_same_address, url_of
from deployments.serving.state import ServedEngine, ServerState
from deployments.serving.status_file import StatusFile
from deployments.serving.uvicorn_server import FLUSH_SECONDS, QuietServer
from nanochat_core.errors import NanochatError
from nanochat_core.serve_spec import ServeSpec

POLL_SECONDS = 0.05
FAILURE_SECONDS = 0.2  # between looks whether the engine lives
IDLE_SECONDS = 6.0  # that idle connections have, after a replacement, to send what is on its way
EXIT_FAILED = 1
LONGEST_ERROR = 500  # characters
logger = logging.getLogger("nanochat.serving")
Loader = Callable[[ServeSpec], ServedEngine]
WarmUp = Callable[[ServedEngine], Awaitable[None]]
Tell = Callable[[str], None]


class Server:
    """One server; `run` returns its exit code."""

    def __init__(
        self,
        spec: ServeSpec,
        load: Loader,
        *,
        folder: Path,
        warm_up: WarmUp | None = None,
        tell: Tell = lambda line: None,
    ) -> None:
        """`folder` is for control sockets; `warm_up` makes a loaded engine ready for its first client.

        Raises NanochatError for API keys that cannot be used.
        """
        self.spec, self._load, self._folder, self._warm_up, self._tell = spec, load, folder, warm_up, tell
        self.state = ServerState(spec, keys=ApiKeys.load(spec.api_keys_file))
        self.status = StatusFile(spec.status_file, spec.model_name)
        self._stop = asyncio.Event()
        self._signals = 0
        self._control: ControlSocket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.url = ""

    def stop(self) -> None:
        """Drain and end; callable from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is over already
                self._loop.call_soon_threadsafe(self._begin_to_end)

    async def run(self) -> int:
        """Serve until somebody stops or replaces this server, or its engine dies. Raises NanochatError."""
        self._loop = asyncio.get_running_loop()
        self.status.write("loading")
        try:
            with self._signal_handlers():
                return await self._run()
        except Exception as error:
            self.status.write("failed", str(error))
            raise

    async def _run(self) -> int:
        paths = ControlPaths(self._folder, self.spec.port)
        old = await asyncio.to_thread(OldServer.find, paths) if self.spec.port else None
        if old is not None:  # it answers meanwhile
            old.close()
            await self._load_engine()
        with taking(paths) if self.spec.port else contextlib.nullcontext():
            old = OldServer.find(paths) if self.spec.port else None
            if old is not None and self.state.engine_or_none is None:  # it came a moment ago
                await self._load_engine()
            listener = old.take_socket() if old else bind(self.spec.host, self.spec.port)
            if old:
                check_same_address(listener, self.spec.host, self.spec.port)
            server, work = await self._listen(listener)
            if old:
                await self._replace(old, server, work)
            self._open_control(listener, server)
        try:
            if self.state.engine_or_none is None:
                await self._load_engine()
            self._become_ready()
            return await self._serve(server)
        finally:
            await self._end(server, work)

    async def _replace(self, old: OldServer, server: QuietServer, work: "asyncio.Task[None]") -> None:
        """Tell the old server to end, now that this one accepts connections; where it does not hear, end this one."""
        try:
            pid = await asyncio.to_thread(old.drain)
        except NanochatError:
            await self._end(server, work)
            raise
        finally:
            old.close()
        self._tell(f"Replaced the server with process id {pid}, which finishes its answers.")

    async def _load_engine(self) -> None:
        """Load the model beside the event loop."""
        self._tell(f"Loading the model in {self.spec.model_folder} …")
        engine = await asyncio.to_thread(self._load, self.spec)
        if self._warm_up is not None:
            await self._warm_up(engine)
        self.state.engine_or_none = engine
        self.state.metrics.watch(self.spec.model_name, engine.stats)

    async def _listen(self, listener: socket.socket) -> "tuple[QuietServer, asyncio.Task[None]]":
        """Accept connections on the socket."""
        if self.state.engine_or_none is not None:
            self.state.phase = "ready"
        self.url = self.status.url = url_of(listener, self.spec.root_path)
        config = uvicorn.Config(
            create_app(self.state),
            http=protocol_class(self.spec),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(self.spec.trusted_proxies),
            forwarded_allow_ips=list(self.spec.trusted_proxies),
            root_path=self.spec.root_path,
            backlog=BACKLOG,
            timeout_keep_alive=self.spec.keep_alive_seconds,
            h11_max_incomplete_event_size=self.spec.limits.header_bytes,
        )
        server = QuietServer(config)
        self.state.metrics.count_connections(server.server_state.connections)
        work = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            if work.done():
                work.result()
            await asyncio.sleep(0.001)
        return server, work

    def _open_control(self, listener: socket.socket, server: QuietServer) -> None:
        """Be there for the next server that wants the port."""
        paths = ControlPaths(self._folder, listener.getsockname()[1])
        self._control = ControlSocket(paths, listener, lambda: self._on_replaced(server))
        self._control.open()

    def _become_ready(self) -> None:
        if self._stop.is_set():  # asked to end while the model was loading
            return
        self.state.phase = "ready"
        self.status.write("ready")
        for line in greeting(self.spec, self.url, needs_key=self.state.needs_key):
            self._tell(line)

    async def _serve(self, server: QuietServer) -> int:
        """Wait for the end, whatever brings it; then drain."""
        watch = asyncio.create_task(look_after(server.server_state.connections, self.spec.limits))
        try:
            while not self._stop.is_set() and self.state.failure is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), FAILURE_SECONDS)
            await self._drain(server)
        finally:
            watch.cancel()
        if failure := self.state.failure:
            self.status.write("failed", failure)
            self._tell(f"error: the engine has failed: {failure}")
            return EXIT_FAILED
        self.status.write("replaced" if self.state.is_replaced else "stopped")
        return 0

    async def _drain(self, server: QuietServer) -> None:
        """Let running answers finish, for so long as they may, then cut them off."""
        self.state.phase = "draining"
        self.status.write("draining")
        start = time.monotonic()
        while not self._is_drained(server, time.monotonic() - start):
            if time.monotonic() - start >= self.spec.drain_seconds or self.state.failure or self._signals > 1:
                break
            await asyncio.sleep(POLL_SECONDS)
        self.state.aborted.set()
        end = time.monotonic() + FLUSH_SECONDS
        while self.state.in_flight and time.monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)

    def _is_drained(self, server: QuietServer, seconds: float) -> bool:
        """After a replacement, an idle connection may have a request on its way: it is answered, and then closed."""
        if self.state.in_flight:
            return False
        return not self.state.is_replaced or not server.server_state.connections or seconds > IDLE_SECONDS

    async def _end(self, server: QuietServer, work: "asyncio.Task[None]") -> None:
        if self._control is not None:
            self._control.close()
        server.leave()
        await work
        if self.state.engine_or_none is not None:
            await self.state.engine_or_none.close()

    def _on_replaced(self, server: QuietServer) -> None:
        """Another server accepts on our socket: accept no more."""
        for listening in server.servers:
            listening.close()
        self.state.is_replaced = True
        self.state.phase = "draining"
        self._stop.set()

    def _on_signal(self) -> None:
        """Drain; at the second signal cut answers off; at the third, or while the model loads, leave at once."""
        self._signals += 1
        if self._signals > 2 or self.state.phase == "loading":
            self._leave(EXIT_FAILED if self._signals > 2 else 0)
        if self._signals == 1:
            seconds = self.spec.drain_seconds
            self._tell(f"Stopping: running answers have {seconds:g} s to finish. A second signal cuts them off.")
        self._begin_to_end()

    def _begin_to_end(self) -> None:
        self.state.phase = "draining"
        self._stop.set()

    def _leave(self, code: int) -> None:
        """End now, whatever still runs (a model that loads cannot be interrupted)."""
        self.status.write("stopped")
        if self._control is not None:
            self._control.close()
        sys.stdout.flush()
        os._exit(code)

    @contextlib.contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        """Drain on SIGTERM and Ctrl-C; outside of the main thread there are no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        assert self._loop is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.remove_signal_handler(number)


def run(spec: ServeSpec, load: Loader, *, folder: Path, tell: Tell, warm_up: WarmUp | None = None) -> int:
    """Serve until the end; returns the exit code. What goes wrong is said in one line on stderr."""
    try:
        return asyncio.run(Server(spec, load, folder=folder, tell=tell, warm_up=warm_up).run())
    except NanochatError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:  # no memory for the model, a disk that fails, a mistake of ours
        logger.debug("the server has failed", exc_info=error)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"error: the server has failed: {text[:LONGEST_ERROR]}", file=sys.stderr, flush=True)
        return EXIT_FAILED
