"""Log-probabilities as OpenAI's two APIs spell them: objects for chat, parallel lists for completions."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from nanochat_core.inference.requests import ScoredToken
from nanochat_core.tokenizer.bpe import Tokenizer

LEAST = -9999.0  # JSON knows no infinity
Json = dict[str, Any]


def finite(logprob: float) -> float:
    """Return the log-probability, or LEAST for what is impossible."""
    return max(logprob, LEAST)


def spelling(tokenizer: Tokenizer, token: int) -> str:
    r"""Return the token's text; of one that is no UTF-8 by itself its bytes, like `bytes:\xe2\x82`, which is unique."""
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def alternatives(scored: ScoredToken, count: int) -> list[tuple[int, float]]:
    """Return the likeliest tokens, `count` at most, and the token itself, its number the same in both places."""
    assert scored.logprob is not None
    best = [(token, scored.logprob if token == scored.id else logprob) for token, logprob in scored.top[:count]]
    return best if any(token == scored.id for token, _ in best) else [*best, (scored.id, scored.logprob)]


def chat_logprobs(tokenizer: Tokenizer, tokens: Iterable[ScoredToken], count: int) -> list[Json]:
    """Return an object for each token that the model chose; special ones, of which no text comes, are left out."""
    objects = []
    for scored in tokens:
        if scored.logprob is None or scored.id in tokenizer.special_ids:
            continue
        best = [_token(tokenizer, token, logprob) for token, logprob in scored.top[:count]]
        objects.append(_token(tokenizer, scored.id, scored.logprob) | {"top_logprobs": best})
    return objects


def _token(tokenizer: Tokenizer, token: int, logprob: float) -> Json:
    data = tokenizer.decode_bytes([token])
    return {"token": spelling(tokenizer, token), "logprob": finite(logprob), "bytes": list(data)}


class CompletionLogprobs:
    """The lists of one completion, as its tokens come: tokens, token_logprobs, top_logprobs, text_offset."""

    def __init__(self, tokenizer: Tokenizer, count: int) -> None:
        self._tokenizer, self._count = tokenizer, count
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def lists(self, tokens: Sequence[ScoredToken]) -> Json:
        """Return the lists for the next tokens. A token within a character has the offset of that character."""
        found: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for scored in tokens:
            found["tokens"].append(spelling(self._tokenizer, scored.id))
            found["token_logprobs"].append(None if scored.logprob is None else finite(scored.logprob))
            found["top_logprobs"].append(self._top(scored))
            found["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(self._tokenizer.decode_bytes([scored.id])))
        return found

    def _top(self, scored: ScoredToken) -> dict[str, float] | None:
        if scored.logprob is None:
            return None
        top: dict[str, float] = {}
        for token, logprob in alternatives(scored, self._count):
            name = spelling(self._tokenizer, token)
            top[f"token_id:{token}" if name in top else name] = finite(logprob)
        return top
