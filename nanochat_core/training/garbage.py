"""Python's cyclic garbage collector, kept out of the steps.

After the first step all that the run needs is there (model, optimizer, compiled code): some hundred thousand objects,
through which each full collection goes again. They are taken out of its sight, and it runs every so many steps instead
of when it wants to: a pause that on many ranks comes at many times holds up all of them each time.
"""

import gc
from types import TracebackType

COLLECT_EVERY = 1000  # steps


class RareCollection:
    """Collects garbage after the first step and then every `COLLECT_EVERY` steps; as before at its end."""

    def __init__(self) -> None:
        self._steps = 0
        self._was_enabled = gc.isenabled()

    def __enter__(self) -> "RareCollection":
        return self

    def after_step(self) -> None:
        if self._steps % COLLECT_EVERY == 0:
            gc.collect()
        if self._steps == 0:
            gc.freeze()
            gc.disable()
        self._steps += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.unfreeze()
        if self._was_enabled:
            gc.enable()
