"""The parameters of MLflow runs: all of a stage's in its own run; in the parent run few, so that those stand out in
which runs differ."""

import contextlib
from collections.abc import Mapping
from typing import Any

from flows.run_names import differences
from nanochat_core import recipes
from nanochat_core.errors import NanochatError
from nanochat_core.plan import derived_numbers
from nanochat_core.spec_base import Spec
from nanochat_core.specs import PipelineSpec

LONGEST = 5000  # characters of a value; MLflow cuts at 6,000 without a word
ALWAYS = (  # fields that every parent run shows, whether they are the recipe's or not
    "recipe",
    "download.source",
    "download.seed",
    "tokenizer.vocab_size",
    "pretrain.model.arch",
    "pretrain.model.depth",
    "pretrain.model.n_embd",
    "pretrain.model.sequence_len",
    "pretrain.precision",
    "pretrain.steps",
    "pretrain.total_batch_tokens",
    "pretrain.tokens_per_parameter",
    "pretrain.optimizer.lr_scale",
    "pretrain.seed",
    "midtrain.steps",
    "midtrain.optimizer.lr_scale",
    "sft.steps",
    "sft.optimizer.lr_scale",
    "rl.steps",
    "rl.optimizer.lr_scale",
)
COMPARED = (  # of a stage's headline metrics, what the parent run shows: its page lists them by the alphabet
    "val_bpb_last",
    "val_loss_last",
    "tokens_per_second",
    "core",
    "bpb_validation",
    "chatcore",
    "identity_accuracy",
    "decline_rate",
    "false_decline_rate",
    "reward_after",
)
DERIVED = {
    "tokens": "derived.tokens",
    "flops": "derived.flops",
    "flops_per_token": "derived.flops_per_token",
}
NO_PARAMS = {"run_name", "force"}


def parent_params(spec: PipelineSpec) -> dict[str, str]:
    """Return the parameters of a pipeline run: ALWAYS, what was derived, and what differs from the recipe."""
    every = flat(spec.model_dump(mode="json"))
    params = {name: every[name] for name in ALWAYS if name in every}
    with contextlib.suppress(NanochatError, TypeError):  # a spec that was not resolved has no derived numbers
        numbers = derived_numbers(spec)
        params |= {name: f"{numbers[label]:g}" for label, name in DERIVED.items()}
    return params | changed_params(spec)


def changed_params(spec: PipelineSpec) -> dict[str, str]:
    """Return what differs from the recipe with the same source of text; nothing for an unknown recipe."""
    try:
        original = recipes.derive(recipes.recipe(spec.recipe, data=spec.download.source, path=spec.download.path))
    except NanochatError:
        return {}
    changes = {name: plain(value) for name, value in differences(original, spec) if name not in NO_PARAMS}
    return flat({name: "none" if value is None else value for name, value in changes.items()})


def plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [
            item.model_dump(mode="json", exclude_defaults=True) if isinstance(item, Spec) else item for item in value
        ]
    return value.model_dump(mode="json") if isinstance(value, Spec) else value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as dotted parameters.

    >>> flat({"model": {"depth": 4}, "seed": 42})
    {'model.depth': '4', 'seed': '42'}
    """
    params: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            params |= flat(value, f"{prefix}{name}.")
        else:
            params[f"{prefix}{name}"] = str(value)[:LONGEST]
    return params


def compared_metrics(stage: str, metrics: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return what the parent run shows of a stage: the scores that runs are compared by, and what they took.

    >>> compared_metrics("pretrain", {"val_bpb_last": 1.7, "steps": 500, "accuracy/Facts": 0.2}, 9.5)
    {'pretrain/val_bpb_last': 1.7, 'pretrain/accuracy/Facts': 0.2, 'seconds/pretrain': 9.5}
    """
    names = [name for name in metrics if name in COMPARED or name.startswith("accuracy/")]
    return {f"{stage}/{name}": metrics[name] for name in names} | {f"seconds/{stage}": seconds}
