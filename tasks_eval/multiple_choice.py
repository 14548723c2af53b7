"""Multiple choice: how a question is written, and how a model is asked for its letter."""

from collections.abc import Sequence
from typing import Any

from nanochat_core.inference.interface import Conversation, TextModel


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
    return f"Multiple Choice question: {question}\n{lines}\nRespond only with the letter of the correct answer."


def choice_example(
    question: str, choices: Sequence[str], letters: Sequence[str], answer: str, **fields: Any
) -> Conversation:
    """Return the conversation of one question, with its `letters`, the right letter `answer`, and other `fields`."""
    messages = [
        {"role": "user", "content": choice_question(question, choices, letters)},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, **fields, "letters": list(letters), "answer": answer}


def choose_letters(model: TextModel, examples: Sequence[Conversation]) -> list[str]:
    """Return the letter that the model puts first for each example (the first of equals)."""
    prompts = [{"messages": example["messages"][:-1]} for example in examples]
    logits = model.choice_logits(prompts, [example["letters"] for example in examples])
    return [
        example["letters"][max(range(len(row)), key=row.__getitem__)]
        for example, row in zip(examples, logits, strict=True)
    ]
