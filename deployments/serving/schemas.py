"""What clients send. Types are strict, unknown fields are ignored, and what cannot be done is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Strict, Tag

from deployments.serving.errors import unsupported


def whole(value: Any) -> Any:
    """Let JSON's 5.0 be an integer, as JSON Schema has it; all else stays for the strict check."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def well_formed(text: str) -> str:
    """Let only text pass that can be written as UTF-8: JSON can spell half a character (a lone surrogate)."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("the text has half a character (a lone surrogate)") from None
    return text


def integer(least: int, limit: int = 2**31) -> Any:
    """Return the type of integers from `least` to below `limit`."""
    return Annotated[int, Strict(), Field(ge=least, lt=limit), BeforeValidator(whole)]


Number = Annotated[float, Strict()]
Text = Annotated[str, Strict(), AfterValidator(well_formed)]
Flag = Annotated[bool, Strict()]
TokenId = integer(0)
Count = integer(1)
CountFromZero = integer(0)
TopK = integer(-1)
Alternatives = integer(0, 21)
Seed = integer(-(2**63), 2**63)


# What may have several forms is told by its own look, so that a mistake is reported of the form that was meant. Names
# of forms stand in angle brackets: `errors.describe` leaves them out of the place of a mistake.


def text_or_list(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<text>"


def prompt_form(value: Any) -> str:
    """Return the form of a prompt: text, ids, or several of either.

    >>> [prompt_form(value) for value in ("a", ["a"], [1], [[1]], [])]
    ['<text>', '<texts>', '<ids>', '<lists of ids>', '<ids>']
    """
    if not isinstance(value, list):
        return "<text>"
    if value and isinstance(value[0], str):
        return "<texts>"
    return "<lists of ids>" if value and isinstance(value[0], list) else "<ids>"


Ids = Annotated[list[TokenId], Field(min_length=1)]
Stop = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[Text], Field(max_length=16), Tag("<list>")],
    Discriminator(text_or_list),
]
Prompt = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Text], Field(min_length=1), Tag("<texts>")]
    | Annotated[Ids, Tag("<ids>")]
    | Annotated[list[Ids], Field(min_length=1), Tag("<lists of ids>")],
    Discriminator(prompt_form),
]


class Body(BaseModel):
    """Any request's body."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


class StreamOptions(Body):
    """How to stream."""

    include_usage: Flag | None = Field(None, description="send the tokens' counts in a last chunk")


class SamplingFields(Body):
    """What chat and completions have in common."""

    model: Text | None = Field(None, description="the model's name, as /v1/models says it; empty: the one there is")
    temperature: Number | None = Field(None, ge=0, le=2, description="0: always the likeliest token")
    top_p: Number | None = Field(None, gt=0, le=1, description="sample among tokens that have this share together")
    top_k: TopK | None = Field(None, description="sample among the likeliest k; -1 and 0: all")
    min_p: Number | None = Field(None, ge=0, le=1, description="leave out what is less likely than this share")
    n: Count | None = Field(None, description="answers to each prompt")
    stop: Stop | None = Field(None, description="texts that end the answer and are no part of it")
    stop_token_ids: list[TokenId] | None = Field(None, max_length=64, description="tokens that end the answer")
    seed: Seed | None = Field(None, description="equal seeds give equal answers")
    frequency_penalty: Number | None = Field(None, ge=-2, le=2, description="against tokens that came often")
    presence_penalty: Number | None = Field(None, ge=-2, le=2, description="against tokens that came")
    logit_bias: dict[str, Annotated[Number, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=1024, description="what is added to the logits of tokens, by their ids"
    )
    ignore_eos: Flag | None = Field(None, description="go on after the model's own end")
    stream: Flag | None = Field(None, description="send the answer in pieces, as server-sent events")
    stream_options: StreamOptions | None = Field(None, description="only with stream")
    user: Text | None = Field(None, description="not used")

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ContentPart(Body):
    """A piece of a message. The assistant's may also be calls of its tool, and what the tool said."""

    type: Literal["text", "python", "python_output"]
    text: Text


Content = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[ContentPart], Field(min_length=1), Tag("<list>")],
    Discriminator(text_or_list),
]


class Message(Body):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content = Field(description="text, or a list of parts")
    nanochat_parts: list[ContentPart] | None = Field(
        None, description="the assistant's message as this server gave it; taken instead of content"
    )
    tool_calls: list[Any] | None = Field(None, description="not supported")


class ChatRequest(SamplingFields):
    """A chat to go on with."""

    messages: list[Message] = Field(
        min_length=1, description="the chat so far; a last assistant's message is continued"
    )
    max_tokens: Count | None = Field(None, description="tokens of the answer at most")
    max_completion_tokens: Count | None = Field(None, description="the same by its newer name")
    logprobs: Flag | None = Field(None, description="report each token's log-probability")
    top_logprobs: Alternatives | None = Field(None, description="and so many of the likeliest beside it")
    use_tools: Flag | None = Field(None, description="let the model call its tool; default: yes")
    tools: list[Any] | None = Field(None, description="not supported")
    tool_choice: Any = Field(None, description="not supported, but for none and auto")
    functions: list[Any] | None = Field(None, description="not supported")
    function_call: Any = Field(None, description="not supported, but for none and auto")
    response_format: Any = Field(None, description='not supported, but for {"type": "text"}')
    modalities: list[Any] | None = Field(None, description="not supported, but for text")
    audio: Any = Field(None, description="not supported")


class CompletionRequest(SamplingFields):
    """A text, or several, to go on with."""

    prompt: Prompt = Field(description="text, token ids, or a list of either")
    add_special_tokens: Flag = Field(
        True, description="let BOS go before a text, as in training (it is not echoed); ids are taken as they are"
    )
    max_tokens: CountFromZero | None = Field(None, description="tokens of the answer at most; default: 16")
    logprobs: Alternatives | None = Field(None, description="report log-probabilities, and so many likeliest")
    echo: Flag | None = Field(None, description="begin the answer with the prompt, with its log-probabilities too")
    best_of: Count | None = Field(None, description="not supported, but for the value of n")
    suffix: Text | None = Field(None, description="not supported")
    use_tools: Flag | None = Field(None, description="let the model call its tool; default: no")


class TokenizeRequest(Body):
    """A text, or a chat, to tokenise."""

    model: Text | None = None
    prompt: Text | None = Field(None, description="text; this or messages")
    messages: list[Message] | None = Field(None, min_length=1, description="a chat; this or prompt")
    add_special_tokens: Flag = Field(True, description="put BOS before a prompt")
    add_generation_prompt: Flag = Field(True, description="end a chat where the assistant speaks")
    return_token_strs: Flag | None = Field(None, description="also give each token's text")


class DetokenizeRequest(Body):
    """Token ids to make text of."""

    model: Text | None = None
    tokens: list[TokenId]


def check_supported(body: ChatRequest) -> None:
    """Raise ApiError for what OpenAI's API has and this server has not: silence would be a lie."""
    if body.tools or body.functions:
        raise unsupported("tools", "Tools of the client are not supported; the model has a calculator of its own.")
    if body.tool_choice not in (None, "none", "auto") or body.function_call not in (None, "none", "auto"):
        raise unsupported("tool_choice", "There are no tools to choose from.")
    if any(message.tool_calls for message in body.messages):
        raise unsupported("messages", "Messages with tool_calls are not supported.")
    if body.response_format not in (None, {"type": "text"}):
        raise unsupported("response_format", "Answers are text; no other format can be promised.")
    if body.modalities not in (None, ["text"]) or body.audio is not None:
        raise unsupported("modalities", "Answers are text.")


def check_completion_supported(body: CompletionRequest) -> None:
    """Raise ApiError for what OpenAI's API has and this server has not."""
    if body.suffix:
        raise unsupported("suffix", "Text can be continued, not filled in: leave suffix out.")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise unsupported("best_of", "best_of is not supported: ask for n samples.")
