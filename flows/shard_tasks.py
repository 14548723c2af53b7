"""The work that each shard of the text needs, as tasks: it is fetched from the Hub, and it is tokenised.

    fetch_shard -> the store (data/remote/hub_shards.py) -> the download stage checks, links and lists it
    tokenise_shard -> the token cache (data/token_shards.py) -> pretraining maps it into memory

Both leave what they make under a name that follows from its content, so a finished shard is never a task again, and a
stage makes for itself what a failed task has not. The tasks are there so that the work begins early and is shared out
(flows/shard_runners.py), and shows which shard is in trouble.
"""

import time
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner

from flows import shard_runners
from flows.progress import StageProgress, warn
from nanochat_core import artifacts, paths
from nanochat_core.errors import NanochatError, Unreachable
from nanochat_core.specs import DownloadSpec, PipelineSpec

if TYPE_CHECKING:
    from nanochat_core.data.remote.hub_shards import StoredShard, WantedShard

TRANSIENT = (Unreachable, ConnectionError, TimeoutError)

TOKENIZER_FILE = "tokenizer.json"  # as in tokenizer/bpe.py

ShardTask = PrefectFuture[Any]


def fetch(shard: "WantedShard", base: Path) -> "StoredShard":
    """Have the shard in the store, whole and checked."""
    from nanochat_core.data.remote.hub_shards import (
        fetch_shard,  # it and the next bring packages that a cached run spares
    )

    return fetch_shard(shard, base)


def tokenise(name: str, shard: Path, sha256: str, tokenizer: Path, cache: Path) -> None:
    """Have the shard's tokens in the cache. `name` is what the task is called by."""
    from nanochat_core.data.token_shards import build_token_shard

    build_token_shard(shard, sha256, tokenizer, cache)


def is_worth_a_retry(_: "Task[Any, Any]", __: TaskRun, state: "State[Any]") -> bool:
    """Tell whether another try makes sense: where the network was at fault, never for a bad shard."""
    return isinstance(state.result(raise_on_failure=False), TRANSIENT)


def mapped(work: Any, name: str, run_name: str) -> "Task[Any, Any]":
    return Task(
        work,
        name=name,
        task_run_name=run_name,
        persist_result=False,
        cache_policy=NO_CACHE,
        retry_condition_fn=is_worth_a_retry,
    )


FETCH = mapped(fetch, "fetch_shard", "fetch {shard.name}")
TOKENISE = mapped(tokenise, "tokenise_shard", "tokenise {name}")


class ShardTasks:
    """The tasks of one run, each shard at most once. Runners are open while there is something to do."""

    def __init__(self, spec: PipelineSpec, base: Path) -> None:
        self._launch, self._base = spec.launch, base
        self._threads = {FETCH.name: spec.download.num_workers, TOKENISE.name: shard_runners.num_workers(spec.launch)}
        self._runners: dict[str, TaskRunner[Any]] = {}
        self._pending: dict[ShardTask, str] = {}  # and what each is called
        self._fetches: dict[WantedShard, ShardTask] = {}
        self._shards: dict[ShardTask, WantedShard] = {}
        self._tokenisings: dict[str, ShardTask] = {}  # by the shard's SHA-256
        self._stored: dict[str, StoredShard] = {}  # training shards, by name
        self._tokenizer: Path | None = None
        self._tokenizer_hash = ""
        self._is_hub_silent = self._has_lost_workers = False

    def fetch(self, download: DownloadSpec) -> list[ShardTask]:
        """Begin to fetch the shards that the store lacks; return the tasks to wait for before they are read."""
        from nanochat_core.data.download import check_room
        from nanochat_core.data.remote.hub_shards import stored_shard, wanted_shards

        try:
            wanted = [] if self._is_hub_silent else wanted_shards(download, self._base)
            check_room(wanted, self._base)
        except (NanochatError, OSError) as error:  # the stage will say so
            self._is_hub_silent = isinstance(error, Unreachable)
            return []
        for shard in sorted(wanted, key=lambda shard: not shard.is_validation):  # it belongs to the first ones
            if shard in self._fetches:
                continue
            if stored := stored_shard(shard, self._base):
                self._note(shard, stored)
            else:
                future = self._submit(FETCH, shard.name, {"shard": shard, "base": self._base})
                self._fetches[shard], self._shards[future] = future, shard
        return [self._fetches[shard] for shard in wanted if shard in self._fetches]

    def tokenise(self, tokenizer: Path, text: Path | None) -> list[ShardTask]:
        """Begin to tokenise the training shards of the folder `text`; without it, those in the store, now or later.

        Returns the tasks to wait for before the tokens are read.
        """
        from nanochat_core.data.shards import TextShards

        try:
            self._tokenizer_hash = artifacts.sha256_of(tokenizer / TOKENIZER_FILE)
            opened = None if text is None else TextShards.open(text)
        except (NanochatError, OSError):  # the stage will say so
            return []
        self._tokenizer = tokenizer
        if opened is None:
            shards = [(name, stored.sha256, stored.path) for name, stored in self._stored.items()]
        else:
            shards = [(path.name, opened.sha256[path], path) for path in opened.train]
        for name, sha256, path in shards:
            self._tokenise(name, sha256, path)
        return list(self._tokenisings.values())

    def wait(self, tasks: Sequence[ShardTask], stage: str) -> None:
        """Return when these tasks have ended, well or not, and show how many have."""
        waiting = [task for task in tasks if task in self._pending]
        if waiting:
            with StageProgress(f"shards for {stage}") as progress:
                progress.start()
                for done, task in enumerate(as_completed(waiting), start=1):
                    self._take(task)
                    progress.update([{"step": done, "total_steps": len(waiting), "time": time.time()}])
        if not self._pending:
            self.close()

    def close(self, *, is_abandoned: bool = False) -> None:
        """Close the runners: after what they do now, or at once where the run has failed or was cancelled."""
        runners, self._runners = self._runners, {}
        for runner in runners.values():
            shard_runners.close(runner, is_abandoned=is_abandoned)

    def _note(self, shard: "WantedShard", stored: "StoredShard") -> None:
        """A shard is in the store: where the tokenizer is there, it is tokenised next."""
        if not shard.is_validation:
            self._stored[shard.name] = stored
            if self._tokenizer is not None:
                self._tokenise(shard.name, stored.sha256, stored.path)

    def _tokenise(self, name: str, sha256: str, path: Path) -> None:
        from nanochat_core.data.token_shards import is_whole, token_shard_path

        cache = paths.tokens_dir(self._base)
        if sha256 not in self._tokenisings and not is_whole(token_shard_path(sha256, self._tokenizer_hash, cache)):
            parameters = {"name": name, "shard": path, "sha256": sha256, "tokenizer": self._tokenizer, "cache": cache}
            self._tokenisings[sha256] = self._submit(TOKENISE, name, parameters)

    def _submit(self, task: "Task[Any, Any]", shard: str, parameters: dict[str, Any]) -> ShardTask:
        retries = self._launch.retries
        delays = [self._launch.retry_seconds * 3**attempt for attempt in range(retries)]
        patient = task.with_options(retries=retries, retry_delay_seconds=delays)
        try:
            future: ShardTask = self._runner(task.name).submit(patient, parameters)
        except OSError as error:
            raise NanochatError(
                f"launch.shard_tasks: {self._launch.shard_tasks!r} does not work here "
                f"({' '.join(str(error).split())}): correct launch.dask_address, or use 'threads'."
            ) from None
        self._pending[future] = f"{task.name}: {shard}"
        return future

    def _runner(self, kind: str) -> TaskRunner[Any]:
        """Return the open runner for one kind of task: threads are cheap, all else does both kinds."""
        name = kind if self._launch.shard_tasks == "threads" else self._launch.shard_tasks
        if name not in self._runners:
            runner = shard_runners.make_runner(self._launch, self._base, threads=self._threads[kind])
            self._runners[name] = runner.__enter__()
        return self._runners[name]

    def _take(self, task: ShardTask) -> None:
        """Note what an ended task has made; of one that failed, say why in one line."""
        name = self._pending.pop(task)
        try:
            made = task.result(raise_on_failure=False)
        except Exception as error:  # of the runner, not of the task: its worker is gone, the task was never run, …
            made = error
        if isinstance(made, BrokenExecutor):
            if not self._has_lost_workers:
                warn("A process that worked on shards died (out of memory?): the stages do the rest by themselves.")
            self._has_lost_workers = True
        elif isinstance(made, BaseException):
            reason = " ".join(str(made).split()) or type(made).__name__
            warn(f"{name} failed: {reason}")
        elif task in self._shards:
            self._note(self._shards[task], made)
