"""One engine for each GPU, each in a process of its own, behind one `AsyncEngine`.

What they say to each other is in `replica.py`. A request goes to the replica with the fewest samples; of those that are
about as free, to one that has seen the beginning of its prompt: there its keys are kept.
"""

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_core.errors import NanochatError, SpecError
from nanochat_core.inference.prefixes import common_prefix
from nanochat_core.inference.replica import REQUEST, STATS, UPDATE
from nanochat_core.inference.requests import EngineBusy, EngineFailed, EngineStats, Request, Update
from nanochat_core.inference.scheduler import WORTH_WAITING
from nanochat_core.inference.service import EngineOptions
from nanochat_core.tokenizer.bpe import Tokenizer

log = logging.getLogger("nanochat.engine")

REMEMBERED_PROMPTS = 64  # of each replica
SIMILAR_LOAD = 2  # samples by which a replica may be busier than another and still be preferred for what it knows
END_SECONDS = 10.0


class _Replica:
    """One process, as its server sees it. `load`: samples that it was sent and has not finished."""

    def __init__(self, command: Sequence[str], number: int) -> None:
        self.number, self.load, self.is_alive = number, 0, True
        self.stats = EngineStats()
        self.streams: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Update | Exception]]] = {}
        self._prompts: deque[np.ndarray] = deque(maxlen=REMEMBERED_PROMPTS)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._lock = threading.Lock()
        self._listener = threading.Thread(target=self._listen, name=f"nanochat-replica-{number}", daemon=True)

    def wait_until_ready(self) -> dict[str, int]:
        """Return what the replica says of its engine; raises SpecError where it refuses, EngineFailed where it ends."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EngineFailed(f"engine {self.number} ended with code {self._process.wait()} while it was loaded")
        word = json.loads(line)
        if "refused" in word:
            raise SpecError(word["refused"])
        self._listener.start()
        return word["ready"]

    def knows(self, prompt: np.ndarray) -> int:
        """Return how many first ids of a prompt the replica has seen; too few to matter count as none."""
        longest = max((common_prefix(known, prompt) for known in self._prompts), default=0)
        return longest if longest >= WORTH_WAITING else 0

    def start(self, identity: int, request: Request, prompt: np.ndarray) -> None:
        self._prompts.append(prompt)
        self.load += request.num_samples
        self._say({"start": identity, "request": REQUEST.dump_python(request, mode="json")})

    def cancel(self, identity: int) -> None:
        self._say({"cancel": identity})

    def end(self) -> None:
        """End the process, by force where it does not listen."""
        self.is_alive = False
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._listener.ident is not None:
            self._listener.join()
        self._process.stdout.close()

    def _say(self, word: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError):  # that it is dead, its listener finds out
            self._process.stdin.write(json.dumps(word).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        """Hand out what the process says, in a thread, until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word = json.loads(line)
            if "stats" in word:
                self.stats = STATS.validate_python(word["stats"])
            elif "update" in word:
                self._deliver(word["id"], UPDATE.validate_python(word["update"]))
            else:
                self._deliver(word["id"], EngineFailed(word["error"]))
        if self.is_alive:
            log.error("Engine %d has died.", self.number)
        self.is_alive, self.stats = False, EngineStats()
        for identity in list(self.streams):
            self._deliver(identity, EngineFailed(f"engine {self.number} has died"))

    def _deliver(self, identity: int, found: Update | Exception) -> None:
        if identity in self.streams:
            loop, queue = self.streams[identity]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(queue.put_nowait, found)


@dataclass
class ReplicatedEngine:
    """An `AsyncEngine` over several. `max_load`: samples that a replica may have, running and waiting."""

    replicas: list[_Replica]
    tokenizer: Tokenizer
    max_context: int
    max_load: int
    _number: int = field(default=0, init=False)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def stream(self, request: Request) -> AsyncIterator[Update]:
        """Yield the updates of all samples, as `AsyncEngine` says."""
        if not request.ids or not 0 <= min(request.ids) <= max(request.ids) < self.vocab_size:
            raise ValueError(f"a prompt needs at least one token, of ids 0 to {self.vocab_size - 1}")
        if len(request.ids) + request.sampling.max_new_tokens > self.max_context:
            raise ValueError(
                f"a prompt of {len(request.ids)} tokens and {request.sampling.max_new_tokens} new ones are more than "
                f"the context of {self.max_context}"
            )
        if min(replica.load for replica in self._living()) + request.num_samples > self.max_load:
            raise EngineBusy(
                f"all {len(self._living())} engines have {self.max_load} samples, and no more may be there"
            )
        return self._updates(request)

    def _living(self) -> list[_Replica]:
        """Return the engines that live; raises EngineFailed where none does."""
        living = [replica for replica in self.replicas if replica.is_alive]
        if not living:
            raise EngineFailed("all engines have died")
        return living

    async def _updates(self, request: Request) -> AsyncIterator[Update]:
        living, prompt = self._living(), np.array(request.ids)
        least = min(replica.load for replica in living)
        similar = [replica for replica in living if replica.load <= least + SIMILAR_LOAD]
        replica = max(similar, key=lambda each: (each.knows(prompt), -each.load))
        self._number += 1
        identity, queue = self._number, asyncio.Queue[Update | Exception]()
        replica.streams[identity] = (asyncio.get_running_loop(), queue)
        replica.start(identity, request, prompt)
        unfinished = request.num_samples
        try:
            while unfinished:
                found = await queue.get()
                if isinstance(found, Exception):
                    raise found
                unfinished -= found.finish_reason is not None
                yield found
        finally:
            del replica.streams[identity]
            replica.load -= request.num_samples
            if unfinished:
                replica.cancel(identity)

    def stats(self) -> EngineStats:
        """Return the sums over the engines that live."""
        living = [replica.stats for replica in self.replicas if replica.is_alive]
        if not living:
            return EngineStats(failure="all engines have died")
        counts = [entry.name for entry in fields(EngineStats) if entry.name != "failure"]
        return EngineStats(**{name: sum(getattr(stats, name) for stats in living) for name in counts})

    async def close(self) -> None:
        """End all processes; streams that still run raise EngineFailed."""
        await asyncio.gather(*(asyncio.to_thread(replica.end) for replica in self.replicas))


def load_replicas(model_folder: Path, tokenizer_folder: Path, *, options: Sequence[EngineOptions]) -> ReplicatedEngine:
    """Return an engine over one replica for each of the options, ready to answer.

    Raises NanochatError where one of them cannot be loaded; none is left running then.
    """
    replicas: list[_Replica] = []
    try:
        for number, option in enumerate(options):
            arguments = [str(model_folder), str(tokenizer_folder), json.dumps(asdict(option))]
            replicas.append(_Replica([sys.executable, "-m", "nanochat_core.inference.replica", *arguments], number))
        words = [replica.wait_until_ready() for replica in replicas]
    except (NanochatError, EngineFailed):
        for replica in replicas:
            replica.end()
        raise
    return ReplicatedEngine(
        replicas=replicas,
        tokenizer=Tokenizer.load(tokenizer_folder),
        max_context=words[0]["max_context"],
        max_load=options[0].max_batch + options[0].max_waiting // len(options),
    )
