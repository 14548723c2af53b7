"""The gallery: what a model says to a few fixed questions, the same for the models of all stages.

gallery.json = {"version", "seed", "max_new_tokens", "temperature", "top_k", "tool",
                "answers": [{"prompt", "greedy": ANSWER, "sampled": ANSWER}]}
ANSWER = {"text", "finish_reason"}          text: tool calls and their output between guillemets, as in records

Every model is asked as a chat model is: a base model continues the question as it would any text.
"""

from collections.abc import Sequence
from typing import Any

from nanochat_core.inference.interface import Completion, GenerateRequest, TextModel
from nanochat_core.specs import EvaluateSpec
from tasks_eval.chat import encodable, transcript

FILE = "gallery.json"
VERSION = 1
MAX_NEW_TOKENS = 64  # of an answer, where the spec allows as many
TEMPERATURE = 0.8  # of the sampled answer: one that people would see

Gallery = dict[str, Any]


def ask_gallery(model: TextModel, spec: EvaluateSpec) -> Gallery:
    """Return the answers to `spec.gallery_prompts`, a greedy and a sampled one to each, asked in one batch."""
    prompts = spec.gallery_prompts
    max_new_tokens = min(MAX_NEW_TOKENS, spec.max_new_tokens, model.max_context)
    requests = [
        GenerateRequest(
            conversation={"messages": [{"role": "user", "content": prompt}]},
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=spec.top_k,
            seed=spec.seed + index,
            use_tools=spec.tool is not None,
        )
        for temperature in (0.0, TEMPERATURE)
        for index, prompt in enumerate(prompts)
    ]
    answers = [answer_of(completions) for completions in model.generate(requests)]
    greedy, sampled = answers[: len(prompts)], answers[len(prompts) :]
    rows = [
        {"prompt": prompt, "greedy": first, "sampled": second}
        for prompt, first, second in zip(prompts, greedy, sampled, strict=True)
    ]
    return {
        "version": VERSION,
        "seed": spec.seed,
        "max_new_tokens": max_new_tokens,
        "temperature": TEMPERATURE,
        "top_k": spec.top_k,
        "tool": spec.tool,
        "answers": rows,
    }


def answer_of(completions: Sequence[Completion]) -> dict[str, str]:
    (completion,) = completions
    return {"text": encodable(transcript(completion)), "finish_reason": completion.finish_reason}
