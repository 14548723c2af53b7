"""What clients get, for the OpenAPI document; fields that begin with `nanochat_` are ours."""

from typing import Literal

from pydantic import BaseModel, Field

FinishReason = Literal["stop", "length"]


class ProblemDetails(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Problem(BaseModel):
    """An error."""

    error: ProblemDetails


class CachedTokens(BaseModel):
    """Tokens of the prompt that were not computed anew."""

    cached_tokens: int


class TokenCounts(BaseModel):
    """What a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class TopLogprob(BaseModel):
    """A token that could have come."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that came, and the likeliest in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None


class Part(BaseModel):
    """A piece of an answer."""

    type: Literal["text", "python", "python_output"]
    text: str


class AssistantMessage(BaseModel):
    """What the model says: its text, and beside it all parts, tool calls included."""

    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[str]
    nanochat_parts: list[Part]


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | None


class ChatCompletion(BaseModel):
    """Answers to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: TokenCounts
    nanochat_dropped_messages: int = Field(0, description="oldest messages that were left out to fit the context")


class ToolUse(BaseModel):
    """What the model asks its tool, or what the tool says, as it comes."""

    kind: Literal["python", "python_output"]
    text: str


class ChatDelta(BaseModel):
    """What is new: the role, then text, or tool use instead of it."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    nanochat: ToolUse | None = None


class ChatChunkChoice(BaseModel):
    """What is new in one of the answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | None = None


class ChatCompletionChunk(BaseModel):
    """An event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChunkChoice]
    usage: TokenCounts | None = Field(None, description="in the last event, where stream_options ask for it")
    nanochat_dropped_messages: int = Field(0, description="in the first event, as in an answer that is not streamed")


class CompletionLists(BaseModel):
    """Parallel lists, an entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One of the continuations."""

    index: int
    text: str
    logprobs: CompletionLists | None
    finish_reason: FinishReason
    stop_reason: str | None


class Completion(BaseModel):
    """Continuations of texts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[CompletionChoice]
    usage: TokenCounts


class CompletionChunkChoice(BaseModel):
    """What is new in one of the continuations."""

    index: int
    text: str
    logprobs: CompletionLists | None
    finish_reason: FinishReason | None
    stop_reason: str | None = None


class CompletionChunk(BaseModel):
    """An event of a streamed completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[CompletionChunkChoice]
    usage: TokenCounts | None = Field(None, description="in the last event, where stream_options ask for it")


class Model(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "nanochat"
    max_model_len: int = Field(description="tokens of prompt and answer together")


class Models(BaseModel):
    """All models that are served: one."""

    object: Literal["list"] = "list"
    data: list[Model]


class Tokens(BaseModel):
    """A text as tokens."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizedText(BaseModel):
    """Tokens as a text."""

    prompt: str


class TokenizerInfo(BaseModel):
    """What a client must know to tokenise by itself."""

    tokenizer_class: str
    vocab_size: int
    bos_token: str
    eos_token: str
    pad_token: str
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    chat_template: str


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok"]


class Version(BaseModel):
    """Which release this is."""

    version: str


class PageDefaults(BaseModel):
    """How a request is answered that does not say it itself."""

    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    max_tokens: int


class PageLimits(BaseModel):
    """What one request may ask for."""

    messages: int
    message_characters: int
    total_characters: int
    prompts: int
    samples: int
    max_tokens: int
    top_logprobs: int
    body_bytes: int


class PageInfo(BaseModel):
    """What the chat page needs to know."""

    model_name: str
    max_context: int
    defaults: PageDefaults
    limits: PageLimits
    version: str
    needs_key: bool
