"""A `TextModel` over any server that speaks OpenAI's API: ours, vLLM, or a service. Torch-free.

What it needs of the server:

    generate         /v1/chat/completions for chats, /v1/completions for plain text
    choice_logits    log-probabilities of an answer's first token: exact ones where `loglikelihood` works, else those
                     of the 20 likeliest tokens that chat completions report
    loglikelihood    /v1/completions with echo and logprobs: the prompt's own. Hosted chat services have none

Where the server has /tokenize (ours, vLLM), prompts go as token ids. Elsewhere its tokenizer is unknown: prompts go as
text, one id a character (`endpoint_prompts.py`).
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from nanochat_core.errors import DataError, SpecError, did_you_mean
from nanochat_core.inference.chat.remote import wire_message
from nanochat_core.inference.endpoint_prompts import Characters, Prompts, ServerTokens, scored_part
from nanochat_core.inference.interface import (
    Completion,
    Conversation,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
    Part,
)
from nanochat_core.inference.openai_api import ApiClient, Json, Refused

CONCURRENCY = 16  # requests at a time
UNLIMITED = 1 << 30  # tokens: the context of a server that does not say how long it is
SAMPLES_PER_REQUEST = 16
COMPLETION_ALTERNATIVES, CHAT_ALTERNATIVES = 5, 20  # likeliest tokens, as many as OpenAI's two APIs report
TOO_LONG = "context_length_exceeded"
PROBE = "One, two, three"
T, R = TypeVar("T"), TypeVar("R")


class EndpointModel:
    """`TextModel` over HTTP. The API key comes from $NANOCHAT_API_KEY."""

    def __init__(self, url: str, model: str | None = None, *, concurrency: int = CONCURRENCY) -> None:
        """`url`: with or without /v1; `model`: the name there, by default the first that the server lists.

        Raises SpecError for what is no such server or has no such model, Unreachable where nobody answers.
        """
        self._client = ApiClient(url, connections=concurrency)
        self._concurrency, self._lock = concurrency, threading.Lock()
        self.url = self._client.url
        listed = self._listed()
        names = [str(entry["id"]) for entry in listed]
        if model is None and not names:
            raise SpecError(f"{self.url}/models lists no model: name one.")
        if model is not None and names and model not in names:
            raise SpecError(f"{self.url} has no model {model!r}{did_you_mean(model, names)}.")
        self.name = model or names[0]
        about = next((entry for entry in listed if entry["id"] == self.name), {})
        self.is_ours = about.get("owned_by") == "nanochat"
        self._context = about.get("max_model_len")

    def _listed(self) -> list[Json]:
        """Return what the server says of its models; nothing where it has no such list."""
        try:
            listed = self._client.get("models").get("data")
        except Refused as refusal:
            if refusal.status in (404, 405):
                return []
            raise
        return [entry for entry in listed or () if isinstance(entry, dict) and "id" in entry]

    @property
    def bos(self) -> int:
        return self._prompts.bos

    @property
    def max_context(self) -> int:
        """Tokens of a prompt: one place is left for the token that a server must be asked for."""
        return self._context - 1 if isinstance(self._context, int) and self._prompts.counts_tokens else UNLIMITED

    def encode(self, text: str) -> list[int]:
        return self._prompts.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of several texts, which are asked for at a time."""
        return self._each(self._prompts.encode, texts)

    @property
    def _prompts(self) -> Prompts:
        with self._lock:  # cached_property alone may compute twice
            return self._found_prompts

    @cached_property
    def _found_prompts(self) -> Prompts:
        try:
            return ServerTokens.of(self._client, self.name)
        except Refused as refusal:
            if refusal.status in (401, 403):
                raise
            return Characters()

    # ---- log-probabilities of prompts ----

    def check_scores(self) -> None:
        """Raise SpecError where the server gives no log-probabilities of a prompt: what `loglikelihood` needs."""
        if self._why_no_scores:
            raise SpecError(
                f"{self.url} gives no log-probabilities of a prompt ({self._why_no_scores}): CORE cannot be measured "
                "there. Chat tasks can: GSM8K and others with a text as answer on any server, ARC and MMLU where chat "
                "completions have top_logprobs."
            )

    @cached_property
    def _why_no_scores(self) -> str:
        """What goes wrong with a small prompt; empty: nothing."""
        ids = (self.bos, *self.encode(PROBE))
        try:
            self._score(LoglikelihoodRequest(ids, len(ids) - 1))
        except Refused as refusal:
            if refusal.status in (401, 403):
                raise
            return str(refusal).rstrip(".")
        except DataError as error:
            return str(error).rstrip(".")
        return ""

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Loglikelihood]:
        self.check_scores()
        try:
            return self._each(self._score, requests)
        except DataError as error:
            raise DataError(f"{self.url}: {error}.") from None

    def _score(self, request: LoglikelihoodRequest) -> Loglikelihood:
        excess = min(max(0, len(request.ids) - self.max_context), request.start - 1)
        ids, start = request.ids[excess:], request.start - excess
        if len(ids) > self.max_context:
            raise DataError(
                f"what is scored has {len(ids) - start} tokens, more than fit into the server's context of "
                f"{self.max_context + 1}: serve the model with a longer one (nanochat serve --set max_context=…)"
            )
        body = {"model": self.name, "prompt": self._prompts.wire(ids), "max_tokens": 1, "temperature": 0}
        answer = self._client.post("completions", body | {"echo": True, "logprobs": 1})
        return scored_part(_only_choice(answer), *self._prompts.scored(ids, start))

    # ---- letters ----

    def choice_logits(self, prompts: Sequence[Conversation], letters: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return log-probabilities, which differ from logits by the same amount for all letters of a prompt.

        Where only the likeliest tokens are known, a letter that is not among them gets the least of theirs. A prompt
        that is longer than the model's context is cut from the left; where that cannot be done, all letters are equal.
        """
        choose = self._exact_letters if self._renders_chats else self._reported_letters
        return self._each(lambda pair: choose(*pair), list(zip(prompts, letters, strict=True)))

    @cached_property
    def _renders_chats(self) -> bool:
        """Whether a chat's prompt can be had as token ids, and scored."""
        if not isinstance(self._prompts, ServerTokens) or self._why_no_scores:
            return False
        try:
            return bool(self._prompts.chat([{"role": "user", "content": PROBE}]))
        except Refused:
            return False

    def _exact_letters(self, prompt: Conversation, letters: Sequence[str]) -> list[float]:
        assert isinstance(self._prompts, ServerTokens)
        columns = [self._letter_id(letter) for letter in letters]
        ids = self._prompts.chat(_messages(prompt))[-self.max_context :]
        body = {"model": self.name, "prompt": ids, "max_tokens": 1, "temperature": 0}
        likeliest = _top(self._client.post("completions", body | {"logprobs": COMPLETION_ALTERNATIVES}))
        if all(letter in likeliest for letter in letters):
            return [likeliest[letter] for letter in letters]
        return [self._score(LoglikelihoodRequest((*ids, column), len(ids))).logprob_sum for column in columns]

    def _letter_id(self, letter: str) -> int:
        known = self._letter_ids
        if letter not in known:
            ids = self.encode(letter)
            if len(ids) != 1:
                raise SpecError(f"The letter {letter!r} is {len(ids)} tokens there; a choice must be one.")
            known[letter] = ids[0]
        return known[letter]

    @cached_property
    def _letter_ids(self) -> dict[str, int]:
        return {}

    def _reported_letters(self, prompt: Conversation, letters: Sequence[str]) -> list[float]:
        body = {"model": self.name, "messages": _messages(prompt), "max_tokens": 1, "temperature": 0}
        more = {"logprobs": True, "top_logprobs": CHAT_ALTERNATIVES}
        try:
            choice = _only_choice(self._client.post("chat/completions", body | more))
            reported = choice["logprobs"]["content"][0]["top_logprobs"]
            likeliest = [(str(token["token"]).strip(), float(token["logprob"])) for token in reported]
            least = min(logprob for _, logprob in likeliest)
        except (Refused, KeyError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, Refused) and error.status in (401, 403, 404):
                raise
            if isinstance(error, Refused) and error.code == TOO_LONG:
                return [0.0] * len(letters)
            why = str(error).rstrip(".") if isinstance(error, Refused) else "its answer has no top_logprobs"
            raise SpecError(
                f"{self.url} gives no log-probabilities of an answer ({why}): multiple choice (ARC, MMLU, …) cannot be "
                "measured there. Tasks with a text as answer can, GSM8K for example."
            ) from None
        return [max((value for token, value in likeliest if token == letter), default=least) for letter in letters]

    # ---- answers ----

    def generate(self, requests: Sequence[GenerateRequest]) -> list[list[Completion]]:
        """Return completions without ids and mask: the server does not tell them.

        A prompt that is longer than the model's context gets empty answers, cut at their length.
        """
        return self._each(self._answers, requests)

    def _answers(self, request: GenerateRequest) -> list[Completion]:
        """Ask until there are as many samples as wanted: some servers give fewer at a time, or one."""
        found: list[Completion] = []
        while len(found) < request.num_samples:
            wanted = min(request.num_samples - len(found), SAMPLES_PER_REQUEST)
            found += self._ask(request, wanted, seed=request.seed + len(found))[:wanted]
        return found

    def _ask(self, request: GenerateRequest, samples: int, *, seed: int) -> list[Completion]:
        path, body = self._question(request)
        body |= {"model": self.name, "max_tokens": request.max_new_tokens, "temperature": request.temperature}
        if request.temperature:
            body |= {"seed": seed} | ({"top_k": request.top_k} if request.top_k else {})
        if samples > 1:
            body["n"] = samples
        if self.is_ours:  # whatever its defaults are
            body |= {"use_tools": request.use_tools, "top_k": request.top_k or -1, "top_p": 1.0, "min_p": 0.0}
        try:
            choices = self._client.post(path, body).get("choices")
        except Refused as refusal:
            if refusal.code == TOO_LONG:
                return [Completion((), (), (), "length")] * samples
            raise
        if not choices:
            raise DataError(f"{self.url} answers without choices: is this OpenAI's API?")
        return [_completion(choice) for choice in choices]

    def _question(self, request: GenerateRequest) -> tuple[str, Json]:
        if request.conversation is None:
            return "completions", {"prompt": request.text or ""}
        return "chat/completions", {"messages": _messages(request.conversation)}

    def _each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return work(item) for each item, in order, several at a time; the first that fails ends all."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(work, items))


def _messages(conversation: Conversation) -> list[Json]:
    return [wire_message(message) for message in conversation["messages"]]


def _only_choice(answer: Json) -> Json:
    """Return the first choice; raises DataError where there is none."""
    try:
        choice = answer["choices"][0]
    except (KeyError, IndexError, TypeError):
        choice = None
    if not isinstance(choice, dict):
        raise DataError("the answer has no choices")
    return choice


def _top(answer: Json) -> dict[str, float]:
    """Return the likeliest first tokens of a completion with their log-probabilities; nothing where they are not told.

    >>> _top({"choices": [{"logprobs": {"top_logprobs": [{"A": -0.5}]}}]})
    {'A': -0.5}
    """
    try:
        return dict(answer["choices"][0]["logprobs"]["top_logprobs"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        return {}


def _completion(choice: Any) -> Completion:
    """Return one answer, of a chat or of a text; our server also tells the calls of its tool."""
    message = choice.get("message") or {}
    text = str(choice.get("text") or message.get("content") or "")
    told = message.get("nanochat_parts")
    parts: list[Part] = list(told) if told else [{"type": "text", "text": text}]
    reason = "length" if choice.get("finish_reason") == "length" else "stop"
    return Completion((), (), tuple(parts), reason, raw_text=text)  # type: ignore[arg-type]
