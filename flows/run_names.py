"""What a flow run is called in Prefect's UI: its recipe, its depth, and what differs from the recipe.

demo-d6                                     another depth, nothing else
sft-demo-d4 sft.steps=3 midtrain=none       the stage alone
"""

import contextlib
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from prefect.runtime import flow_run
from pydantic import TypeAdapter

from nanochat_core import recipes
from nanochat_core.errors import SpecError
from nanochat_core.spec_base import Spec
from nanochat_core.specs import PipelineSpec

JSON: TypeAdapter[Any] = TypeAdapter(Any)
LENGTH = 56  # what the heading of a run has room for
VALUE_CHARACTERS = 24
IN_THE_NAME = ("recipe", "run_name", "pretrain.model.depth")  # said already, or what the user calls it


def named(stage: str | None = None) -> Callable[[], str]:
    """Return what Prefect calls to name a run of a flow whose parameter `spec` is a PipelineSpec."""
    return lambda: run_name_of(flow_run.parameters["spec"], stage)


def run_name_of(spec: PipelineSpec, stage: str | None = None) -> str:
    """Return the name of a flow run: as many changes as fit into LENGTH characters, and how many more there are.

    >>> from nanochat_core.specs import with_changes
    >>> run_name_of(with_changes(recipes.recipe("demo"), {"pretrain.model.depth": 6, "sft.steps": 3}))
    'demo-d6 sft.steps=3'
    """
    name = "-".join([*([stage] if stage else []), spec.recipe, f"d{spec.pretrain.model.depth}"])
    changes = [f"{field}={value}" for field, value in what_is_new(spec).items()]
    for shown, change in enumerate(changes):
        if len(name) + len(change) >= LENGTH:
            return f"{name} +{len(changes) - shown}"
        name = f"{name} {change}"
    return name


def what_is_new(spec: PipelineSpec) -> dict[str, str]:
    """Return {field: value in short} of what differs from the recipe, in the form's order.

    Recipe, run name and depth stay out: the run's name has them. So does what a recipe changes along with the source
    of its text. An unknown recipe has nothing to compare with.

    >>> from nanochat_core.specs import with_changes
    >>> what_is_new(with_changes(recipes.recipe("demo"), {"midtrain": None, "sft.optimizer.lr_scale": 0.5}))
    {'midtrain': 'none', 'sft.optimizer.lr_scale': '0.5'}
    """
    if spec.recipe not in recipes.RECIPES:
        return {}
    is_other_source, found = changes_of(spec)
    news = {"download.source": spec.download.source} if is_other_source else {}
    return {name: short(value) for name, value in (news | found).items() if name not in IN_THE_NAME}


def command_of(spec: PipelineSpec) -> str:
    """Return the command that asks for this spec in a terminal, without what it forces to run again.

    >>> from nanochat_core.specs import with_changes
    >>> command_of(with_changes(recipes.recipe("demo"), {"pretrain.model.depth": 6, "sft.steps": 3}))
    'nanochat run demo --set=pretrain.model.depth=6 --set=sft.steps=3'
    """
    words = ["nanochat", "run", spec.recipe]
    if spec.recipe not in recipes.RECIPES:
        return shlex.join(words)
    is_other_source, found = changes_of(spec)
    if is_other_source:
        words += ["--data", spec.download.source]
        words += ["--data-path", spec.download.path] if spec.download.path else []
    for name, value in found.items():
        if name not in ("recipe", "force"):
            words.append(f"--set={name}={JSON.dump_json(value, exclude_defaults=True).decode()}")
    return shlex.join(words)


def changes_of(spec: PipelineSpec) -> tuple[bool, dict[str, Any]]:
    """Return whether the text comes from another source than the recipe's, and {field: value} of all else that differs.

    A recipe changes some fields along with the source of its text; these count as the recipe's.
    """
    original = recipes.recipe(spec.recipe)
    if original.download.source != spec.download.source:
        with contextlib.suppress(SpecError):  # a source that the recipe refuses is news like any other
            same_source = recipes.recipe(spec.recipe, data=spec.download.source, path=spec.download.path)
            return True, dict(differences(same_source, spec))
    return False, dict(differences(original, spec))


def differences(old: Spec, new: Spec, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted field, new value) where two specs of one kind differ; a group that only one has, as a whole."""
    for name in type(new).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, Spec) and isinstance(after, Spec):
            yield from differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}", after


def short(value: Any) -> str:
    """Return a value in a few characters.

    Of what has a name, that.

    >>> short(None), short(20_000_000), short(("sft", "rl")), short("a very long name of a data set")
    ('none', '20000000', 'sft,rl', 'a very long name of a d…')
    """
    if value is None:
        return "none"
    if isinstance(value, Spec):
        return "changed"
    if isinstance(value, tuple):
        names = [str(getattr(item, "name", item)) for item in value if isinstance(item, str) or hasattr(item, "name")]
        text = ",".join(names) if len(names) == len(value) else f"{len(value)} items"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 1]}…"
