"""What OpenAI's own client must be able to do with a server: each function is one demand.

The tests run it with the installed client; `python openai_contract.py URL KEY` runs it with any other, alone.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import openai

MODEL = "fake"
USER = [{"role": "user", "content": "hello"}]
ANSWER = "You said: hello"  # what tests/fake_engine.py says by itself
PROMPT = [65, 66, 67]  # ids are bytes


def models_are_listed_and_found(client: Any) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "nanochat")


def an_unknown_model_is_not_found(client: Any) -> None:
    for ask in (
        lambda: client.models.retrieve("gpt-4"),
        lambda: client.chat.completions.create(model="gpt-4", messages=USER),
        lambda: client.completions.create(model="gpt-4", prompt="x"),
    ):
        error = raised(openai.NotFoundError, ask)
        assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
        assert "gpt-4" in error.message and MODEL in error.message


def a_chat_is_answered(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=USER, temperature=0, user="me", metadata={"a": "b"})
    choice = answer.choices[0]
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (ANSWER, "assistant", "stop")
    assert choice.message.refusal is None and choice.logprobs is None and choice.index == 0
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")
    assert answer.usage.completion_tokens == len(ANSWER) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer._request_id.startswith("req_")


def a_chat_is_streamed(client: Any) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-2]} == {None}
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(ANSWER) + 1
    assert {chunk.usage for chunk in chunks[:-1]} == {None} and len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def a_stream_without_usage_has_none(client: Any) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=USER, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def several_answers_come_with_their_indices(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=USER, n=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {ANSWER}
    texts = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(model=MODEL, messages=USER, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert set(texts.values()) == {ANSWER}


def stop_texts_end_the_answer(client: Any) -> None:
    for stop in (" said", [" said", "xyz"]):
        choice = client.chat.completions.create(model=MODEL, messages=USER, stop=stop).choices[0]
        assert (choice.message.content, choice.finish_reason, choice.stop_reason) == ("You", "stop", " said")
    chunks = client.chat.completions.create(model=MODEL, messages=USER, stop=[": h"], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said"


def the_longest_answer_is_kept_to_by_both_names(client: Any) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model=MODEL, messages=USER, **{name: 3})
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("You", "length")
        assert answer.usage.completion_tokens == 3


def log_probabilities_are_objects_in_a_chat(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=USER, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == ANSWER
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)
    assert all(token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob for token in tokens)
    bare = client.chat.completions.create(model=MODEL, messages=USER, logprobs=True)
    assert all(token.top_logprobs == [] for token in bare.choices[0].logprobs.content)
    streamed = client.chat.completions.create(model=MODEL, messages=USER, logprobs=True, top_logprobs=2, stream=True)
    found = [token for chunk in streamed if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.logprob for token in found] == [token.logprob for token in tokens]


def every_role_and_kind_of_content_is_taken(client: Any) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    for role in ("system", "developer"):
        messages: Any = [
            {"role": role, "content": "Be brief."},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]},
            {"role": "user", "content": "hello", "name": "Ann"},
        ]
        answer = client.chat.completions.create(
            model=MODEL, messages=messages, logit_bias={"65": -100}, presence_penalty=1, frequency_penalty=-1, top_p=0.5
        )
        assert answer.choices[0].message.content == "You said: Be brief.\n\nhel\nloYes?hello"


def our_own_fields_are_taken(client: Any) -> None:
    extra = {"top_k": 5, "min_p": 0.1, "ignore_eos": True, "use_tools": False}
    answer = client.chat.completions.create(model=MODEL, messages=USER, max_tokens=40, extra_body=extra)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 40


def texts_are_continued(client: Any) -> None:
    answer = client.completions.create(model=MODEL, prompt="hello", max_tokens=100)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (ANSWER, "stop")
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert len(client.completions.create(model=MODEL, prompt="hello there").choices[0].text) == 16
    streamed = client.completions.create(model=MODEL, prompt="hello", max_tokens=100, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == ANSWER


def prompts_come_in_four_forms(client: Any) -> None:
    for prompt, said in (
        ("ABC", ["ABC"]),
        (["ABC", "D"], ["ABC", "D"]),
        (PROMPT, ["ABC"]),
        ([PROMPT, [68]], ["ABC", "D"]),
    ):
        choices = client.completions.create(model=MODEL, prompt=prompt, max_tokens=100, n=2).choices
        assert [choice.index for choice in choices] == list(range(2 * len(said)))
        assert [choice.text for choice in choices] == [f"You said: {text}" for text in said for _ in range(2)]


def a_prompt_is_echoed_with_its_log_probabilities(client: Any) -> None:
    choice = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2, echo=True, logprobs=2).choices[0]
    lists = choice.logprobs
    assert choice.text == "ABCYo" and lists.tokens == list("ABCYo") and lists.text_offset == [0, 1, 2, 3, 4]
    assert lists.token_logprobs[0] is None and lists.top_logprobs[0] is None
    for token, logprob, top in list(zip(lists.tokens, lists.token_logprobs, lists.top_logprobs, strict=True))[1:]:
        assert top[token] == logprob and len(top) in (2, 3)
    only = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=0, echo=True, logprobs=0).choices[0]
    assert (only.text, only.finish_reason, only.logprobs.tokens) == ("ABC", "length", list("ABC"))
    assert only.logprobs.token_logprobs == lists.token_logprobs[:3]


def mistakes_raise_what_the_client_knows(client: Any) -> None:
    bad: list[tuple[str, dict[str, Any]]] = [
        ("temperature", {"temperature": 3}),
        ("messages", {"messages": []}),
        ("messages[0].role", {"messages": [{"role": "tool", "content": "x"}]}),
        ("messages[0].content", {"messages": [{"role": "user"}]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("n", {"n": 1000}),
        ("logit_bias.99999", {"logit_bias": {"99999": 1}}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("stream_options", {"stream_options": {"include_usage": True}}),
    ]
    for param, fields in bad:
        body: dict[str, Any] = {"model": MODEL, "messages": USER} | fields
        error = raised(openai.BadRequestError, lambda body=body: client.chat.completions.create(**body))
        assert error.type == "invalid_request_error" and error.param == param, (param, error)
    error = raised(openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt=[[70_000]]))
    assert error.param == "prompt"
    error = raised(openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt=[65] * 2048))
    assert error.code == "context_length_exceeded" and "2048" in error.message


def a_wrong_key_is_refused(client: Any) -> None:
    error = raised(openai.AuthenticationError, lambda: client.with_options(api_key="guess").models.list())
    assert error.code == "invalid_api_key"


def an_address_that_is_none_is_not_found(client: Any) -> None:
    error = raised(openai.NotFoundError, lambda: client.embeddings.create(model=MODEL, input="x"))
    assert error.code == "unknown_url"


def the_asynchronous_client_works_as_well(client: Any) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0) as other:
            stream = await other.chat.completions.create(model=MODEL, messages=USER, stream=True)  # type: ignore[arg-type]
            streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            whole = await other.chat.completions.create(model=MODEL, messages=USER)  # type: ignore[arg-type]
            return streamed, whole.choices[0].message.content or ""

    assert asyncio.run(ask()) == (ANSWER, ANSWER)


def raised(kind: type[Exception], ask: Callable[[], Any]) -> Any:
    """Return the error of this very class that `ask` raises."""
    try:
        ask()
    except openai.OpenAIError as error:
        assert type(error) is kind, f"{type(error).__name__}: {error}"
        return error
    raise AssertionError(f"no {kind.__name__}")


DEMANDS: list[Callable[[Any], None]] = [
    models_are_listed_and_found,
    an_unknown_model_is_not_found,
    a_chat_is_answered,
    a_chat_is_streamed,
    a_stream_without_usage_has_none,
    several_answers_come_with_their_indices,
    stop_texts_end_the_answer,
    the_longest_answer_is_kept_to_by_both_names,
    log_probabilities_are_objects_in_a_chat,
    every_role_and_kind_of_content_is_taken,
    our_own_fields_are_taken,
    texts_are_continued,
    prompts_come_in_four_forms,
    a_prompt_is_echoed_with_its_log_probabilities,
    mistakes_raise_what_the_client_knows,
    a_wrong_key_is_refused,
    an_address_that_is_none_is_not_found,
    the_asynchronous_client_works_as_well,
]


def client_of(url: str, key: str) -> Any:
    """Return OpenAI's client for a server. It does not retry: the test wants to see the first answer."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


if __name__ == "__main__":
    for demand in DEMANDS:
        demand(client_of(*sys.argv[1:3]))
    print(f"openai {openai.__version__}: {len(DEMANDS)} demands are met")
