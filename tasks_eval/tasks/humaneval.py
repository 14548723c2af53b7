"""HumanEval: 164 functions to write, graded by unit tests (Chen et al. 2021, arXiv:2107.03374).

Data set openai/openai_humaneval.
"""

from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Conversation
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData

VERSION = 2  # 2: the tests run apart from the program


def make(data: TaskData, split: Split) -> Task:
    """There is a test split only; the reference answer repeats the prompt, as a whole program does."""
    if split == "train":
        raise DataError("HumanEval has no training split; take it out of the mixture.")
    rows = data.rows("humaneval", split)

    def example(index: int) -> Conversation:
        row = rows[index]
        messages = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["prompt"] + "\n" + row["canonical_solution"]},
        ]
        return {
            "messages": messages,
            "entry_point": row["entry_point"],
            "test": row["test"],
            "prompt": row["prompt"],
            "answer": row["canonical_solution"],
        }

    return Task("HumanEval", "generative", split, len(rows), example, grading="unit_tests", version=VERSION)
