"""Multiple choice: how a question is written."""

from collections.abc import Sequence
from typing import Any

from nanochat_core.inference.interface import Conversation

OPENING = "Multiple Choice question: "
ENDING = "Respond only with the letter of the correct answer."


def choice_question(question: str, choices: Sequence[str], letters: Sequence[str]) -> str:
    """Return the user's message. The letter follows its choice without a blank, so that it is the token of the answer.

    >>> print(choice_question("Which is a fruit?", ["pear", "chair"], ["A", "B"]))
    Multiple Choice question: Which is a fruit?
    - pear=A
    - chair=B
    <BLANKLINE>
    Respond only with the letter of the correct answer.
    """
    lines = "".join(f"- {choice}={letter}\n" for choice, letter in zip(choices, letters, strict=True))
    return f"{OPENING}{question}\n{lines}\n{ENDING}"


def choice_example(
    question: str, choices: Sequence[str], letters: Sequence[str], answer: str, **fields: Any
) -> Conversation:
    """Return the conversation of one question, with its `letters`, the right letter `answer`, and other `fields`."""
    messages = [
        {"role": "user", "content": choice_question(question, choices, letters)},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, **fields, "letters": list(letters), "answer": answer}
