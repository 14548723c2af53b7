"""Two engines in processes of their own behind one: answers, affinity, a death, and no process left."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nanochat_core.errors import NanochatError
from nanochat_core.inference.replicas import ReplicatedEngine, load_replicas
from nanochat_core.inference.requests import EngineBusy, EngineFailed, Request, Update
from nanochat_core.inference.service import EngineOptions
from tests.nanochat_core.inference.model_folder import write_model_folder
from tests.nanochat_core.inference.test_engine import TOKENIZER, random_model
from tests.nanochat_core.inference.test_service import LONG, all_of, request_of, until

PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model_folder(tmp_path_factory.mktemp("replicas"), random_model(), TOKENIZER)


@pytest.fixture
def engine(folders: tuple[Path, Path]) -> Iterator[ReplicatedEngine]:
    options = EngineOptions(device="cpu", max_batch=2, max_waiting=4, max_context=128)
    engine = load_replicas(*folders, options=[options, options])
    yield engine
    asyncio.run(engine.close())
    assert not [child for child in psutil.Process().children() if "inference.replica" in " ".join(child.cmdline())]


def test_requests_are_spread_answered_and_taken_back_and_a_dead_engine_is_done_without(
    engine: ReplicatedEngine,
) -> None:
    async def test() -> None:
        first, second = engine.replicas
        requests = [request_of(letter * 20) for letter in "abcd"]
        answers = await asyncio.gather(*(all_of(engine.stream(request)) for request in requests))
        alone = [await all_of(engine.stream(request)) for request in requests]
        assert [ids(updates) for updates in answers] == [ids(updates) for updates in alone]
        await until(lambda: engine.stats().generated_tokens == 8 * 8)
        assert min(first.stats.generated_tokens, second.stats.generated_tokens) >= 16, "both had work"
        assert engine.stats().cached_prompt_tokens >= 4 * 19, "each went to the engine that knew it"

        streams = [engine.stream(LONG) for _ in range(8)]
        tasks = [asyncio.create_task(anext(stream)) for stream in streams[:4]]
        await asyncio.gather(*tasks)
        others = [asyncio.create_task(all_of(stream)) for stream in streams[4:]]
        await until(lambda: first.load == second.load == 4)
        with pytest.raises(EngineBusy, match="all 2 engines have 4 samples"):
            engine.stream(LONG)
        for stream in streams[:4]:
            await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.gather(*others)
        await until(lambda: (first.stats.running, second.stats.running, first.load, second.load) == (0, 0, 0, 0))

        os.kill(first._process.pid, signal.SIGSTOP)  # or it might have answered before it is killed
        doomed = [asyncio.create_task(all_of(engine.stream(LONG))) for _ in range(2)]
        await until(lambda: first.load == 1)
        first._process.kill()
        outcomes = await asyncio.gather(*doomed, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(EngineFailed) == 1
        assert len(await all_of(engine.stream(request_of("again")))) > 0
        second._process.kill()
        await until(lambda: engine.stats().failure is not None)
        with pytest.raises(EngineFailed, match="all engines have died"):
            engine.stream(LONG)

    asyncio.run(asyncio.wait_for(test(), PATIENCE_SECONDS))


def ids(updates: list[Update]) -> list[int]:
    return [token.id for update in updates for token in update.tokens]


@pytest.mark.slow
def test_what_cannot_be_loaded_is_refused_and_leaves_no_process(folders: tuple[Path, Path]) -> None:
    options = EngineOptions(device="cpu", max_context=128)
    with pytest.raises(NanochatError, match="kv_memory_gb"):
        load_replicas(*folders, options=[options, EngineOptions(device="cpu", kv_memory_gb=1e-6)])
    assert not [child for child in psutil.Process().children() if "inference.replica" in " ".join(child.cmdline())]


@pytest.mark.parametrize("request_", [Request(()), Request((1, 10**6)), request_of("a", max_new_tokens=500)])
def test_what_no_engine_could_answer_is_refused_at_once(request_: Request) -> None:
    engine = ReplicatedEngine([], TOKENIZER, max_context=128, max_load=1)
    with pytest.raises(ValueError, match=r"at least one token|more than the context"):
        engine.stream(request_)
