"""One engine in a process of its own: `python -m nanochat_core.inference.replica MODEL TOKENIZER OPTIONS`.

It reads requests from its standard input and ends when that does, so that it never outlives the server:

    in:   {"start": 7, "request": {…}} or {"cancel": 7}                                      one line
    out:  {"ready": {"max_context": …, "vocab_size": …}} or {"refused": "…"}, once
          {"id": 7, "update": {…}} or {"id": 7, "error": "…"}, and {"stats": {…}}            one line each
"""

import asyncio
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from nanochat_core.errors import NanochatError
from nanochat_core.inference.requests import EngineBusy, EngineFailed, EngineStats, Request, Update
from nanochat_core.inference.service import EngineOptions, load_engine

REPORT_SECONDS = 0.1  # between two looks at its own engine

REQUEST, UPDATE, STATS, OPTIONS = (TypeAdapter(kind) for kind in (Request, Update, EngineStats, EngineOptions))


class _Voice:
    """Says words on the standard output: all of one turn of the event loop at once."""

    def __init__(self) -> None:
        self._words: list[bytes] = []

    def say(self, word: dict[str, Any]) -> None:
        if not self._words:
            asyncio.get_running_loop().call_soon(self._flush)
        self._words.append(json.dumps(word).encode() + b"\n")

    def _flush(self) -> None:
        words, self._words = self._words, []
        sys.stdout.buffer.write(b"".join(words))
        sys.stdout.buffer.flush()


async def _serve(model_folder: Path, tokenizer_folder: Path, options: EngineOptions) -> None:
    voice = _Voice()
    try:
        service = load_engine(model_folder, tokenizer_folder, options=options)
    except NanochatError as error:
        voice.say({"refused": str(error)})
        return
    voice.say({"ready": {"max_context": service.max_context, "vocab_size": service.vocab_size}})
    tasks: dict[int, asyncio.Task[None]] = {}

    async def answer(identity: int, request: Request) -> None:
        try:
            async for update in service.stream(request):
                voice.say({"id": identity, "update": UPDATE.dump_python(update, mode="json")})
        except (EngineBusy, EngineFailed, ValueError) as error:
            voice.say({"id": identity, "error": str(error)})
        finally:
            del tasks[identity]

    async def report() -> None:
        said = None
        while True:
            stats = service.stats()
            if stats != said:
                voice.say({"stats": STATS.dump_python(stats)})
                said = stats
            await asyncio.sleep(REPORT_SECONDS)

    def obey(word: dict[str, Any]) -> None:
        if "start" in word:
            request = REQUEST.validate_python(word["request"])
            tasks[word["start"]] = asyncio.ensure_future(answer(word["start"], request))
        elif word["cancel"] in tasks:
            tasks[word["cancel"]].cancel()

    loop, is_over = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(obey, json.loads(line))
        loop.call_soon_threadsafe(is_over.set)

    threading.Thread(target=listen, name="nanochat-orders", daemon=True).start()
    reporting = asyncio.create_task(report())
    await is_over.wait()
    reporting.cancel()
    os._exit(0)  # the server is gone: nobody waits for what is being computed


def main() -> None:
    """Be a replica."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    model_folder, tokenizer_folder, options = sys.argv[1:]
    asyncio.run(_serve(Path(model_folder), Path(tokenizer_folder), OPTIONS.validate_json(options)))


if __name__ == "__main__":
    main()
