"""Many clients for minutes, a good part of whom leave in the middle: nothing breaks, nothing stays behind.

$NANOCHAT_SOAK_SECONDS shortens it for a try.
"""

import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.deployments.serving import fresh
from tests.deployments.serving.raw_http import post
from tests.deployments.serving.test_handover import free_port
from tests.deployments.serving.tiny_model import write_tiny_model
from tests.fake_engine import wait_until

PROJECT = Path(__file__).parents[3]
SECONDS = float(os.environ.get("NANOCHAT_SOAK_SECONDS", "300"))
CLIENTS = 32
ALLOWED = {200, 429, 503}
GROWTH = 1.03  # of memory, from the second fifth of the time to the last
GROWTH_BYTES = 8 << 20


def random_request(dice: random.Random) -> tuple[str, dict[str, Any]]:
    """Return a path and a body: chats and completions of many sizes, with whatever they may ask for."""
    sampling: dict[str, Any] = {
        "max_tokens": dice.choice([1, 8, 40, 150]),
        "temperature": dice.choice([0, 0.8, 1.5]),
        "n": dice.choice([1, 1, 1, 2, 4]),
        "stream": dice.random() < 0.6,
        "ignore_eos": dice.random() < 0.7,
    }
    if dice.random() < 0.3:
        sampling["stop"] = dice.sample("abcdefg \n", 2)
    text = "".join(dice.choices("abc de\u00e9\U0001f31e<|bos|>", k=dice.randint(1, 60)))
    if dice.random() < 0.5:
        history = [
            {"role": role, "content": text[:20]} for _ in range(dice.randint(0, 4)) for role in ("user", "assistant")
        ]
        chat = {"messages": [{"role": "system", "content": "Be brief."}, *history, {"role": "user", "content": text}]}
        return "/v1/chat/completions", sampling | chat | {"logprobs": dice.random() < 0.3}
    prompts: Any = dice.choice([text, [text, text[:9]], list(text.encode()), [[1, 2, 3], list(text.encode())]])
    return "/v1/completions", sampling | {"prompt": prompts, "logprobs": dice.choice([None, 0, 3])}


async def client(url: str, seed: int, end: float, seen: Counter[str], mistakes: list[str]) -> None:
    """Ask over and over, now on a new connection and now on an old one; leave in the middle, or stay."""
    dice, parts = random.Random(seed), urlsplit(url)
    while time.monotonic() < end:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            for _ in range(dice.randint(1, 5)):
                path, body = random_request(dice)
                writer.write(post(path, body))
                patience = dice.choice([None, None, dice.uniform(0, 0.05), dice.uniform(0, 1)])
                try:
                    async with asyncio.timeout(patience):
                        status, data = await read(reader)
                except TimeoutError:
                    seen["left"] += 1
                    break
                seen[str(status)] += 1
                if status not in ALLOWED or (
                    status == 200 and body["stream"] and not data.rstrip().endswith(b"[DONE]")
                ):
                    mistakes.append(f"{status} {path} {json.dumps(body)[:300]}: {data[-300:]!r}")
                if status in (429, 503):
                    await asyncio.sleep(dice.uniform(0, 0.2))
                if time.monotonic() > end:
                    break
        finally:
            if dice.random() < 0.3:
                writer.transport.abort()  # a reset, not a farewell
            else:
                writer.close()


async def read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body of an answer, of known length or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    status = int(head.split()[1])
    if "transfer-encoding: chunked" not in head:
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length"))
        return status, await reader.readexactly(length)
    data = b""
    while size := int(await reader.readline(), 16):
        data += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return status, data


async def soak(url: str, process: psutil.Process, seconds: float) -> tuple[Counter[str], list[str], list[int]]:
    """Return what came, what must not have come, and the server's memory in bytes, once a second."""
    seen: Counter[str] = Counter()
    mistakes: list[str] = []
    memory: list[int] = []
    end = time.monotonic() + seconds
    tasks = [asyncio.create_task(client(url, seed, end, seen, mistakes)) for seed in range(CLIENTS)]
    while not all(task.done() for task in tasks):
        memory.append(process.memory_info().rss)
        await asyncio.sleep(1)
    await asyncio.gather(*tasks)
    return seen, mistakes, memory


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_many_clients_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    model, tokenizer = write_tiny_model(tmp_path)
    status = tmp_path / "status.json"
    spec = {"model_folder": str(model), "tokenizer_folder": str(tokenizer), "port": free_port(), "model_name": "tiny"}
    limits = {"max_running": 16, "max_waiting": 24, "status_file": str(status), "drain_seconds": 5}
    (tmp_path / "spec.json").write_text(json.dumps(spec | limits))
    command = [sys.executable, "-m", "deployments.serving", str(tmp_path / "spec.json")]
    environment = os.environ | {"NANOCHAT_BASE_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log.txt"
    with open(log, "wb") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as server:
        try:
            wait_until(lambda: status.exists() and json.loads(status.read_text())["state"] == "ready", 120)
            url = json.loads(status.read_text())["url"]
            seen, mistakes, memory = asyncio.run(soak(url, psutil.Process(server.pid), SECONDS))
            print(f"{seen}, memory {[size >> 20 for size in memory[:: max(1, len(memory) // 10)]]} MiB")
            assert mistakes == [] and seen["200"] > 20 and seen["left"] > 5

            def metrics() -> dict[str, float]:
                lines = fresh.get(f"{url}/metrics").text.splitlines()
                return {line.split("{")[0].split()[0]: float(line.split()[-1]) for line in lines if line[0] != "#"}

            gauges = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
            wait_until(lambda: all(metrics()[f"nanochat:{name}"] == 0 for name in gauges))
            wait_until(lambda: metrics()["nanochat:http_connections"] == 1)
            fifth = max(1, len(memory) // 5)
            early, late = statistics.median(memory[fifth : 2 * fifth]), statistics.median(memory[-fifth:])
            assert late < max(early * GROWTH, early + GROWTH_BYTES), f"{early / 2**20:.1f} -> {late / 2**20:.1f} MiB"
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
    assert "Traceback" not in log.read_text()
