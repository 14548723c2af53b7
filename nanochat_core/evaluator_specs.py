"""What is measured while a stage trains, as a part of its spec. Torch-free.

These fields change nothing that a stage makes, so they are no part of its fingerprint: a finished stage stays finished
when they change, and has the curves that were asked for when it ran.
"""

from typing import Any

from pydantic import Field

from nanochat_core.spec_base import Spec, runtime_field


class EvaluatorSpec(Spec):
    """What is measured again and again while a stage trains. It changes nothing that the stage makes."""

    name: str = Field(
        description="name of a registered evaluator: core (of a base model), chatcore (of a chat model), or your own"
    )
    every: int = Field(2000, ge=1, le=10**9, description="steps between measurements; the last step is one too")
    tasks: tuple[str, ...] | None = Field(
        None, description="tasks; empty: for core all of the bundle, for chatcore ARC-Easy, ARC-Challenge and MMLU"
    )
    examples: int = Field(500, ge=1, le=10**9, description="examples for each task, always the same ones")
    max_new_tokens: int = Field(256, ge=1, description="longest answer in tokens, of tasks that are answered in text")


def evaluators_field() -> Any:
    return runtime_field(
        (), description="what is measured while it trains, beside the validation; each evaluator at most once"
    )
