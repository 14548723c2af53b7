"""What is asked of a model: the kinds of measurements and the tasks, out of the names that a user gives.

CORE            all tasks of the CORE bundle; one of them by its label: hellaswag_zeroshot
GSM8K, …        a chat task by its name
bpb, samples    bits per byte of the text; continuations of a few prompts
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any

from flows.evaluate import OF_BASE, Measure
from nanochat_core.data.own import persona
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.specs import EvaluateSpec, parse_params
from nanochat_core.task_table import CORE_LABELS, TASK_DATASETS, UNGRADED, WITH_PERSONA

ALL_OF_CORE = "CORE"
CORE_EXAMPLES = 500  # of each task of CORE, where nothing else was said
WORDS: tuple[Measure, ...] = ("bpb", "samples")


@dataclass(frozen=True)
class Asked:
    """What is measured, and how. Of `spec` only the fields of these measures count."""

    measures: tuple[Measure, ...]
    spec: EvaluateSpec
    is_named: bool = False  # by a user, task by task

    @property
    def tasks(self) -> list[str]:
        """The names that mean the same.

        >>> Asked(("core", "bpb", "chat"), EvaluateSpec(core_tasks=("copa",), chat_tasks=("GSM8K",))).tasks
        ['copa', 'GSM8K', 'bpb']
        """
        has_core = "core" in self.measures and self.spec.core_examples
        core = list(self.spec.core_tasks or [ALL_OF_CORE]) if has_core else []
        chat = self.spec.chat_tasks if "chat" in self.measures else ()
        return [*core, *chat, *(word for word in WORDS if word in self.measures)]

    @property
    def datasets(self) -> set[str]:
        """The data sets that this needs, `persona` where there is one; tasks that are generated need none.

        A base model's usual evaluation has CORE where the bundle is there, and does without where it is not.
        """
        chat = {TASK_DATASETS[task] for task in self.spec.chat_tasks if task in TASK_DATASETS}
        chat |= {persona.DATASET for task in self.spec.chat_tasks if task in WITH_PERSONA}
        is_usual = self.measures == OF_BASE and not (self.spec.core_tasks or self.is_named)
        has_core = "core" in self.measures and self.spec.core_examples and not is_usual
        return ({"core"} if has_core else set()) | (chat if "chat" in self.measures else set())

    def named(self, names: Sequence[str]) -> "Asked":
        """Return the same with other tasks. Raises SpecError that lists the names that mean nothing."""
        names = list(dict.fromkeys(names))
        labels = [*CORE_LABELS.split(), *(self.spec.core_tasks or ())]
        tasks = sorted(set(entry_points(group="nanochat.tasks").names) - set(UNGRADED))
        known = [ALL_OF_CORE, *WORDS, *labels, *tasks]
        if unknown := [name for name in names if name not in known]:
            raise SpecError.listing([why_unknown(name, known) for name in unknown])
        core = tuple(name for name in names if name in labels)
        chat = tuple(name for name in names if name in tasks)
        changes: dict[str, Any] = {"chat_tasks": chat} if chat else {}
        if core or ALL_OF_CORE in names:
            changes["core_tasks"] = None if ALL_OF_CORE in names else core
            changes["core_examples"] = self.spec.core_examples or CORE_EXAMPLES
        measures = ordered(
            (*(["core"] if "core_tasks" in changes else []), *(["chat"] if chat else []), *(set(WORDS) & set(names)))
        )
        return Asked(measures, self.spec.model_copy(update=changes), is_named=True)

    def changed(self, **values: Any) -> "Asked":
        """Return the same with other fields of the spec. Raises SpecError for bad values."""
        return replace(self, spec=parse_params(EvaluateSpec, self.spec.model_dump() | values)) if values else self


def why_unknown(name: str, known: Iterable[str]) -> str:
    """Return what is said of a name that means nothing."""
    if name in UNGRADED:
        return f"--tasks: {name} cannot be graded; take it out"
    return f"--tasks: unknown task {name!r}{did_you_mean(name, known)}"


def ordered(measures: Iterable[str]) -> tuple[Measure, ...]:
    """Return the measures in the order in which all evaluations have them, so that equal questions are found again.

    >>> ordered(["chat", "core"])
    ('core', 'chat')
    """
    wanted = set(measures)
    order: tuple[Measure, ...] = ("core", "bpb", "samples", "chat")
    return tuple(measure for measure in order if measure in wanted)


def asked_of(params: dict[str, Any], usual: tuple[Measure, ...], otherwise: EvaluateSpec) -> Asked:
    """Return what an evaluation with these parameters has asked; what it did not use, `otherwise` says."""
    own = {name: value for name, value in params.items() if name in EvaluateSpec.model_fields}
    spec = parse_params(EvaluateSpec, otherwise.model_dump() | own)
    return Asked(ordered(params.get("measures", usual)), spec)
