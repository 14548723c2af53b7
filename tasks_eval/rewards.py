"""Rewards of RL, registered in the entry-point group `nanochat.rewards`."""

from typing import Any

from nanochat_core.inference.interface import Completion
from tasks_eval.grading import grade


def answer(example: dict[str, Any], completion: Completion) -> float:
    """Return 1.0 where the completion's answer is right by the grader of its task, else 0.0.

    `example` is a row of the conversations: {"messages", "source", "meta"}; `meta` names the grading. An answer that
    was cut off at the token limit is graded as it stands.
    """
    return float(grade(example["meta"], completion.text).is_correct)
