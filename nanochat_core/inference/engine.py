"""The engine: many requests in one batch, each entering and leaving between steps; scoring by the same steps.

`step` computes the next tokens of all rows that run and returns what is new. `generate`, `score` and
`next_token_logits` drive it to the end for a list of prompts; `service.py` drives it from a thread for a server.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from nanochat_core.inference.forward import capped
from nanochat_core.inference.interface import Completion
from nanochat_core.inference.kv_memory import PAGE_TOKENS
from nanochat_core.inference.requests import EngineFailed, EngineStats, Request, Sampling, ScoredToken, Update
from nanochat_core.inference.row import Row
from nanochat_core.inference.runner import Chunk, Runner
from nanochat_core.inference.sampling import choose_with_logprobs, likeliest
from nanochat_core.inference.scheduler import Scheduler, Work
from nanochat_core.inference.text_stream import Vocabulary
from nanochat_core.inference.tool_use import Tool
from nanochat_core.inference.weights import FewBits
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.bpe import Tokenizer

CONTEXT_MARGIN = 4  # rotary positions reach beyond the trained length; generation may go on to this multiple of it
HEAD_ROWS = 256  # positions whose logits are computed at once while scoring
TOOL_THREADS = 4


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue, `num_samples` times."""

    ids: Sequence[int]
    num_samples: int = 1
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0
    use_tools: bool = True
    draw_logprobs: bool = False

    def request(self, max_length: int) -> Request:
        """Return the request; a prompt too long for its answer is cut from the left."""
        ids = tuple(self.ids)[-max(1, max_length - self.max_new_tokens) :]
        sampling = Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            seed=self.seed,
            use_tools=self.use_tools,
            draw_logprobs=self.draw_logprobs,
        )
        return Request(ids, sampling, self.num_samples)


@dataclass(frozen=True)
class Event:
    """What is new in a row: updates, or the error that ended it."""

    row: Row
    updates: Sequence[Update] = ()
    error: Exception | None = None


@dataclass(frozen=True)
class EngineLimits:
    """How much at once. rows: that run. prefixes: finished rows that are kept for others that begin like them.
    kv_tokens: whose keys are kept, of all rows together; a row as long as the context always fits. step_tokens: of
    prompts, between two tokens of the rows that decode."""

    rows: int = 64
    prefixes: int = 16
    kv_tokens: int = 16_384
    step_tokens: int = 512


class Engine:
    """A model, its tokenizer, and the rows that are being answered. Not for several threads.

    The model's weights may be trained in place between two calls of `prepare`, which `generate`, `score` and
    `next_token_logits` begin with: they are converted anew, and finished rows forgotten. With `shares_weights` nothing
    is converted that has the dtype which is computed in: the engine reads the memory that is trained.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        limits: EngineLimits | None = None,
        tool: Tool | None = None,
        few_bits: FewBits | None = None,
        shares_weights: bool = False,
    ) -> None:
        self.spec, self.tokenizer = model.spec, tokenizer
        self.max_length = CONTEXT_MARGIN * model.spec.sequence_len
        self._model: GPT | None = model
        self.limits, self._few_bits, self._shares_weights = limits or EngineLimits(), few_bits, shares_weights
        self._vocabulary, self._tool = Vocabulary(tokenizer), tool
        self._runner: Runner | None = None
        self._scheduler: Scheduler | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._calls: dict[Row, Future[str | None]] = {}
        self._prompt_tokens = self._cached_tokens = self._generated = self._steps = 0

    @property
    def runner(self) -> Runner:
        assert self._runner is not None, "prepare() comes first"
        return self._runner

    @property
    def scheduler(self) -> Scheduler:
        assert self._scheduler is not None, "prepare() comes first"
        return self._scheduler

    # ---- for a driver that calls `step` ----

    def prepare(self, capacity: int) -> None:
        """Have room for rows of `capacity` tokens, and the model's present weights. Nothing may run."""
        capacity = -(-capacity // PAGE_TOKENS) * PAGE_TOKENS
        model = self._model
        with torch.inference_mode():
            if self._runner is None or self._runner.memory.shape.capacity < capacity:
                assert model is not None
                self._build(model, capacity)
            elif model is not None and self._runner.follow(model):
                self.scheduler.forget()
        pages = self.runner.memory.shape.pages(self.runner.memory.shape.capacity)
        self.scheduler.pages_total = pages * max(1, self.limits.kv_tokens // self.runner.memory.shape.capacity)

    def _build(self, model: GPT, capacity: int) -> None:
        self._runner = self._scheduler = None  # its memory goes before the new one comes
        rows, prefixes = self._slots(model.device, capacity)
        self._runner = Runner(
            model,
            slots=rows + prefixes,
            capacity=capacity,
            few_bits=self._few_bits,
            shares_weights=self._shares_weights,
        )
        self._scheduler = Scheduler(self._runner.memory, rows=rows, step_tokens=self.limits.step_tokens)

    def _slots(self, device: torch.device, capacity: int) -> tuple[int, int]:
        """Return how many rows can run, and how many prefixes are kept. On CUDA a slot takes its memory at once."""
        limits = self.limits
        if device.type != "cuda":
            return limits.rows, limits.prefixes
        rows = max(1, min(limits.rows, limits.kv_tokens // capacity))
        return rows, min(limits.prefixes, max(1, rows // 4))

    def let_go_of_model(self) -> None:
        """Keep the converted weights only: the model is not trained any more."""
        self._model = None

    def submit(self, request: Request, *, is_streamed: bool = True) -> list[Row]:
        """Put the samples of a request into the line; return their rows. Raises ValueError as `check` does.

        Where `is_streamed` is off, `step` tells of errors only.
        """
        self.check(request)
        rows = [
            Row(request, sample, self._vocabulary, self._tool, is_streamed=is_streamed)
            for sample in range(request.num_samples)
        ]
        if request.sampling.prompt_logprobs is not None:
            rows[0].score_from = 1
        for row in rows:
            self.scheduler.add(row)
        self._prompt_tokens += len(request.ids) * len(rows)
        return rows

    def check(self, request: Request) -> None:
        """Raise ValueError for an empty prompt, an id outside the vocabulary, or a request that can never fit."""
        if not request.ids:
            raise ValueError("a prompt needs at least one token")
        if not 0 <= min(request.ids) <= max(request.ids) < self.tokenizer.vocab_size:
            raise ValueError(f"token ids are 0 to {self.tokenizer.vocab_size - 1}")
        if why := self.scheduler.why_never(len(request.ids) + request.sampling.max_new_tokens):
            raise ValueError(why)

    def cancel(self, row: Row) -> None:
        """Take a row out of the batch or the line, whatever it is doing."""
        self._calls.pop(row, None)
        self.scheduler.remove(row)

    @property
    def is_idle(self) -> bool:
        return not (self.scheduler.running or self.scheduler.waiting)

    def stats(self) -> EngineStats:
        scheduler = self.scheduler
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            pages_used=scheduler.pages_used,
            pages_cached=scheduler.prefixes.pages,
            pages_total=scheduler.pages_total,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_tokens,
            generated_tokens=self._generated,
            restarts=scheduler.restarts,
            steps=self._steps,
        )

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Compute the next tokens of all rows that run; return what is new. Waits where all rows wait for tools."""
        works = self.scheduler.plan()
        if not works and self._calls:
            wait(self._calls.values(), return_when=FIRST_COMPLETED)
        events = self._answered_calls()
        if works:
            self._steps += 1
            events += self._compute(works)
        return events

    def _compute(self, works: Sequence[Work]) -> list[Event]:
        """Run the works in one batch; where that fails, one by one, so that a request can only break itself."""
        try:
            return self._compute_together(works)
        except Exception as error:
            if len(works) == 1:
                return [self._failed(works[0].row, error)]
        return [event for work in works for event in self._compute([work])]

    def _compute_together(self, works: Sequence[Work]) -> list[Event]:
        chunks = [chunk_of(work) for work in works]
        hidden = self.runner.hidden(chunks)
        next_places: list[tuple[Row, int]] = []
        score_places: list[tuple[Row, int, int]] = []
        place = 0
        for work, chunk in zip(works, chunks, strict=True):
            row = work.row
            for position in chunk.wanted:
                if chunk.start + position == len(row.ids) - 1:
                    next_places.append((row, place))
                if row.scores_after(chunk.start + position):
                    score_places.append((row, chunk.start + position + 1, place))
                place += 1
        for first in range(0, len(score_places), HEAD_ROWS):
            self._score(hidden, score_places[first : first + HEAD_ROWS])
        for work in works:
            self.scheduler.computed(work.row, work.count)
        events = self._choose(hidden, next_places) if next_places else []
        ended = [work.row for work in works if work.row.computed == work.row.end and not work.row.wants_next]
        return events + [self._event(row, row.end_without_a_token) for row in ended]

    def _score(self, hidden: Tensor, places: Sequence[tuple[Row, int, int]]) -> None:
        """Find the log-probabilities of ids of prompts: (row, position of the id, place of the state before it)."""
        raw = self.runner.raw_logits(hidden[[place for _, _, place in places]])
        targets = torch.tensor([row.ids[position] for row, position, _ in places], device=raw.device)
        scored = scored_tokens(capped(raw), targets, max(row.sampling.prompt_logprobs or 0 for row, _, _ in places))
        for (row, _, _), token in zip(places, scored, strict=True):
            row.scores.append(token.with_top(row.sampling.prompt_logprobs or 0))

    def _choose(self, hidden: Tensor, places: Sequence[tuple[Row, int]]) -> list[Event]:
        """Choose the next token of the rows whose last id is computed, from the states at these places."""
        rows = [row for row, _ in places]
        is_all = len(rows) == len(hidden)
        raw = self.runner.raw_logits(hidden if is_all else hidden[[place for _, place in places]])
        greedy, best = likeliest(raw)
        is_sound = [not math.isnan(value) for value in best]
        if all(row.is_plainly_greedy for row in rows):
            scored = [ScoredToken(token) for token in greedy]
        else:
            scored = self._draw(capped(raw), rows)
        events = []
        for row, token, is_finite in zip(rows, scored, is_sound, strict=True):
            if not is_finite:
                broken = EngineFailed("the model's logits are not numbers: its weights are broken")
                events.append(self._failed(row, broken))
            elif row.sampling.max_new_tokens:
                self._generated += 1
                events.append(self._event(row, partial(row.take, token)))
            else:
                events.append(self._event(row, row.end_without_a_token))
        return events

    def _draw(self, logits: Tensor, rows: Sequence[Row]) -> list[ScoredToken]:
        """Choose a token for each row of the logits (B, V); with its log-probability where that is asked for."""
        asking = [place for place, row in enumerate(rows) if row.sampling.logprobs is not None]
        before = logits[asking] if asking else None  # penalties change the others in place
        chosen, drawn = choose_with_logprobs(logits, [row.draw() for row in rows])
        scored = [ScoredToken(token, draw_logprob=value) for token, value in zip(chosen, drawn, strict=True)]
        if before is not None:
            targets = torch.tensor([chosen[place] for place in asking], device=logits.device)
            most = max(rows[place].sampling.logprobs or 0 for place in asking)
            for place, token in zip(asking, scored_tokens(before, targets, most), strict=True):
                scored[place] = replace(token, draw_logprob=drawn[place]).with_top(rows[place].sampling.logprobs or 0)
        return scored

    def _event(self, row: Row, advance: Callable[[], list[Update]]) -> Event:
        """Have a row go on; note what it opens or ends."""
        is_first = not row.has_begun
        try:
            updates = advance()
            if is_first:
                row.has_begun = True
                self._cached_tokens += row.cached_tokens
                if updates:
                    updates[0] = replace(updates[0], prompt_tokens=row.prompt_tokens(), cached_tokens=row.cached_tokens)
        except Exception as error:
            return self._failed(row, error)
        if row.is_done:
            self.scheduler.remove(row)
        elif row.call is not None:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(TOOL_THREADS, thread_name_prefix="nanochat-tool")
            self._calls[row] = self._threads.submit(row.run_tool)
        return Event(row, updates)

    def _answered_calls(self) -> list[Event]:
        """Put the answers of tools that are there behind their calls."""
        answered = [row for row, call in self._calls.items() if call.done()]
        return [self._event(row, partial(answer, row, self._calls.pop(row))) for row in answered]

    def _failed(self, row: Row, error: Exception) -> Event:
        self.cancel(row)
        return Event(row, error=error)

    # ---- whole lists of prompts ----

    def generate(self, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        """Return `num_samples` completions for each prompt, in order. Prompts too long are cut from the left."""
        requests = [prompt.request(self.max_length) for prompt in prompts]
        self.prepare(max((len(r.ids) + r.sampling.max_new_tokens for r in requests), default=1))
        rows = [self.submit(request, is_streamed=False) for request in requests]
        self._finish([row for samples in rows for row in samples])
        return [[row.completion() for row in samples] for samples in rows]

    def score(self, requests: Sequence[tuple[Sequence[int], int]]) -> Iterator[tuple[int, Tensor, bool]]:
        """Yield (index, log-probabilities of ids[start:], whether each was the arg-max) for each (ids, start)."""
        self.prepare(max((len(ids) for ids, _ in requests), default=1))
        return self.runner.scorer(self.limits.kv_tokens).scores(requests)

    def next_token_logits(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, logits (V,)) of the token after each prompt."""
        cut = [list(ids)[-self.max_length :] for ids in prompts]
        self.prepare(max(map(len, cut), default=1))
        return self.runner.scorer(self.limits.kv_tokens).next_logits(cut)

    def _finish(self, rows: Sequence[Row]) -> None:
        """Step until all rows are done; raises what ended one of them."""
        while not self.is_idle:
            for event in self.step():
                if event.error is not None:
                    for row in rows:
                        self.cancel(row)
                    raise event.error


def answer(row: Row, call: "Future[str | None]") -> list[Update]:
    """Put a tool's answer behind the row's call; raises what the tool raised."""
    return row.answer(call.result())


def chunk_of(work: Work) -> Chunk:
    """Return the new tokens of a piece of work, as the forward pass takes them."""
    row, start, end = work.row, work.row.computed, work.row.computed + work.count
    assert row.slot is not None
    wanted = [position - start for position in row.wanted_positions(start, end)]
    return Chunk(row.slot, start, row.ids[start:end], row.ids[start - 1] if start else -1, wanted)


def scored_tokens(logits: Tensor, targets: Tensor, alternatives: int) -> list[ScoredToken]:
    """Return the ids `targets` (B,) with their log-probabilities and the likeliest alternatives, from logits (B, V)."""
    own_logits = logits.gather(1, targets[:, None])
    values, ids = logits.topk(min(alternatives, logits.size(-1)), dim=-1)
    total = logits.exp().sum(dim=-1, keepdim=True).log()  # capped at 15: exp needs no maximum taken away first
    own, values = (own_logits - total)[:, 0].tolist(), values - total
    tops = [tuple(zip(row_ids, row, strict=True)) for row_ids, row in zip(ids.tolist(), values.tolist(), strict=True)]
    return [ScoredToken(token, value, top) for token, value, top in zip(targets.tolist(), own, tops, strict=True)]
