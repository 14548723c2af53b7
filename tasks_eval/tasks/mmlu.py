"""MMLU: 57 subjects, four choices (Hendrycks et al. 2020, arXiv:2009.03300); data set cais/mmlu.

The training split is `auxiliary_train`, which upstream has in two layouts: flat, and nested in a struct `train`.
"""

from nanochat_core.inference.interface import Conversation
from tasks_eval.multiple_choice import choice_example
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData

LETTERS = ("A", "B", "C", "D")


def make(data: TaskData, split: Split) -> Task:
    rows = data.rows("mmlu", "auxiliary_train" if split == "train" else "test")

    def example(index: int) -> Conversation:
        row = rows[index]
        row = row.get("train", row)
        return choice_example(row["question"], row["choices"], LETTERS, LETTERS[row["answer"]], subject=row["subject"])

    return Task(
        "MMLU",
        "multiple_choice",
        split,
        len(rows),
        example,
        grading="letter",
        baseline=1 / len(LETTERS),
        group_field="subject",
    )
