"""Which task data an evaluation reads."""

from flows.evaluation.task_data import datasets_of
from nanochat_core.specs import TaskDataSpec


def test_what_the_user_brought_along_is_there_beside_the_rest() -> None:
    own = {"persona_path": "a.yaml", "custom_path": "b.jsonl"}
    assert datasets_of(TaskDataSpec(datasets=("gsm8k",))) == ["gsm8k"]
    assert datasets_of(TaskDataSpec(datasets=("gsm8k",), **own)) == ["gsm8k", "custom", "persona"]
    assert datasets_of(TaskDataSpec(source="local", persona_path="a.yaml")) == ["words", "persona"]
