"""The engine for a server: a thread of its own steps it, and coroutines send requests and receive updates.

What the two say to each other goes through two queues: commands wake the thread, and after each step one call into the
event loop hands out all that is new.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import psutil
import torch

from nanochat_core.checkpoint import load_model
from nanochat_core.device import choose_device, set_determinism
from nanochat_core.errors import SpecError
from nanochat_core.inference.engine import Engine, EngineLimits, Event
from nanochat_core.inference.requests import EngineBusy, EngineFailed, EngineStats, Request, Update
from nanochat_core.inference.row import Row
from nanochat_core.inference.tool_use import load_tool
from nanochat_core.inference.weights import QUANTISERS
from nanochat_core.model.accounting import kv_bytes_per_token
from nanochat_core.tokenizer.bpe import Tokenizer

log = logging.getLogger("nanochat.engine")

EnginePrecision = Literal["auto", "fp32", "bf16", "int8", "int4"]
KV_SHARE_OF_MEMORY = 0.25  # of what a CPU's machine has free when the model is loaded
KV_SHARE_OF_GPU = 0.85
KV_SHARE_OF_ROWS = 0.8  # of a GPU's, for rows that run; the rest for those that are kept


@dataclass(frozen=True)
class EngineOptions:
    """How a model is served. Nothing of it changes what it says, but for the precision.

    precision: of weights and keys; auto is bfloat16 on CUDA and float32 on a CPU; int8 and int4 are the weights', the
    rest is as with auto. max_batch: samples that are computed together. max_waiting: samples in the line, beyond which
    a request is refused. kv_memory_gb: memory for keys and values, None for a share of what is free. max_context:
    tokens of prompt and completion; None is the length trained for. step_tokens: prompt tokens computed between two
    tokens of an answer: more is faster in all, fewer is smoother.
    """

    precision: EnginePrecision = "auto"
    max_batch: int = 32
    max_waiting: int = 256
    kv_memory_gb: float | None = None
    max_context: int | None = None
    step_tokens: int = 256
    tool: str | None = "calculator"
    device: str | None = None
    gpu: int = 0  # which, on CUDA


@dataclass(eq=False)
class _Stream:
    """A request on its way: its rows, and the queue where the coroutine waits for updates."""

    request: Request
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Sequence[Update] | Exception] = field(default_factory=asyncio.Queue)
    rows: list[Row] = field(default_factory=list)


class EngineService:
    """An `AsyncEngine` over the `Engine` that `load` returns, prepared for `max_context` and with nothing to do yet.

    It is loaded in the thread that will step it: libgomp keeps a team of threads for each thread that computes, and as
    soon as it has more of them than cores, it puts them to sleep between any two operations. What `load` raises, this
    raises.
    """

    def __init__(self, load: Callable[[], tuple[Engine, int]], *, max_waiting: int) -> None:
        loaded: Future[tuple[Engine, int]] = Future()
        self._commands: deque[tuple[Literal["start", "cancel"], _Stream]] = deque()
        self._streams: dict[Row, _Stream] = {}
        self._entering = 0  # samples that the thread has not seen yet
        self._entrance = threading.Lock()
        self._wake, self._is_ready = threading.Event(), threading.Event()
        self._is_closed = False
        self._failure: str | None = None
        self._max_waiting = max_waiting
        self._thread = threading.Thread(target=self._live, args=(load, loaded), name="nanochat-engine", daemon=True)
        self._thread.start()
        self._engine, self.max_context = loaded.result()
        self._stats = self._engine.stats()
        self.tokenizer = self._engine.tokenizer
        self.vocab_size = self.tokenizer.vocab_size
        self._is_ready.set()

    def stream(self, request: Request) -> AsyncIterator[Update]:
        """Yield the updates of all samples, as `AsyncEngine` says."""
        self._check(request)
        return self._updates(request)

    def _check(self, request: Request) -> None:
        if self._is_closed or self._failure:
            raise EngineFailed(self._failure or "the engine is closed")
        self._engine.check(request)
        if len(request.ids) + request.sampling.max_new_tokens > self.max_context:
            raise ValueError(
                f"a prompt of {len(request.ids)} tokens and {request.sampling.max_new_tokens} new ones are more than "
                f"the context of {self.max_context}"
            )
        running, waiting = self._stats.running, self._stats.waiting + self._entering
        if running + waiting + request.num_samples > self._engine.limits.rows + self._max_waiting:
            raise EngineBusy(f"{running} samples run and {waiting} wait; no more than {self._max_waiting} may wait")

    async def _updates(self, request: Request) -> AsyncIterator[Update]:
        stream = _Stream(request, asyncio.get_running_loop())
        with self._entrance:
            self._entering += request.num_samples
        self._command("start", stream)
        unfinished = request.num_samples
        try:
            while unfinished:
                found = await stream.queue.get()
                if isinstance(found, Exception):
                    raise found
                for update in found:
                    unfinished -= update.finish_reason is not None
                    yield update
        finally:
            if unfinished:
                self._command("cancel", stream)

    def stats(self) -> EngineStats:
        """Return a look at the engine as it was after the last step, and what has come since."""
        return self._stats

    async def close(self) -> None:
        """Stop the thread; streams that still run raise EngineFailed."""
        self._is_closed = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    def _command(self, kind: Literal["start", "cancel"], stream: _Stream) -> None:
        self._commands.append((kind, stream))
        self._wake.set()

    # ---- the engine's thread ----

    def _live(self, load: Callable[[], tuple[Engine, int]], loaded: "Future[tuple[Engine, int]]") -> None:
        try:
            loaded.set_result(load())
        except BaseException as error:
            loaded.set_exception(error)
            return
        self._is_ready.wait()
        self._run()

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._obey()
                if self._engine.is_idle:
                    self._wake.wait()
                    self._wake.clear()
                    continue
                events = self._engine.step()
                self._stats = self._engine.stats()
                self._hand_out(events)
            self._failure = "the engine is closed"
        except BaseException as error:
            log.exception("The engine has died.")
            self._failure = f"the engine has died: {type(error).__name__}: {error}"
            self._stats = replace(self._stats, failure=self._failure)
        self._end_all(self._failure)

    def _obey(self) -> None:
        """Start and cancel what was asked for since the last step."""
        entered = 0
        while self._commands:
            kind, stream = self._commands.popleft()
            if kind == "start":
                entered += stream.request.num_samples
                stream.rows = self._engine.submit(stream.request)
                self._streams |= dict.fromkeys(stream.rows, stream)
            else:
                for row in stream.rows:
                    if self._streams.pop(row, None) is not None:
                        self._engine.cancel(row)
        self._stats = self._engine.stats()
        with self._entrance:
            self._entering -= entered

    def _hand_out(self, events: Sequence[Event]) -> None:
        """Give each stream its updates: one call into each event loop."""
        news: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, Sequence[Update] | Exception]]] = {}
        for event in events:
            stream = self._streams.get(event.row)
            if stream is None:
                continue
            if event.error is not None:
                log.error("A request has failed.", exc_info=event.error)
                for row in stream.rows:
                    self._streams.pop(row, None)
                    self._engine.cancel(row)
                failed = EngineFailed(f"{type(event.error).__name__}: {event.error}")
                news.setdefault(stream.loop, []).append((stream, failed))
            elif event.updates:
                if event.row.is_done:
                    del self._streams[event.row]
                news.setdefault(stream.loop, []).append((stream, event.updates))
        for loop, items in news.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(_deliver, items)

    def _end_all(self, message: str) -> None:
        waiting = [stream for kind, stream in self._commands if kind == "start"]
        for stream in {*self._streams.values(), *waiting}:
            with contextlib.suppress(RuntimeError):
                stream.loop.call_soon_threadsafe(stream.queue.put_nowait, EngineFailed(message))


def _deliver(items: Sequence[tuple[_Stream, Sequence[Update] | Exception]]) -> None:
    for stream, found in items:
        stream.queue.put_nowait(found)


def load_engine(model_folder: Path, tokenizer_folder: Path, *, options: EngineOptions | None = None) -> EngineService:
    """Return the model of an artifact folder, ready to answer.

    Raises CheckpointError where the model is damaged or the tokenizer another's, SpecError for options that cannot be.
    """
    options = options or EngineOptions()
    return EngineService(lambda: _loaded(model_folder, tokenizer_folder, options), max_waiting=options.max_waiting)


def _loaded(model_folder: Path, tokenizer_folder: Path, options: EngineOptions) -> tuple[Engine, int]:
    """Return the engine of an artifact folder, and the tokens that its context has."""
    device = choose_device(options.device, options.gpu)
    set_determinism(device)
    tokenizer = Tokenizer.load(tokenizer_folder)
    model, _ = load_model(model_folder, tokenizer_hash=tokenizer.hash, device=device)
    model.compute_dtype = _dtype(options.precision, device)
    max_context = options.max_context or model.spec.sequence_len
    memory = options.kv_memory_gb * 2**30 if options.kv_memory_gb is not None else _free_memory(device)
    token_bytes = kv_bytes_per_token(model.spec, model.compute_dtype.itemsize)
    share = KV_SHARE_OF_ROWS if device.type == "cuda" else 1.0
    limits = EngineLimits(
        rows=options.max_batch,
        prefixes=options.max_batch,
        kv_tokens=int(memory * share // token_bytes),
        step_tokens=options.step_tokens,
    )
    tool = load_tool(options.tool) if options.tool else None
    few_bits = options.precision if options.precision in QUANTISERS else None
    engine = Engine(model.eval(), tokenizer, limits=limits, tool=tool, few_bits=few_bits)
    try:
        engine.prepare(max_context)
    except ValueError as error:
        raise SpecError(f"precision: this model cannot be served in {options.precision}: {error}.") from None
    engine.let_go_of_model()
    page_bytes = engine.runner.memory.shape.page_bytes
    engine.scheduler.pages_total = min(engine.scheduler.pages_total, int(memory // page_bytes))
    if why := engine.scheduler.why_never(max_context):
        raise SpecError(f"kv_memory_gb: {why}. Give more memory, or a shorter max_context.")
    return engine, max_context


def _dtype(precision: EnginePrecision, device: torch.device) -> torch.dtype:
    if precision in ("fp32", "bf16"):
        return torch.float32 if precision == "fp32" else torch.bfloat16
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _free_memory(device: torch.device) -> float:
    """Return how many bytes keys and values may take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * KV_SHARE_OF_GPU
    return psutil.virtual_memory().available * KV_SHARE_OF_MEMORY
