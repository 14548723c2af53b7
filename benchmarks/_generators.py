"""One contender of benchmarks/serve.py in a process of its own: it is given prompts line by line, answers in JSON.

    python benchmarks/_generators.py '{"who": "ours", "folder": …}'     the fields of `Setup`

`{"do": "answer", "prompts": [[ids, …], …], "new_tokens": N}`: what became of requests that all came at once.
`{"do": "load", …, "turns": M}`: of clients that send M prompts each, one after another. `{"do": "memory"}`: the most
memory since `{"do": "prepare"}`, which reads the model, beyond what the imports took.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._memory import peak_bytes, reset_peak, resident_bytes
from benchmarks.baselines.plain_generate import PlainGenerator
from nanochat_core.checkpoint import MODEL_FILE, latest, read_meta
from nanochat_core.inference.requests import Request, Sampling
from nanochat_core.inference.service import EngineOptions, load_engine

Prompts = list[list[int]]


@dataclass(frozen=True)
class Setup:
    """What is measured: the model in `folder` (benchmarks/_served_model.py)."""

    who: str  # ours, plain, transformers
    folder: str
    precision: str = "fp32"
    threads: int = 2
    max_batch: int = 32


@dataclass
class Answer:
    """One request: its tokens, and when each came, in seconds since it was sent."""

    ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class Contender(Protocol):
    """Answers requests that come at once; all of them greedy, all of full length."""

    def answer(self, prompts: Prompts, new_tokens: int) -> list[Answer]: ...

    def close(self) -> None: ...


class Ours:
    """The project's engine: requests that share its batch, and stream."""

    def __init__(self, setup: Setup) -> None:
        folder = Path(setup.folder)
        options = EngineOptions(precision=setup.precision, max_batch=setup.max_batch)
        self._engine = load_engine(folder / "model", folder / "tokenizer", options=options)
        self._loop = asyncio.new_event_loop()

    def answer(self, prompts: Prompts, new_tokens: int) -> list[Answer]:
        return self._loop.run_until_complete(self._answer_all(prompts, new_tokens))

    def load(self, prompts: Prompts, new_tokens: int, turns: int) -> list[Answer]:
        """Return the answers to clients that send `turns` prompts each, one after another."""
        return self._loop.run_until_complete(self._serve_clients(prompts, new_tokens, turns))

    def close(self) -> None:
        self._loop.run_until_complete(self._engine.close())
        self._loop.close()

    async def _answer_all(self, prompts: Prompts, new_tokens: int) -> list[Answer]:
        return list(await asyncio.gather(*(self._answer_one(ids, new_tokens) for ids in prompts)))

    async def _serve_clients(self, prompts: Prompts, new_tokens: int, turns: int) -> list[Answer]:
        async def client(own: Prompts) -> list[Answer]:
            return [await self._answer_one(ids, new_tokens // 2 + len(ids) * 7 % new_tokens) for ids in own]

        starts = range(0, len(prompts), turns)
        found = await asyncio.gather(*(client(prompts[start : start + turns]) for start in starts))
        return [answer for answers in found for answer in answers]

    async def _answer_one(self, ids: list[int], new_tokens: int) -> Answer:
        sampling = Sampling(max_new_tokens=new_tokens, ignore_eos=True, use_tools=False)
        answer, started = Answer(), time.perf_counter()
        async for update in self._engine.stream(Request(tuple(ids), sampling)):
            answer.ids += [token.id for token in update.tokens]
            answer.times += [time.perf_counter() - started] * len(update.tokens)
        return answer


class OneByOne:
    """Requests that come at once and are answered one after another; a request's time begins when it came."""

    def answer(self, prompts: Prompts, new_tokens: int) -> list[Answer]:
        started, answers = time.perf_counter(), []
        for ids in prompts:
            answers.append(Answer())
            for token in self._tokens(ids, new_tokens):
                answers[-1].ids.append(token)
                answers[-1].times.append(time.perf_counter() - started)
        return answers

    def close(self) -> None: ...


class Plain(OneByOne):
    """benchmarks/baselines/plain_generate.py."""

    def __init__(self, setup: Setup) -> None:
        checkpoint = checkpoint_of(setup)
        meta = read_meta(checkpoint)
        spec = meta.model
        self._model = PlainGenerator(spec.arch, spec.depth, spec.n_embd, meta.vocab_size, spec.sequence_len)
        self._model.load_state_dict(load_file(checkpoint / MODEL_FILE), assign=True)
        self._tokens = self._model.generate


class Transformers(OneByOne):
    """`generate` of the exported checkpoint in transformers, as its documentation has it: a cache, and greedy."""

    def __init__(self, setup: Setup) -> None:
        import transformers

        self._model = transformers.AutoModelForCausalLM.from_pretrained(Path(setup.folder) / "exported").eval()
        self._model.generation_config.eos_token_id = None  # every answer has its full length

    def answer(self, prompts: Prompts, new_tokens: int) -> list[Answer]:
        started, answers = time.perf_counter(), []
        for ids in prompts:
            answers.append(Answer())
            self._model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                do_sample=False,
                use_cache=True,
                max_new_tokens=new_tokens,
                streamer=Streamer(answers[-1], started, len(ids)),
            )
        return answers


class Streamer:
    """What `generate` of transformers tells its tokens to, the prompt's first."""

    def __init__(self, answer: Answer, started: float, prompt_tokens: int) -> None:
        self._answer, self._started, self._prompt_tokens = answer, started, prompt_tokens

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_tokens:
            self._prompt_tokens = 0
            return
        self._answer.ids += value.flatten().tolist()
        self._answer.times.append(time.perf_counter() - self._started)

    def end(self) -> None: ...


def checkpoint_of(setup: Setup) -> Path:
    path = latest(Path(setup.folder) / "model" / "checkpoints")
    assert path is not None
    return path


CONTENDERS: dict[str, Callable[[Setup], Contender]] = {"ours": Ours, "plain": Plain, "transformers": Transformers}


class Server:
    """Answers the commands."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        if setup.who == "transformers":
            import transformers

            transformers.logging.set_verbosity_error()
            _ = transformers.NanoChatForCausalLM  # its modules are imported when they are asked for
        gc.collect()
        self._after_imports = resident_bytes()

    @cached_property
    def _contender(self) -> Any:
        return CONTENDERS[self._setup.who](self._setup)

    def prepare(self) -> dict[str, Any]:
        """Read the model; return the seconds that it took. The peak of the memory begins anew behind it."""
        started = time.perf_counter()
        _ = self._contender
        seconds = time.perf_counter() - started
        gc.collect()
        reset_peak()
        return {"seconds": seconds}

    def answer(self, prompts: Prompts, new_tokens: int) -> dict[str, Any]:
        """Return the seconds until all were answered, and each one's tokens and times."""
        started = time.perf_counter()
        answers = self._contender.answer(prompts, new_tokens)
        return report(answers, time.perf_counter() - started)

    def load(self, prompts: Prompts, new_tokens: int, turns: int) -> dict[str, Any]:
        """Return the same of clients."""
        started = time.perf_counter()
        answers = self._contender.load(prompts, new_tokens, turns)
        return report(answers, time.perf_counter() - started)

    def memory(self) -> dict[str, Any]:
        """Return the most bytes since the model was read, beyond those after the imports, and these."""
        return {"peak": peak_bytes() - self._after_imports, "imports": self._after_imports}


def report(answers: list[Answer], seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "ids": [answer.ids for answer in answers],
        "first": [answer.times[0] for answer in answers if answer.times],
        "last": [answer.times[-1] for answer in answers if answer.times],
        "decoding": decoding_rate(answers),
    }


def decoding_rate(answers: list[Answer]) -> float | None:
    """Return the tokens per second from the moment on at which every request had its first token.

    >>> decoding_rate([Answer([1, 2, 3], [1.0, 2.0, 3.0]), Answer([1, 2], [1.5, 3.5])])
    1.5
    """
    if not all(answer.times for answer in answers):
        return None
    start, end = max(answer.times[0] for answer in answers), max(answer.times[-1] for answer in answers)
    count = sum(moment > start for answer in answers for moment in answer.times)
    return count / (end - start) if end > start else None


def main() -> None:
    setup = Setup(**json.loads(sys.argv[1]))
    torch.set_num_threads(setup.threads)
    server = Server(setup)
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else shall stand among the answers
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(server, command.pop("do"))(**command)), file=answers, flush=True)


if __name__ == "__main__":
    main()
