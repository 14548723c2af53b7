"""Coroutines talk to an engine in a thread: streams, closed streams, a full line, and an engine that dies."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from nanochat_core.errors import SpecError
from nanochat_core.inference.engine import Engine, EngineLimits
from nanochat_core.inference.requests import EngineBusy, EngineFailed, Request, Sampling, Update
from nanochat_core.inference.service import EngineOptions, EngineService, load_engine
from tests.nanochat_core.inference.model_folder import write_model_folder
from tests.nanochat_core.inference.test_engine import TOKENIZER, random_model, slow_greedy

PATIENCE_SECONDS = 30.0


def new_service(max_waiting: int = 4, rows: int = 2) -> EngineService:
    engine = Engine(random_model(), TOKENIZER, limits=EngineLimits(rows=rows))
    engine.prepare(128)
    return EngineService(lambda: (engine, 128), max_waiting=max_waiting)


def run(test: Callable[[EngineService], Awaitable[None]], **sizes: int) -> None:
    async def with_service() -> None:
        service = new_service(**sizes)
        try:
            await asyncio.wait_for(test(service), PATIENCE_SECONDS)
        finally:
            await service.close()

    asyncio.run(with_service())


def request_of(text: str, **sampling: object) -> Request:
    asked_for = Sampling(**{"max_new_tokens": 8, "ignore_eos": True} | sampling)  # type: ignore[arg-type]
    return Request((TOKENIZER.bos, *TOKENIZER.encode(text)), asked_for)


LONG = request_of("x", max_new_tokens=120)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def all_of(stream: AsyncIterator[Update]) -> list[Update]:
    return [update async for update in stream]


def test_many_streams_at_once_have_each_their_own_answer() -> None:
    model = random_model()

    async def test(service: EngineService) -> None:
        requests = [request_of(letter * 3) for letter in "abcd"]
        for request, updates in zip(
            requests, await asyncio.gather(*(all_of(service.stream(request)) for request in requests)), strict=True
        ):
            ids = [token.id for update in updates for token in update.tokens]
            assert [*request.ids, *ids] == slow_greedy_without_end(list(request.ids), 8)
            assert [update.finish_reason for update in updates] == [None] * (len(updates) - 1) + ["length"]

    def slow_greedy_without_end(ids: list[int], count: int) -> list[int]:
        for _ in range(count):
            ids = [*ids, slow_greedy(model, ids, 1)[-1]]
        return ids

    run(test)


def test_a_closed_stream_leaves_the_batch_and_the_line() -> None:
    async def test(service: EngineService) -> None:
        streams = [service.stream(LONG) for _ in range(3)]  # two run, one waits
        tasks = [asyncio.create_task(anext(stream)) for stream in streams[:2]]
        await asyncio.gather(*tasks)
        waiting = asyncio.create_task(all_of(streams[2]))
        await until(lambda: service.stats().waiting == 1)
        waiting.cancel()
        await streams[0].aclose()  # type: ignore[attr-defined]
        await until(lambda: (service.stats().running, service.stats().waiting) == (1, 0))
        assert len(await all_of(streams[1])) > 50, "the other goes on"
        await until(lambda: service.stats().running == 0)

    run(test)


def test_a_full_line_refuses_at_once_and_takes_requests_again_later() -> None:
    async def test(service: EngineService) -> None:
        tasks = [asyncio.create_task(all_of(service.stream(LONG))) for _ in range(3)]
        await until(lambda: service.stats().running == 2 and service.stats().waiting == 1)
        with pytest.raises(EngineBusy, match="2 samples run and 1 wait; no more than 1 may wait"):
            service.stream(LONG)
        await asyncio.gather(*tasks)
        assert await all_of(service.stream(request_of("again")))

    run(test, max_waiting=1)


@pytest.mark.parametrize(
    ("request_", "message"),
    [(Request(()), "at least one token"), (request_of("a" * 60, max_new_tokens=100), "more than the context of 128")],
)
def test_what_can_never_be_answered_is_refused_before_it_is_streamed(request_: Request, message: str) -> None:
    async def test(service: EngineService) -> None:
        with pytest.raises(ValueError, match=message):
            service.stream(request_)

    run(test)


def test_closing_ends_what_still_runs() -> None:
    async def test(service: EngineService) -> None:
        stream = service.stream(LONG)
        await anext(stream)
        await service.close()
        with pytest.raises(EngineFailed, match="closed"):
            await all_of(stream)
        with pytest.raises(EngineFailed, match="closed"):
            service.stream(LONG)

    run(test)


def test_an_engine_that_dies_says_so_to_all_and_in_its_stats() -> None:
    async def test(service: EngineService) -> None:
        stream = service.stream(LONG)
        await anext(stream)
        service._engine.step = lambda: (_ for _ in ()).throw(MemoryError("all gone"))  # type: ignore[method-assign]
        with pytest.raises(EngineFailed, match=r"the engine has died: MemoryError: all gone"):
            await all_of(stream)
        await until(lambda: service.stats().failure is not None)
        with pytest.raises(EngineFailed, match="has died"):
            service.stream(LONG)

    run(test)


def test_the_loop_is_free_while_the_engine_computes() -> None:
    async def test(service: EngineService) -> None:
        def slow_step() -> list[object]:
            time.sleep(0.2)
            return step()  # type: ignore[return-value]

        step = service._engine.step
        service._engine.step = slow_step  # type: ignore[method-assign,assignment]
        task = asyncio.create_task(all_of(service.stream(request_of("a", max_new_tokens=2))))
        turns = 0
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 10

    run(test)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "int8", "int4"])
def test_a_folder_is_served_in_any_precision(precision: str, tmp_path: Path) -> None:
    folders = write_model_folder(tmp_path, random_model(), TOKENIZER)

    async def test() -> int:
        options = EngineOptions(precision=precision, max_context=64)  # type: ignore[arg-type]
        service = load_engine(*folders, options=options)
        updates = await asyncio.wait_for(all_of(service.stream(request_of("hello"))), PATIENCE_SECONDS)
        await service.close()
        return sum(len(update.tokens) for update in updates)

    assert asyncio.run(test()) == 8


def test_too_little_memory_for_one_context_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    folders = write_model_folder(tmp_path, random_model(), TOKENIZER)
    with pytest.raises(SpecError, match=r"kv_memory_gb: .* pages of memory, and there are"):
        load_engine(*folders, options=EngineOptions(kv_memory_gb=1e-6))
