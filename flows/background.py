"""One thread for what a flow tells Prefect on the side, so that a slow or dead server never holds a stage up."""

import contextvars
import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger("nanochat.background")


class Background:
    """Runs functions one after another in a daemon thread, each in the context that it was put in with."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[contextvars.Context, Callable[[], object]]] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def put(self, work: Callable[[], object], context: contextvars.Context | None = None) -> None:
        """Have the thread call `work` in `context`, or in a copy of the present one; what it raises is logged."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nanochat-background", daemon=True)
                self._thread.start()
        self._queue.put((context or contextvars.copy_context(), work))

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all that was put so far is done; False where that takes longer than the time-out."""
        done = threading.Event()
        self.put(done.set)
        return done.wait(timeout_seconds)

    def _run(self) -> None:
        while True:
            context, work = self._queue.get()
            try:
                context.run(work)
            except Exception as error:  # whatever the server's trouble is, it must not cost a training run
                log.warning("Prefect was not told: %s: %s", type(error).__name__, error)


_background = Background()


def in_background(work: Callable[[], object], context: contextvars.Context | None = None) -> None:
    """Call `work` in this process's background thread, after all that was given to it before."""
    _background.put(work, context)


def flush(timeout_seconds: float) -> bool:
    """Wait for the background thread; False where it did not finish in time."""
    return _background.flush(timeout_seconds)
