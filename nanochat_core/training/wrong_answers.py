"""What the model answered wrongly, in pairs with the reference answers: DPO and the reward model learn from them."""

import json
from collections.abc import Sequence
from typing import Any, TypedDict

from nanochat_core.chat_format import parts_of
from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Completion
from nanochat_core.preference_specs import SampledPairsSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.parse import parse_conversation
from nanochat_core.training.rollouts import Answered, Question, Sampler


class Outcome(TypedDict):
    """What came of one question.

    pairs: rows of a file of preferences. reward: the mean of all answers. wrong: answers that got less than the
    reference answer. unreadable: those of them that are no whole message, as where they were cut off.
    """

    pairs: list[dict[str, Any]]
    reward: float
    wrong: int
    unreadable: int


def ask(sampler: Sampler, spec: SampledPairsSpec, questions: Sequence[Question], seeds: Sequence[int]) -> list[Outcome]:
    """Have the model answer the questions and return what came of each. Raises DataError for one without an answer."""
    best = [sampler.rewards(question, [reference_answer(question)])[0] for question in questions]
    answered = sampler.answer(questions, seeds, spec.samples_per_question)
    return [
        outcome_of(sampler.tokenizer, item, reward, pairs=spec.pairs_per_question)
        for item, reward in zip(answered, best, strict=True)
    ]


def reference_answer(question: Question) -> Completion:
    """Return the answer that a question comes with, as if the model had said it; raises DataError where it has none."""
    last = question["messages"][-1]
    if last["role"] != "assistant":
        raise DataError(
            f"A question of {question['source']} has no reference answer, which pairs need: take the task out of "
            "preferences.sampled.conversations."
        )
    return Completion(ids=(), mask=(), parts=tuple(parts_of(last["content"])), finish_reason="stop")


def outcome_of(tokenizer: Tokenizer, answered: Answered, reference_reward: float, *, pairs: int) -> Outcome:
    """Return what came of a question: its reference answer beside each of the first `pairs` different wrong ones."""
    wrong = [
        content_of(tokenizer, answered.prompt, completion)
        for completion, reward in zip(answered.completions, answered.rewards, strict=True)
        if reward < reference_reward
    ]
    different = {json.dumps(content): content for content in wrong if content is not None}
    *prompt, last = answered.question["messages"]
    rows = [
        {"prompt": prompt, "chosen": last["content"], "rejected": content}
        for content in list(different.values())[:pairs]
    ]
    return Outcome(pairs=rows, reward=answered.mean_reward, wrong=len(wrong), unreadable=wrong.count(None))


def content_of(tokenizer: Tokenizer, prompt: Sequence[int], completion: Completion) -> Any:
    """Return what the model said as a message's content: where it used tools, parts, with what they answered.

    None where it is no whole message: it has no end, or a special token stands where none belongs.
    """
    try:
        return parse_conversation(tokenizer, [*prompt, *completion.ids])[-1]["content"]
    except DataError:
        return None
