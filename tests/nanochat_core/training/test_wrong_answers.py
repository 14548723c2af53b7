"""Pairs of a reference answer and wrong samples: which become pairs, and what of them is learned."""

from typing import Any

import pytest

from nanochat_core.data.own.preference_files import pair_of
from nanochat_core.data.preference_pairs import render_pair
from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Completion
from nanochat_core.tokenizer.render import render_conversation, render_prompt
from nanochat_core.training.rollouts import Answered, Question
from nanochat_core.training.wrong_answers import content_of, outcome_of, reference_answer
from tests.fakes import byte_tokenizer

TOKENIZER = byte_tokenizer()


def parts(call: str, output: str, text: str) -> list[dict[str, str]]:
    return [
        {"type": "python", "text": call},
        {"type": "python_output", "text": output},
        {"type": "text", "text": text},
    ]


QUESTION: Question = {
    "messages": [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": parts("2+3", "5", "5")}],
    "source": "Sums",
    "meta": {},
}
PROMPT = render_prompt(TOKENIZER, QUESTION)


def said(content: Any, cut: int = 0) -> Completion:
    """Return what a model that said this has sampled, but for the last ids."""
    ids, mask = render_conversation(
        TOKENIZER, {"messages": [QUESTION["messages"][0], {"role": "assistant", "content": content}]}
    )
    end = len(ids) - cut
    return Completion(tuple(ids[len(PROMPT) : end]), tuple(mask[len(PROMPT) : end]), (), "length" if cut else "stop")


def answered(*samples: tuple[Completion, float]) -> Answered:
    return Answered(QUESTION, PROMPT, [sample for sample, _ in samples], [reward for _, reward in samples])


def test_the_first_different_answers_that_get_less_than_the_reference_become_pairs() -> None:
    wrong, other, right = said(parts("2+2", "4", "4")), said("no"), said(parts("2+3", "5", "5"))
    outcome = outcome_of(
        TOKENIZER, answered((right, 1.0), (wrong, 0.0), (wrong, 0.0), (other, 0.5), (said("ah"), 0.0)), 1.0, pairs=2
    )
    assert [pair["rejected"] for pair in outcome["pairs"]] == [parts("2+2", "4", "4"), "no"]
    assert all(pair["chosen"] == parts("2+3", "5", "5") for pair in outcome["pairs"])
    assert all(pair["prompt"] == [{"role": "user", "content": "2+3?"}] for pair in outcome["pairs"])
    assert (outcome["reward"], outcome["wrong"], outcome["unreadable"]) == (0.3, 4, 0)
    all_right = outcome_of(TOKENIZER, answered((right, 1.0), (right, 1.0)), 1.0, pairs=2)
    assert all_right == {"pairs": [], "reward": 1.0, "wrong": 0, "unreadable": 0}


def test_answers_that_are_no_whole_message_are_counted_and_left_out() -> None:
    cut, no_call = said("no", cut=1), said(parts("2+2", "4", "4"), cut=5)
    odd = Completion((TOKENIZER.special("<|user_start|>"), *said("no").ids), (), (), "stop")
    assert [content_of(TOKENIZER, PROMPT, sample) for sample in (cut, no_call, odd)] == [None, None, None]
    outcome = outcome_of(TOKENIZER, answered((cut, 0.0), (odd, 0.0), (said(""), 0.0)), 1.0, pairs=3)
    assert [pair["rejected"] for pair in outcome["pairs"]] == [""] and outcome["unreadable"] == 2


def test_of_both_answers_only_what_the_assistant_says_and_calls_is_learned() -> None:
    outcome = outcome_of(TOKENIZER, answered((said(parts("2+2", "4", "so 4")), 0.0)), 1.0, pairs=1)
    row = render_pair(TOKENIZER, pair_of(outcome["pairs"][0]))
    special = {TOKENIZER.special(f"<|{name}|>"): name for name in ("python_start", "python_end", "assistant_end")}
    for side, learned in (
        ("chosen", ["python_start", *"2+3", "python_end", *"5", "assistant_end"]),
        ("rejected", ["python_start", *"2+2", "python_end", *"so 4", "assistant_end"]),
    ):
        pairs = zip(row[f"{side}_ids"], row[f"{side}_mask"], strict=True)
        assert [special.get(token) or chr(token) for token, is_learned in pairs if is_learned] == learned


def test_a_question_without_an_answer_is_refused() -> None:
    assert reference_answer(QUESTION).text == "5"
    with pytest.raises(DataError, match="A question of Sums has no reference answer"):
        reference_answer(QUESTION | {"messages": QUESTION["messages"][:1]})
