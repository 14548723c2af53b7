"""GSM8K: word problems (Cobbe et al. 2021, arXiv:2110.14168); data set openai/gsm8k.

The data marks each calculation as <<48/2=24>>; here it becomes a call of the calculator and its output.
"""

import re

from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Conversation, Part
from tasks_eval.grading import marked_number
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData

CALCULATION = re.compile(r"<<([^>]*)>>")


def make(data: TaskData, split: Split) -> Task:
    rows = data.rows("gsm8k", split)

    def example(index: int) -> Conversation:
        row = rows[index]
        messages = [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": answer_parts(row["answer"])},
        ]
        answer = marked_number(row["answer"])
        if answer is None:
            raise DataError(f"GSM8K row {index} has no '#### number' in its answer {row['answer']!r}.")
        return {"messages": messages, "answer": answer}

    return Task("GSM8K", "generative", split, len(rows), example, grading="marked_number")


def answer_parts(answer: str) -> list[Part]:
    """Return the answer as text, python and python_output parts.

    >>> answer_parts("48/2 = <<48/2=24>>24 clips")[1:]
    [{'type': 'python', 'text': '48/2'}, {'type': 'python_output', 'text': '24'}, {'type': 'text', 'text': '24 clips'}]
    """
    parts: list[Part] = []
    for position, piece in enumerate(CALCULATION.split(answer)):
        if position % 2 == 0:
            parts += [{"type": "text", "text": piece}] if piece else []
        else:
            expression, _, result = piece.rpartition("=")
            parts += [{"type": "python", "text": expression}, {"type": "python_output", "text": result}]
    return parts
