"""From a request's fields to the engine's `Sampling`; what the request leaves out, the server's spec says."""

import secrets

from deployments.serving.errors import invalid
from deployments.serving.schemas import SamplingFields
from deployments.serving.state import ServerState
from nanochat_core.inference.requests import Sampling

SEEDS = 2**63


def sampling_of(
    state: ServerState,
    body: SamplingFields,
    *,
    max_new_tokens: int,
    use_tools: bool,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> Sampling:
    """Return how to answer. Raises ApiError for a value that this server or its model does not have."""
    default = state.spec.sampling
    if any(not stop for stop in body.stops):
        raise invalid("An empty text cannot end an answer.", "stop")
    top_k = default.top_k if body.top_k is None else body.top_k
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=default.temperature if body.temperature is None else body.temperature,
        top_k=top_k if top_k and top_k > 0 else None,
        top_p=default.top_p if body.top_p is None else body.top_p,
        min_p=default.min_p if body.min_p is None else body.min_p,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=_biases(state, body),
        seed=secrets.randbelow(SEEDS) if body.seed is None else body.seed % SEEDS,
        stop=body.stops,
        stop_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        use_tools=use_tools,
    )


def samples_of(state: ServerState, body: SamplingFields) -> int:
    """Return n; raises ApiError where it is more than this server gives."""
    if (body.n or 1) > state.spec.limits.samples:
        raise invalid(f"n is {body.n}; this server gives {state.spec.limits.samples} at most.", "n")
    return body.n or 1


def check_stream_options(body: SamplingFields) -> None:
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options go with stream: true only.", "stream_options")


def check_top_logprobs(state: ServerState, wanted: int | None, param: str) -> None:
    if (wanted or 0) > state.spec.limits.top_logprobs:
        raise invalid(f"{wanted} likeliest tokens; this server gives {state.spec.limits.top_logprobs}.", param)


def _biases(state: ServerState, body: SamplingFields) -> dict[int, float]:
    biases = {}
    for key, bias in (body.logit_bias or {}).items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < state.engine.vocab_size):
            raise invalid(
                f"{key[:30]!r} is no token id; they are 0 to {state.engine.vocab_size - 1}.", f"logit_bias.{key[:30]}"
            )
        biases[int(key)] = bias
    return biases
