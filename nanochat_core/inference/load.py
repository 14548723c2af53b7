"""A finished stage's model as a `TextModel`: what benchmarks, the chat and the samples use."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from nanochat_core.checkpoint import load_model
from nanochat_core.device import choose_device, set_determinism
from nanochat_core.errors import CheckpointError, SpecError
from nanochat_core.inference.engine import Engine, EngineLimits, Prompt
from nanochat_core.inference.interface import (
    Completion,
    Conversation,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
)
from nanochat_core.inference.requests import EngineFailed
from nanochat_core.inference.tool_use import load_tool
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt

TOOL = "calculator"


class EngineModel:
    """`TextModel` over our engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._tokenizer = engine, engine.tokenizer
        self.bos = self._tokenizer.bos
        self.max_context = engine.spec.sequence_len

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer.encode_batch(texts)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Loglikelihood]:
        cut = [self._within_context(request) for request in requests]
        answers: dict[int, Loglikelihood] = {}
        for index, logprobs, is_greedy in self._engine.score(cut):
            logprob_sum = float(logprobs.double().sum())
            answers[index] = Loglikelihood(_sound([logprob_sum])[0], len(logprobs), is_greedy)
        return [answers[index] for index in range(len(requests))]

    def _within_context(self, request: LoglikelihoodRequest) -> tuple[Sequence[int], int]:
        """Return (ids, start), cut from the left to the model's context, never into what is scored."""
        excess = min(max(0, len(request.ids) - self.max_context), request.start - 1)
        return request.ids[excess:], request.start - excess

    def choice_logits(self, prompts: Sequence[Conversation], letters: Sequence[Sequence[str]]) -> list[list[float]]:
        columns = [[self._letter_id(letter) for letter in row] for row in letters]
        answers: dict[int, list[float]] = {}
        rendered = [render_prompt(self._tokenizer, prompt) for prompt in prompts]
        for index, logits in self._engine.next_token_logits(rendered):
            answers[index] = _sound(logits[columns[index]].tolist())
        return [answers[index] for index in range(len(prompts))]

    def _letter_id(self, letter: str) -> int:
        ids = self.encode(letter)
        if len(ids) != 1:
            raise SpecError(
                f"The letter {letter!r} is {len(ids)} tokens; a choice must be one. Use single ASCII letters."
            )
        return ids[0]

    def generate(self, requests: Sequence[GenerateRequest]) -> list[list[Completion]]:
        try:
            return self._engine.generate([self._prompt(request) for request in requests])
        except EngineFailed as failure:
            raise CheckpointError(f"The model cannot answer: {failure}. Train it again.") from failure

    def _prompt(self, request: GenerateRequest) -> Prompt:
        if request.conversation is not None:
            ids = render_prompt(self._tokenizer, request.conversation)
        else:
            ids = [self.bos, *self.encode(request.text or "")]
        return Prompt(
            ids=ids,
            num_samples=request.num_samples,
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            seed=request.seed,
            use_tools=request.use_tools,
        )


def _sound(values: list[float]) -> list[float]:
    """Return the values; raises CheckpointError where one is no number, for then the first option would always win."""
    if not all(map(math.isfinite, values)):
        raise CheckpointError("The model's logits are not numbers: its weights are broken. Train it again.")
    return values


def load_text_model(
    model_folder: Path,
    tokenizer_folder: Path,
    *,
    device: torch.device | None = None,
    batch_tokens: int = 16_384,
    tool: str | None = TOOL,
) -> EngineModel:
    """Return the model of an artifact folder, with a tool by its name (None: none).

    Raises CheckpointError where the folder is damaged or the tokenizer another's, SpecError for an unknown tool.
    """
    if device is None:
        device = choose_device()
        set_determinism(device)
    tokenizer = Tokenizer.load(tokenizer_folder)
    model, _ = load_model(model_folder, tokenizer_hash=tokenizer.hash, device=device)
    if device.type == "cpu":
        model.compute_dtype = torch.float32  # few CPUs compute in bfloat16, and those that do gain little on short rows
    engine = Engine(
        model.eval(), tokenizer, limits=EngineLimits(kv_tokens=batch_tokens), tool=load_tool(tool) if tool else None
    )
    return EngineModel(engine)
