"""How a prompt goes to a server, and which of the log-probabilities that come back belong to the part that is scored.

A benchmark builds prompts of ids and scores `ids[start:]`. Where the server tells its tokens (POST /tokenize, as ours
and vLLM have it), these ids are sent as they are. Where it does not, an id is a character: the prompt goes as text, and
what is scored are the tokens that reach into the text behind `start`. That is the same for all choices of a question
that begin at the border of a token, as words after a blank do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Loglikelihood
from nanochat_core.inference.openai_api import ApiClient, Json, Refused

NO_BOS = -1  # stands for BOS where a model has none, or where the server adds it by itself; never sent


class Prompts(Protocol):
    """The server's way."""

    counts_tokens: ClassVar[bool]  # whether an id is a token, so that the context's length means something

    @property
    def bos(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS."""
        ...

    def wire(self, ids: Sequence[int]) -> str | list[int]:
        """Return the prompt as it is sent."""
        ...

    def scored(self, ids: Sequence[int], start: int) -> "tuple[Span, str]":
        """Return which part of the prompt `ids[start:]` is, and the text that it must be found in, if any."""
        ...


@dataclass(frozen=True)
class Span:
    """A part of a prompt: from `start` to before `end`, counted in tokens, or in characters of its text."""

    start: int
    end: int
    in_characters: bool


@dataclass(frozen=True)
class ServerTokens:
    """Ids are the server's own tokens."""

    counts_tokens = True
    client: ApiClient
    model: str
    bos: int

    @classmethod
    def of(cls, client: ApiClient, model: str) -> "ServerTokens":
        """Return what the server tells of its tokens. Raises Refused where it tells nothing."""
        with_bos = cls._tokenize(client, model, prompt="a", add_special_tokens=True)
        without = cls._tokenize(client, model, prompt="a", add_special_tokens=False)
        has_bos = len(with_bos) > len(without) and with_bos[0] != without[0]
        return cls(client, model, with_bos[0] if has_bos else NO_BOS)

    @staticmethod
    def _tokenize(client: ApiClient, model: str, **what: Any) -> list[int]:
        answer = client.post("/tokenize", {"model": model} | what)
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise Refused(f"{client.url} tokenises into what are no token ids", status=200)
        return tokens

    def encode(self, text: str) -> list[int]:
        return self._tokenize(self.client, self.model, prompt=text, add_special_tokens=False) if text else []

    def chat(self, messages: Sequence[Json]) -> list[int]:
        """Return the ids of a chat up to where the assistant speaks, BOS and all."""
        return self._tokenize(self.client, self.model, messages=list(messages), add_generation_prompt=True)

    def wire(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token != NO_BOS]

    def scored(self, ids: Sequence[int], start: int) -> tuple[Span, str]:
        left_out = len(ids) - len(self.wire(ids))
        return Span(start - left_out, len(ids) - left_out, in_characters=False), ""


@dataclass(frozen=True)
class Characters:
    """Ids are characters: nothing is known of the server's tokens."""

    counts_tokens = False
    bos: int = NO_BOS

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def wire(self, ids: Sequence[int]) -> str:
        return "".join(chr(character) for character in ids if character != NO_BOS)

    def scored(self, ids: Sequence[int], start: int) -> tuple[Span, str]:
        text = self.wire(ids)
        return Span(start - (len(ids) - len(text)), len(text), in_characters=True), text


def scored_part(choice: Json, span: Span, text: str) -> Loglikelihood:
    """Return what a completion that echoes its prompt says of a part of it.

    >>> logprobs = {"tokens": ["2+2", "=", "4", "!"], "token_logprobs": [None, -1.5, -0.25, -3.0],
    ...             "top_logprobs": [None, {"is": -0.5, "=": -1.5}, {"4": -0.25}, {"!": -3.0}],
    ...             "text_offset": [0, 3, 4, 5]}
    >>> scored_part({"text": "2+2=4!", "logprobs": logprobs}, Span(1, 3, in_characters=False), "")
    Loglikelihood(logprob_sum=-1.75, num_tokens=2, is_greedy=False)
    >>> scored_part({"text": "2+2=4!", "logprobs": logprobs}, Span(4, 5, in_characters=True), "2+2=4")
    Loglikelihood(logprob_sum=-0.25, num_tokens=1, is_greedy=True)

    Raises DataError where the prompt's log-probabilities are not there.
    """
    block = choice.get("logprobs")
    if not isinstance(block, dict) or not block.get("token_logprobs"):
        raise DataError("its completions come without logprobs")
    if not str(choice.get("text", "")).startswith(text):
        raise DataError("its completions do not echo the prompt")
    places = _places(block, span, len(text)) if span.in_characters else list(range(span.start, span.end))
    try:
        logprobs = [block["token_logprobs"][place] for place in places]
        is_greedy = all(is_likeliest(block["tokens"][place], block["top_logprobs"][place]) for place in places)
    except (IndexError, KeyError, TypeError):
        raise DataError("its completions do not echo the prompt's logprobs") from None
    if not logprobs or any(logprob is None for logprob in logprobs):
        raise DataError("its completions leave out logprobs of the prompt")
    return Loglikelihood(float(sum(logprobs)), len(logprobs), is_greedy)


def _places(block: Json, span: Span, length: int) -> list[int]:
    """Return which tokens reach into the span of characters; `length` is that of the prompt's text."""
    offsets = block.get("text_offset")
    if not isinstance(offsets, list) or len(offsets) != len(block["token_logprobs"]):
        raise DataError("its completions come without text_offset")
    ends = [end for _, end in pairwise([*offsets, length + 1])]
    return [
        place
        for place, (begin, end) in enumerate(zip(offsets, ends, strict=True))
        if begin < length and end > span.start
    ]


def is_likeliest(token: str, likeliest: Json) -> bool:
    """Tell whether a token comes first among the likeliest, which hold it in any case."""
    return max(likeliest, key=likeliest.__getitem__) == token
