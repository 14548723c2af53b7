"""What an evaluation asks, as plain text: each example's question and its right answer, without what frames them.

Frames ("Multiple Choice question:", letters, examples shown before) are ours: they say nothing about whether a training
text holds the question.
"""

import re
from collections.abc import Iterator
from typing import Any

from nanochat_core.chat_format import parts_of
from nanochat_core.inference.interface import Conversation
from tasks_eval.core.bundle import CoreTask
from tasks_eval.multiple_choice import OPENING
from tasks_eval.task import Task

QuestionAnswer = tuple[str, str]


def texts_of_task(task: Task) -> Iterator[QuestionAnswer]:
    """Yield the question and the answer of each example, in order of their index."""
    for index in range(len(task)):
        yield text_of_example(task[index])


def text_of_example(example: Conversation) -> QuestionAnswer:
    """Return question and answer of a conversation; of a multiple choice, the right choice.

    >>> from tasks_eval.multiple_choice import choice_example
    >>> text_of_example(choice_example("Which is a fruit?", ["pear", "chair"], ["A", "B"], "A"))
    ('Which is a fruit?', 'pear')
    """
    *before, last = [_text_of(message["content"]) for message in example["messages"]]
    question = "\n".join(before)
    if "letters" in example and question.startswith(OPENING):
        right = re.search(rf"^- (.*)={re.escape(example['answer'])}$", question, re.MULTILINE)
        return question.removeprefix(OPENING).partition("\n- ")[0], right.group(1) if right else ""
    return question, last.removeprefix(question)  # a program begins with what it was asked for


def texts_of_core(task: CoreTask, items: list[dict[str, Any]]) -> Iterator[QuestionAnswer]:
    """Yield the question and the answer of each item of a CORE task, in their order."""
    for item in items:
        if task.kind == "multiple_choice":
            yield item["query"], str(item["choices"][item["gold"]])
        elif task.kind == "schema":
            yield item["context_options"][item["gold"]], item["continuation"]
        else:
            yield item["context"], item["continuation"]


def _text_of(content: Any) -> str:
    return "".join(part["text"] for part in parts_of(content) if part["type"] == "text")
