"""POST /v1/completions: text or token ids, one prompt or many, with the prompt's own log-probabilities (echo)."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter

from deployments.serving import response_schemas
from deployments.serving.answer import Answer
from deployments.serving.errors import invalid, too_long
from deployments.serving.logprobs import CompletionLogprobs
from deployments.serving.responses import documented
from deployments.serving.sampling import check_stream_options, check_top_logprobs, samples_of, sampling_of
from deployments.serving.schemas import CompletionRequest, check_completion_supported
from deployments.serving.serving_dependency import Serving
from deployments.serving.state import ServerState
from deployments.serving.usage import Usage
from nanochat_core.inference.requests import Request, ScoredToken, Update
from nanochat_core.tokenizer.bpe import Tokenizer

router = APIRouter(tags=["completions"])
DEFAULT_TOKENS = 16  # of an answer, as in OpenAI's API
LONG_TEXT = 50_000  # characters, above which a text is tokenised beside the event loop
Json = dict[str, Any]


@dataclass(frozen=True)
class CompletionPrompt:
    """What goes into the engine, and what of it the client sees again: BOS before a text is not its own."""

    ids: tuple[int, ...]
    text: str
    hidden: int = 0


@router.post(
    "/v1/completions",
    summary="Go on with a text",
    responses=documented(response_schemas.Completion, chunk=response_schemas.CompletionChunk),
)
async def create_completion(body: CompletionRequest, state: Serving) -> Answer:
    """Continue prompts. With echo and max_tokens 0 or 1, this is how to score a text."""
    state.check_model(body.model)
    check_completion_supported(body)
    check_stream_options(body)
    check_top_logprobs(state, body.logprobs, "logprobs")
    samples = samples_of(state, body)
    if body.stream and body.echo and body.logprobs is not None and samples > 1:
        raise invalid("echo with logprobs can be streamed for one sample only: leave n out.", "n")
    prompts = await prompts_of(state, body)
    wanted = min(DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens, state.spec.limits.max_tokens)
    requests = [_request(state, body, prompt, wanted, samples) for prompt in prompts]
    writer = CompletionWriter(
        state.engine.tokenizer,
        model_name=state.spec.model_name,
        prompts=prompts,
        requests=requests,
        echo=bool(body.echo),
        keeps_answer=wanted > 0,
        stream_usage=body.includes_usage,
    )
    return Answer(state, requests, writer, is_streamed=bool(body.stream))


async def prompts_of(state: ServerState, body: CompletionRequest) -> list[CompletionPrompt]:
    """Return the prompts; raises ApiError for too many, or ids that are none."""
    given: Any = body.prompt
    if isinstance(given, str) or isinstance(given[0], int):
        given = [given]
    if len(given) > state.spec.limits.prompts:
        raise invalid(f"{len(given)} prompts; this server takes {state.spec.limits.prompts}.", "prompt")
    tokenizer = state.engine.tokenizer
    if isinstance(given[0], str) and sum(map(len, given)) > LONG_TEXT:
        return await asyncio.to_thread(lambda: [_prompt(state, tokenizer, item, body) for item in given])
    return [_prompt(state, tokenizer, item, body) for item in given]


def _prompt(state: ServerState, tokenizer: Tokenizer, given: Any, body: CompletionRequest) -> CompletionPrompt:
    if isinstance(given, str):
        hidden = [tokenizer.bos] if body.add_special_tokens else []
        ids = tuple([*hidden, *tokenizer.encode(given)])
        state.check_ids(ids, "prompt")
        return CompletionPrompt(ids, given, len(hidden))
    ids = tuple(given)
    state.check_ids(ids, "prompt")
    return CompletionPrompt(ids, tokenizer.decode(ids) if body.echo else "")


def _request(
    state: ServerState, body: CompletionRequest, prompt: CompletionPrompt, wanted: int, samples: int
) -> Request:
    room = state.engine.max_context - len(prompt.ids)
    if room < 1:
        raise too_long(state.engine.max_context, len(prompt.ids), "prompt")
    sampling = sampling_of(
        state,
        body,
        max_new_tokens=max(1, min(wanted, room)),  # the engine scores a prompt on the way to its first token
        use_tools=bool(body.use_tools),
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
    return Request(prompt.ids, sampling, samples)


@dataclass
class Sample:
    """One completion as it grows; `logprobs` makes a stream's lists, chunk by chunk."""

    logprobs: CompletionLogprobs
    text: str = ""
    tokens: list[ScoredToken] = field(default_factory=list)
    finish_reason: str | None = None
    stop_text: str | None = None


class CompletionWriter:
    """`Writer` of completions: choice p·n + s is sample s of prompt p."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        model_name: str,
        prompts: Sequence[CompletionPrompt],
        requests: Sequence[Request],
        echo: bool,
        keeps_answer: bool,
        stream_usage: bool,
    ) -> None:
        self._tokenizer, self._prompts, self._echo, self._keeps_answer = tokenizer, prompts, echo, keeps_answer
        self._id, self._created, self._model_name = f"cmpl-{uuid4().hex}", int(time.time()), model_name
        self._stream_usage, self._usage = stream_usage, Usage(sum(len(prompt.ids) for prompt in prompts))
        self._n, sampling = requests[0].num_samples, requests[0].sampling
        self._count, self._use_tools = sampling.logprobs, sampling.use_tools
        self._scores: dict[int, tuple[ScoredToken, ...]] = {}
        self._samples = [Sample(self._new_logprobs()) for _ in range(len(prompts) * self._n)]

    def _new_logprobs(self) -> CompletionLogprobs:
        return CompletionLogprobs(self._tokenizer, self._count or 0)

    def see(self, index: int, update: Update) -> None:
        """Take in what is new."""
        if update.prompt_tokens:
            shown = update.prompt_tokens[self._prompts[index].hidden :]
            self._scores[index] = (ScoredToken(shown[0].id), *shown[1:]) if shown else ()
        sample = self._samples[index * self._n + update.sample]
        if self._keeps_answer:
            sample.text += self._text(update)
            sample.tokens += update.tokens
        self._usage.see(update, keeps_answer=self._keeps_answer)
        if update.finish_reason:
            sample.finish_reason = update.finish_reason if self._keeps_answer else "length"
            sample.stop_text = update.stop_text

    def first(self) -> Iterator[Json]:
        """Yield the echoed prompts, where their log-probabilities are not to come along."""
        if self._echo and self._count is None:
            for number in range(len(self._samples)):
                yield self._chunk(number, self._prompts[number // self._n].text, None)

    def chunks(self, index: int, update: Update) -> Iterator[Json]:
        """Yield a chunk with what is new, and one with the end."""
        number = index * self._n + update.sample
        sample, tokens = self._samples[number], update.tokens if self._keeps_answer else ()
        text = self._text(update) if self._keeps_answer else ""
        if update.prompt_tokens:
            text, tokens = self._prompts[index].text + text, (*self._scores[index], *tokens)
        block = sample.logprobs.lists(tokens) if self._count is not None and tokens else None
        if text or block:
            yield self._chunk(number, text, block)
        if sample.finish_reason:
            yield self._chunk(number, "", None, finish_reason=sample.finish_reason, stop_reason=sample.stop_text)

    def last(self) -> Iterator[Json]:
        """Yield the token counts, where they were asked for."""
        if self._stream_usage:
            yield self._head() | {"choices": [], "usage": self._usage.object()}

    def whole(self) -> Json:
        """Return a text_completion."""
        choices = [self._choice(number, sample) for number, sample in enumerate(self._samples)]
        return self._head() | {"choices": choices, "usage": self._usage.object()}

    def _text(self, update: Update) -> str:
        return update.text if update.kind == "text" or not self._use_tools else ""

    def _choice(self, number: int, sample: Sample) -> Json:
        index, block = number // self._n, None
        if self._count is not None:
            block = self._new_logprobs().lists([*self._scores.get(index, ()), *sample.tokens])
        return {
            "index": number,
            "text": (self._prompts[index].text if self._echo else "") + sample.text,
            "logprobs": block,
            "finish_reason": sample.finish_reason,
            "stop_reason": sample.stop_text,
        }

    def _head(self) -> Json:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": None,
        }

    def _chunk(self, number: int, text: str, block: Json | None, **choice: Any) -> Json:
        chunk = self._head() | {
            "choices": [{"index": number, "text": text, "logprobs": block, "finish_reason": None} | choice]
        }
        return chunk | ({"usage": None} if self._stream_usage else {})
