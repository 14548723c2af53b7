"""What goes into the engine and what comes out: requests with their sampling, and updates while they are answered.

Torch-free, so that the server, its tests and any client can speak it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when to stop.

    temperature 0 is greedy: the likeliest token, after penalties and bias. top_k, top_p (Holtzman et al. 2020) and
    min_p (Nguyen et al. 2024) leave out unlikely tokens, in that order, after the temperature. frequency_penalty and
    presence_penalty are OpenAI's: they count the completion's own tokens, never the prompt's. `stop` strings end a
    completion, and are not part of it; they are looked for in plain text, across tokens. `stop_ids`: ids that end it
    besides the model's own ends (<|assistant_end|>, <|bos|>), and `ignore_eos` leaves only these. `logprobs`: how many
    alternatives to report for each token beside the chosen one (None: no log-probabilities at all, 0: the chosen only);
    `prompt_logprobs` the same for the prompt's tokens. Log-probabilities are the model's own: before temperature,
    penalties, bias and truncation, natural logarithm. `draw_logprobs`: have the completion say with which
    log-probability each token was drawn, after all of these.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    draw_logprobs: bool = False
    use_tools: bool = True


@dataclass(frozen=True)
class Request:
    """Token ids to continue (at least one; BOS is the caller's), `num_samples` times: sample i has seed (seed, i)."""

    ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    num_samples: int = 1


@dataclass(frozen=True)
class ScoredToken:
    """A token with its log-probability, and the likeliest alternatives as (id, log-probability), best first.

    `logprob` is None where there is none: the first token of a prompt, and tokens that a tool's answer forced.
    `draw_logprob` is that of the draw (0 where nothing else could be drawn), where it is asked for.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    is_forced: bool = False
    draw_logprob: float = 0.0

    def with_top(self, count: int) -> "ScoredToken":
        """Return the same with `count` alternatives only."""
        return self if len(self.top) == count else replace(self, top=self.top[:count])


@dataclass(frozen=True)
class Update:
    """What is new in one sample of a request: one or more tokens, the text that can be shown now, or the end.

    `text` holds whole characters only, is held back while it could be the beginning of a stop string, and leaves out
    special tokens. `kind` says what it is: the model's text, a tool call, or the tool's output ("text" | "python" |
    "python_output"); an update never mixes kinds. The last update of a sample has a `finish_reason`; `stop_text` is the
    stop string that ended it. `prompt_tokens` (scored) come in the first update of sample 0, where they were asked for;
    `cached_tokens` of the prompt were not computed anew.
    """

    sample: int
    tokens: tuple[ScoredToken, ...] = ()
    text: str = ""
    kind: Literal["text", "python", "python_output"] = "text"
    finish_reason: FinishReason | None = None
    stop_text: str | None = None
    prompt_tokens: tuple[ScoredToken, ...] = ()
    cached_tokens: int = 0


@dataclass(frozen=True)
class EngineStats:
    """A look at the engine; counters since its start. A page is `PAGE_TOKENS` tokens of one row."""

    running: int = 0
    waiting: int = 0
    pages_used: int = 0  # by running requests
    pages_cached: int = 0  # by prefixes kept for later; given up when pages are needed
    pages_total: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    restarts: int = 0  # requests that were put back because pages ran out
    steps: int = 0
    failure: str | None = None  # why the whole engine is dead: every request raises EngineFailed from then on


class EngineBusy(Exception):
    """The waiting line is full."""


class EngineFailed(Exception):
    """The engine's thread has died, or one request broke it; the message says how."""


class AsyncEngine(Protocol):
    """A model that answers many requests at once; what the server talks to. All methods are for one event loop."""

    max_context: int  # tokens of prompt and completion together
    vocab_size: int

    def stream(self, request: Request) -> AsyncIterator[Update]:
        """Yield the updates of all samples as they come. Closing the iterator (aclose, or cancelling the task that
        awaits it) takes the request out of the batch before the next step. The call itself, not the first update,
        raises EngineBusy where the line is full and ValueError for a request that can never fit; EngineFailed comes
        where it breaks."""
        ...

    def stats(self) -> EngineStats:
        """Return a look at the engine."""
        ...

    async def close(self) -> None:
        """Stop; streams that still run raise EngineFailed."""
        ...


def total_tokens(request: Request) -> int:
    """Return the most tokens that one sample of the request can have, prompt included."""
    return len(request.ids) + request.sampling.max_new_tokens


def concatenated(updates: Sequence[Update]) -> str:
    """Return the text of some updates of one sample, tool calls and outputs left out."""
    return "".join(update.text for update in updates if update.kind == "text")
