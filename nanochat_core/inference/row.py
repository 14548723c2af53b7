"""One sample of a request while it is answered: its tokens, how many of them are computed, and what it has said.

A tool's answer is put behind the call as <|output_start|>answer<|output_end|>: forced tokens, with mask 0.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from nanochat_core.inference.interface import Completion
from nanochat_core.inference.requests import FinishReason, Request, ScoredToken, Update
from nanochat_core.inference.sampling import Draw, uniform_numbers
from nanochat_core.inference.text_stream import Piece, TextStream, Vocabulary, parts_of
from nanochat_core.inference.tool_use import Tool

NUMBERS = 64  # random numbers that are drawn at once


class Row:
    """A row of the batch, or of the line before it. The keys of the first `computed` of its `ids` are in slot `slot`.

    score_from: the first position of the prompt whose log-probability is asked for; `scores` are those found so far.
    call: a tool call that waits for its answer. finish_reason: set when it is done. Where nobody listens before it is
    done (`is_streamed` is off), it gives no updates, and its text is put together at the end.
    """

    def __init__(
        self,
        request: Request,
        sample: int,
        vocabulary: Vocabulary,
        tool: Tool | None = None,
        *,
        is_streamed: bool = True,
    ) -> None:
        self.request, self.sample, self.sampling = request, sample, request.sampling
        self.ids = list(request.ids)
        self.prompt_length = len(self.ids)
        self.prompt = np.array(self.ids, dtype=np.int64)
        self.score_from: int | None = None
        self.scores: list[ScoredToken] = []
        self.slot: int | None = None
        self.computed = self.cached_tokens = self.pages = 0
        self.has_begun = False  # an update of it was sent
        self.call: str | None = None
        self.finish_reason: FinishReason | None = None
        self._vocabulary = vocabulary
        self._tool = tool if self.sampling.use_tools else None
        self._mask: list[int] = []
        self._draw_logprobs: list[float] = []
        self._text = TextStream(vocabulary, self.sampling.stop)
        self._is_streamed = is_streamed or bool(self.sampling.stop)
        self._expression: list[int] | None = None
        model_ends = frozenset() if self.sampling.ignore_eos else vocabulary.ends
        self._ends = model_ends | frozenset(self.sampling.stop_ids)
        self._source = uniform_numbers(self.sampling.seed, sample) if self.sampling.temperature > 0 else None
        self._numbers: list[float] = []  # drawn and not used yet, the next one last
        is_penalised = self.sampling.frequency_penalty or self.sampling.presence_penalty
        self._counts: Counter[int] | None = Counter() if is_penalised else None

    @property
    def is_done(self) -> bool:
        return self.finish_reason is not None

    @property
    def wants_next(self) -> bool:
        """Whether anything is asked for after the last id."""
        return self.sampling.max_new_tokens > 0

    @property
    def end(self) -> int:
        """How many ids are to be computed; the last one only where something is asked for after it."""
        return len(self.ids) if self.wants_next else max(1, len(self.ids) - 1)

    @property
    def is_plainly_greedy(self) -> bool:
        """Whether the next token is the likeliest, and nothing else is to be known."""
        sampling = self.sampling
        is_changed = self._counts is not None or sampling.logit_bias
        return sampling.temperature == 0 and sampling.logprobs is None and not is_changed

    def scores_after(self, position: int) -> bool:
        """Tell whether the state at a position gives a log-probability that is asked for: that of the next id."""
        return self.score_from is not None and self.score_from - 1 <= position < self.prompt_length - 1

    def wanted_positions(self, start: int, end: int) -> list[int]:
        """Return the positions from start to end whose states are needed for more than their keys and values."""
        last = len(self.ids) - 1
        if self.score_from is None:
            return [last] if start <= last < end and self.wants_next else []
        return [p for p in range(start, end) if self.scores_after(p) or (p == last and self.wants_next)]

    def prompt_tokens(self) -> tuple[ScoredToken, ...]:
        """Return the prompt's tokens with their scores, the first without one; nothing where none were asked for."""
        is_asked_for = self.sampling.prompt_logprobs is not None and self.sample == 0
        return (ScoredToken(self.ids[0]), *self.scores) if is_asked_for else ()

    @property
    def room(self) -> int:
        """How many more tokens the completion may have."""
        return self.prompt_length + self.sampling.max_new_tokens - len(self.ids)

    def restart(self) -> None:
        """Forget what was computed; what was said stays."""
        self.computed, self.scores = 0, []

    def draw(self) -> Draw:
        """Return what the choice of the next token depends on; each draw takes a new random number."""
        if self._source is None:
            return Draw(self.sampling, 0.0, self._counts)
        if not self._numbers:
            self._numbers = self._source.random(NUMBERS)[::-1].tolist()
        return Draw(self.sampling, self._numbers.pop(), self._counts)

    def take(self, scored: ScoredToken) -> list[Update]:
        """Append a token of the model's own; return what is new. It may open a `call`, or end the row."""
        token = scored.id
        self._append(token, is_own=1, draw_logprob=scored.draw_logprob)
        if self._counts is not None:
            self._counts[token] += 1
        if token in self._ends:
            return self._updates((scored,), self._flush(), "stop")
        self._watch(token)
        return self._go_on((scored,), self._push(token))

    def run_tool(self) -> str | None:
        """Return the tool's answer to the open call; raises what the tool raises."""
        assert self._tool is not None and self.call is not None
        return self._tool(self.call)

    def answer(self, output: str | None) -> list[Update]:
        """Put the tool's answer behind its call; None: it refused, and nothing is put."""
        self.call = None
        if output is None:
            return []
        vocabulary = self._vocabulary
        forced = [vocabulary.output_start, *vocabulary.tokenizer.encode(output), vocabulary.output_end]
        updates: list[Update] = []
        for token in forced[: self.room]:
            self._append(token, is_own=0)
            updates += self._go_on((ScoredToken(token, is_forced=True),), self._push(token))
        return updates

    def end_without_a_token(self) -> list[Update]:
        """End a row of which only the prompt's scores were wanted."""
        return self._updates((), [], "length")

    def completion(self) -> Completion:
        """Return what was said so far."""
        ids = self.ids[self.prompt_length :]
        return Completion(
            ids=tuple(ids),
            mask=tuple(self._mask),
            parts=tuple(self._text.parts if self._is_streamed else parts_of(self._vocabulary, self._spoken(ids))),
            finish_reason=self.finish_reason or "length",
            raw_text=self._vocabulary.tokenizer.decode(ids),
            draw_logprobs=tuple(self._draw_logprobs) if self.sampling.draw_logprobs else (),
        )

    def _spoken(self, ids: list[int]) -> list[int]:
        """Return the ids of a finished row without the one that ended it."""
        return ids[:-1] if self.finish_reason == "stop" else ids

    def _push(self, token: int) -> list[Piece]:
        return self._text.push(token) if self._is_streamed else []

    def _flush(self) -> list[Piece]:
        return self._text.flush() if self._is_streamed else []

    def _append(self, token: int, *, is_own: int, draw_logprob: float = 0.0) -> None:
        self.ids.append(token)
        self._mask.append(is_own)
        self._draw_logprobs.append(draw_logprob)

    def _watch(self, token: int) -> None:
        """Follow the model's own tokens: a tool call that opens, grows or closes."""
        vocabulary = self._vocabulary
        if token == vocabulary.python_start:
            self._expression = []
        elif token == vocabulary.python_end and self._expression is not None:
            if self._tool is not None:
                self.call = vocabulary.tokenizer.decode(self._expression)
            self._expression = None
        elif self._expression is not None:
            self._expression.append(token)

    def _go_on(self, tokens: tuple[ScoredToken, ...], pieces: list[Piece]) -> list[Update]:
        if self._text.stop_text is not None:
            return self._updates(tokens, pieces, "stop")
        if self.room > 0:
            return self._updates(tokens, pieces)
        return self._updates(tokens, [*pieces, *self._flush()], "length")

    def _updates(
        self, tokens: tuple[ScoredToken, ...], pieces: Sequence[Piece], reason: FinishReason | None = None
    ) -> list[Update]:
        """Return an update for each piece, at least one; the tokens go with the first, the end with the last."""
        self.finish_reason = reason
        if reason is not None:
            self.call = None
        if not self._is_streamed:
            return []
        updates = []
        shown = pieces or [(self._text.kind, "")]
        for number, (kind, text) in enumerate(shown):
            is_last = number == len(shown) - 1
            updates.append(
                Update(
                    sample=self.sample,
                    tokens=tokens if number == 0 else (),
                    text=text,
                    kind=kind,
                    finish_reason=reason if is_last else None,
                    stop_text=self._text.stop_text if is_last else None,
                )
            )
        return updates
