"""What cannot work in the stages of fine-tuning that a pipeline names itself, and in mixtures that name files.

A part of `conflicts.py`: each problem as "field: what it is, what is expected". Torch-free.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from nanochat_core.errors import did_you_mean
from nanochat_core.model_chain import RESERVED, trainings
from nanochat_core.preference_specs import PairTrainingSpec
from nanochat_core.specs import ConversationsSpec, FinetuneSpec, PipelineSpec, RLSpec, Stage


def own_stages(spec: PipelineSpec) -> Iterator[str]:
    """Say which names are taken, and which stages come after one that is left out."""
    names = [own.name for own in spec.finetune]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"finetune: {name!r} is there more than once; give each stage a name of its own"
    for own in spec.finetune:
        if own.name in RESERVED:
            yield f"finetune: {own.name!r} means a stage or model of every pipeline; choose another name"
        if getattr(spec, own.after) is None:
            yield f"finetune.{own.name}.after: {own.after} is left out of this pipeline; fill it in, or choose another"


def forced_stages(spec: PipelineSpec) -> Iterator[str]:
    """Say which stages cannot be forced, for the pipeline has none of that name."""
    left_out = {name for name in ("midtrain", "dpo", "reward_model", "rl", "contamination") if not getattr(spec, name)}
    known = {*get_args(Stage), *(own.name for own in spec.finetune)} - left_out
    for stage in spec.force:
        if stage in left_out:
            yield f"force: the stage {stage} is left out of this pipeline; fill {stage} in, or take it off the list"
        elif stage not in known:
            yield f"force: there is no stage {stage!r}{did_you_mean(stage, known)}"


def conversations_of(spec: PipelineSpec) -> dict[str, ConversationsSpec]:
    """Return {field: conversations} of every training that has some, and of those that sample pairs from them."""
    found = {}
    for field, training in trainings(spec).items():
        if isinstance(training, FinetuneSpec | RLSpec):
            found[f"{field}.conversations"] = training.conversations
        elif isinstance(training, PairTrainingSpec) and training.preferences.sampled:
            found[f"{field}.preferences.sampled.conversations"] = training.preferences.sampled.conversations
    return found


def mixture_items(field: str, conversations: ConversationsSpec) -> Iterator[str]:
    """Say which items name no task and no file, or both."""
    for number, item in enumerate(conversations.mixture, start=1):
        if (item.task is None) == (item.path is None):
            found = f"both {item.task!r} and {item.path!r}" if item.task else "neither"
            yield f"{field}.mixture: item {number} names {found}; expected a task, or the path of a file"


def missing_files(spec: PipelineSpec) -> Iterator[str]:
    """Say which files of mixtures are not on this machine."""
    for field, conversations in conversations_of(spec).items():
        for path in dict.fromkeys(item.path for item in conversations.mixture if item.path):
            if not is_there(path):
                yield f"{field}.mixture: there is no {path!r} on this machine"


def is_there(path: str) -> bool:
    """Tell whether there is a file or folder of this name; what is no name at all is not there.

    >>> is_there("~no-such-user/pairs.jsonl"), is_there("a" * 5000), is_there("/")
    (False, False, True)
    """
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user's home, a null byte
        return False
