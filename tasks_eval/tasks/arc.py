"""ARC: grade-school science questions (Clark et al. 2018, arXiv:1803.05457); data set allenai/ai2_arc."""

from nanochat_core.inference.interface import Conversation
from tasks_eval.multiple_choice import choice_example
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData


def make_easy(data: TaskData, split: Split) -> Task:
    return _make("ARC-Easy", data, split)


def make_challenge(data: TaskData, split: Split) -> Task:
    return _make("ARC-Challenge", data, split)


def _make(name: str, data: TaskData, split: Split) -> Task:
    rows = data.rows("arc", f"{name}/{split}")

    def example(index: int) -> Conversation:
        row = rows[index]
        choices = row["choices"]
        return choice_example(row["question"], choices["text"], choices["label"], row["answerKey"])

    return Task(name, "multiple_choice", split, len(rows), example, grading="letter", baseline=0.25)
