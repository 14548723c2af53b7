"""POST /v1/chat/completions."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter

from deployments.serving import response_schemas
from deployments.serving.answer import Answer
from deployments.serving.chat_prompt import chat_prompt, check_sizes
from deployments.serving.errors import invalid
from deployments.serving.logprobs import chat_logprobs
from deployments.serving.responses import documented
from deployments.serving.sampling import check_stream_options, check_top_logprobs, samples_of, sampling_of
from deployments.serving.schemas import ChatRequest, check_supported
from deployments.serving.serving_dependency import Serving
from deployments.serving.usage import Usage
from nanochat_core.inference.requests import Request, ScoredToken, Update
from nanochat_core.tokenizer.bpe import Tokenizer

router = APIRouter(tags=["chat"])
Json = dict[str, Any]


@router.post(
    "/v1/chat/completions",
    summary="Go on with a chat",
    responses=documented(response_schemas.ChatCompletion, chunk=response_schemas.ChatCompletionChunk),
)
async def create_chat_completion(body: ChatRequest, state: Serving) -> Answer:
    """Answer a chat. Where it is longer than the context, its oldest turns are left out, and the answer says so."""
    state.check_model(body.model)
    check_supported(body)
    check_stream_options(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs goes with logprobs: true only.", "top_logprobs")
    check_top_logprobs(state, body.top_logprobs, "top_logprobs")
    check_sizes(body.messages, state.spec.limits)
    engine = state.engine
    asked = body.max_completion_tokens or body.max_tokens or state.spec.sampling.max_tokens
    wanted = min(asked, state.spec.limits.max_tokens)
    prompt = chat_prompt(engine.tokenizer, body.messages, max_context=engine.max_context, answer_tokens=wanted)
    sampling = sampling_of(
        state,
        body,
        max_new_tokens=min(wanted, engine.max_context - len(prompt.ids)),
        use_tools=body.use_tools is not False,
        logprobs=body.top_logprobs or 0 if body.logprobs else None,
    )
    request = Request(prompt.ids, sampling, samples_of(state, body))
    writer = ChatWriter(
        engine.tokenizer,
        model_name=state.spec.model_name,
        request=request,
        dropped=prompt.dropped,
        stream_usage=body.includes_usage,
    )
    return Answer(state, [request], writer, is_streamed=bool(body.stream))


@dataclass
class Sample:
    """One answer as it grows."""

    parts: list[dict[str, str]] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    finish_reason: str | None = None
    stop_text: str | None = None

    def add(self, kind: str, text: str) -> None:
        if self.parts and self.parts[-1]["type"] == kind:
            self.parts[-1]["text"] += text
        elif text:
            self.parts.append({"type": kind, "text": text})

    @property
    def content(self) -> str:
        return "".join(part["text"] for part in self.parts if part["type"] == "text")


class ChatWriter:
    """`Writer` of chat completions. Tool calls and outputs are no `content`: they come as `nanochat`."""

    def __init__(
        self, tokenizer: Tokenizer, *, model_name: str, request: Request, dropped: int, stream_usage: bool
    ) -> None:
        self._tokenizer, self._request, self._dropped = tokenizer, request, dropped
        self._id, self._created, self._model_name = f"chatcmpl-{uuid4().hex}", int(time.time()), model_name
        self._stream_usage = stream_usage
        self._usage = Usage(len(request.ids))
        self._samples = [Sample() for _ in range(request.num_samples)]

    def first(self) -> Iterator[Json]:
        """Yield a chunk with the role for each answer."""
        for index in range(len(self._samples)):
            chunk = self._chunk(index, {"role": "assistant", "content": ""})
            yield chunk | ({"nanochat_dropped_messages": self._dropped} if self._dropped and index == 0 else {})

    def see(self, index: int, update: Update) -> None:
        """Take in what is new."""
        self._usage.see(update)
        sample = self._samples[update.sample]
        sample.add(update.kind, update.text)
        sample.tokens += update.tokens
        if update.finish_reason:
            sample.finish_reason, sample.stop_text = update.finish_reason, update.stop_text

    def chunks(self, index: int, update: Update) -> Iterator[Json]:
        """Yield a chunk with the new text, and one with the end."""
        logprobs = self._logprobs(update.tokens)
        if update.text or (logprobs and logprobs["content"]):
            delta: Json = {"content": update.text}
            if update.kind != "text":
                delta = {"nanochat": {"kind": update.kind, "text": update.text}}
            yield self._chunk(update.sample, delta, logprobs=logprobs)
        if update.finish_reason:
            yield self._chunk(update.sample, {}, finish_reason=update.finish_reason, stop_reason=update.stop_text)

    def last(self) -> Iterator[Json]:
        """Yield the token counts, where they were asked for."""
        if self._stream_usage:
            yield self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage.object()}

    def whole(self) -> Json:
        """Return a chat.completion."""
        head = self._head("chat.completion")
        choices = [self._choice(index, sample) for index, sample in enumerate(self._samples)]
        whole = head | {"choices": choices, "usage": self._usage.object()}
        return whole | ({"nanochat_dropped_messages": self._dropped} if self._dropped else {})

    def _head(self, kind: str) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": None,
        }

    def _chunk(self, index: int, delta: Json, **choice: Any) -> Json:
        chunk = self._head("chat.completion.chunk") | {
            "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | choice]
        }
        return chunk | ({"usage": None} if self._stream_usage else {})

    def _choice(self, index: int, sample: Sample) -> Json:
        message = {
            "role": "assistant",
            "content": sample.content,
            "refusal": None,
            "annotations": [],
            "nanochat_parts": sample.parts,
        }
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(sample.tokens),
            "finish_reason": sample.finish_reason,
            "stop_reason": sample.stop_text,
        }

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> Json | None:
        """Return None where nobody asked."""
        count = self._request.sampling.logprobs
        return None if count is None else {"content": chat_logprobs(self._tokenizer, tokens, count), "refusal": None}
