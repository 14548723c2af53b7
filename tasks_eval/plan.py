"""From a spec to the questions that are asked: checked before a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanochat_core.errors import SpecError
from nanochat_core.inference.interface import TextModel
from nanochat_core.specs import EvaluateSpec
from tasks_eval.blocks import QuestionSet
from tasks_eval.chat import Sampling, score_examples
from tasks_eval.core import score as core
from tasks_eval.core.bundle import CoreTask, read_bundle
from tasks_eval.records import Record
from tasks_eval.sandbox.levels import permit_unsafe, require_sandbox
from tasks_eval.task import Task, make_task
from tasks_eval.task_data import TaskData

Measure = Literal["core", "bpb", "samples", "chat"]
Split = Literal["train", "validation"]  # of the text


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    core: Sequence[QuestionSet] = ()
    chat: Sequence[QuestionSet] = ()
    splits: Sequence[Split] = ()  # whose bits per byte are measured
    has_samples: bool = False
    has_gallery: bool = False

    @property
    def questions(self) -> int:
        return sum(questions.count for questions in (*self.core, *self.chat))


def plan_of(spec: EvaluateSpec, measures: Sequence[Measure], data: TaskData, *, answers_chats: bool = True) -> Plan:
    """Return what to measure; without the gallery where it is not known that the model `answers_chats`.

    Raises SpecError for a task that is unknown or cannot be graded, DataError where its data is not there or bad,
    NanochatError where code is to be run and the machine cannot shut it in.
    """
    return Plan(
        core=plan_core(spec, data) if "core" in measures else (),
        chat=plan_chat(spec, data) if "chat" in measures else (),
        splits=("train", "validation") if "bpb" in measures and spec.bpb_tokens else (),
        has_samples="samples" in measures,
        has_gallery=bool(spec.gallery_prompts) and (answers_chats or "chat" in measures),
    )


def plan_core(spec: EvaluateSpec, data: TaskData) -> list[QuestionSet]:
    """Return the tasks of CORE; none where no example is asked for, or neither a task is named nor the bundle there."""
    root = data.core_root() if spec.core_examples else None
    if root is None and spec.core_tasks:
        raise SpecError(
            "evaluate.core_tasks names tasks, but the CORE bundle is not there: add 'core' to the data sets."
        )
    tasks = core.choose_tasks(read_bundle(root), spec.core_tasks) if root else []
    return [core_questions(task, spec.core_examples, seed=spec.seed) for task in tasks]


def core_questions(task: CoreTask, examples: int, *, seed: int = 0) -> QuestionSet:
    """Return the first items of a CORE task."""
    items = task.items()

    def ask(model: TextModel, indices: Sequence[int]) -> list[Record]:
        return core.score_items(model, task, items, indices)

    about = {"kind": task.kind, "shots": task.shots, "version": core.VERSION, "seed": seed}
    return QuestionSet(task.label, min(examples, len(items)), task.baseline, ask, about)


def plan_chat(spec: EvaluateSpec, data: TaskData) -> list[QuestionSet]:
    """Return the chat tasks of the spec, in its order."""
    if not spec.chat_tasks:
        raise SpecError("evaluate.chat_tasks is empty: name at least one task.")
    if spec.allow_unsafe_code:
        permit_unsafe()
    sampling = Sampling(
        spec.max_new_tokens, spec.num_samples, spec.temperature, spec.top_k, spec.seed, use_tools=spec.tool is not None
    )
    tasks = graded_tasks(spec.chat_tasks, data, field="evaluate.chat_tasks")
    return [chat_questions(task, spec.chat_examples, sampling, tool=spec.tool) for task in tasks]


def graded_tasks(names: Sequence[str], data: TaskData, *, field: str) -> list[Task]:
    """Return the test splits of the tasks that `field` of a spec names; raises SpecError for one without a grader."""
    tasks = [make_task(name, data, "test") for name in names]
    if ungraded := [task.name for task in tasks if task.grading is None]:
        raise SpecError(f"{field}: {', '.join(ungraded)} cannot be graded; take it out of the list.")
    return tasks


def chat_questions(task: Task, examples: int | None, sampling: Sampling, *, tool: str | None) -> QuestionSet:
    """Return the first examples of a chat task, None: all."""
    about: dict[str, Any] = {"kind": task.kind, "version": task.version, "seed": sampling.seed}
    if task.kind == "generative":
        about |= {
            "tool": tool,
            "samples": sampling.num_samples,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "max_new_tokens": sampling.max_new_tokens,
        }
    runs_code = task.grading == "unit_tests"
    if runs_code:
        about["sandbox"] = require_sandbox()

    def ask(model: TextModel, indices: Sequence[int]) -> list[Record]:
        return score_examples(model, task, indices, sampling)

    count = min(examples or len(task), len(task))
    return QuestionSet(task.name, count, task.baseline, ask, about, can_vote=not runs_code)
