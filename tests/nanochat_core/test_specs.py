"""What a user may set, and what it does to a fingerprint."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from nanochat_core import recipes, specs
from nanochat_core.curation_spec import CurationSpec
from nanochat_core.errors import SpecError
from nanochat_core.spec_base import Spec
from nanochat_core.specs import with_changes


def runtime_names(kind: type[Spec], mark: str = "runtime") -> set[str]:
    return {
        name
        for name, info in kind.model_fields.items()
        if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get(mark)
    }


def test_fields_that_change_how_it_runs_stay_out_of_the_output_params_and_all_others_are_in() -> None:
    spec = recipes.recipe("demo")
    for part in (spec.download, spec.pretrain, spec.sft, spec.rl, spec.evaluate, spec.tokenizer):
        left_out = runtime_names(type(part)) | runtime_names(type(part), "added")
        assert set(part.output_params()) == set(type(part).model_fields) - left_out
    assert runtime_names(specs.PretrainSpec) == {"evaluators", "runtime"}
    assert runtime_names(specs.TrainingRuntime) == set(specs.TrainingRuntime.model_fields)
    assert runtime_names(specs.LaunchSpec) == set(specs.LaunchSpec.model_fields)


def test_a_field_that_came_late_leaves_the_fingerprint_alone_at_its_default_only() -> None:
    sft = recipes.recipe("demo").sft
    assert runtime_names(specs.FinetuneSpec, "added") == {"keep_optimizer"}
    assert runtime_names(specs.ConversationsSpec, "added") == {"curation"}
    changed = sft.model_copy(update={"keep_optimizer": True})
    assert changed.output_params() == sft.output_params() | {"keep_optimizer": True}
    curation = CurationSpec(drop_duplicates=True)
    conversations = sft.conversations.model_copy(update={"curation": curation})
    assert conversations.output_params()["curation"] == curation.output_params()


def leaves(spec: Spec, path: tuple[str, ...] = (), is_runtime: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Yield (dotted name, value, whether it or a group above it is a runtime field) of every field."""
    for name, value in spec:
        hidden = is_runtime or name in runtime_names(type(spec))
        if isinstance(value, Spec):
            yield from leaves(value, (*path, name), hidden)
        else:
            yield ".".join((*path, name)), value, hidden


CHOICES: dict[str, Any] = {
    "arch": ["full"],
    "batching": ("stream", "padded"),
    "chat_tasks": [("x",)],
    "contamination": [{}],
    "core_tasks": [("x",)],
    "custom_path": ["other"],
    "datasets": [("mmlu",)],
    "documents_path": ["other"],
    "device": ["cpu"],
    "evaluators": [({"name": "core", "every": 7},)],
    "finetune": [({"name": "own", "conversations": {"mixture": [{"path": "own.jsonl"}]}},)],
    "force": [("sft",)],
    "gallery_prompts": [("x",)],
    "logprobs": ["full"],
    "match_lengths": [("x",)],
    "mask": ("none", "assistant"),
    "mode": ("local", "multinode"),
    "dpo": [{"preferences": {"path": "pairs.jsonl"}}],
    "reward_model": [{"preferences": {"path": "pairs.jsonl"}}],
    "momentum_final": [0.9],
    "mixture": [({"task": "Other"},)],
    "order": ("sequence",),
    "packing": ("stream", "best_fit"),
    "persona_path": ["other"],
    "precision": ("bf16", "fp32"),
    "shard_tasks": ("processes", "threads"),
    "source": ("path", "local"),
    "start_from": ["pretrain/0123456789abcdef"],
    "steps": [7],
    "tokens": ("cached", "on_the_fly"),
}


def other_value(name: str, value: Any) -> Any:
    """Return another valid value of the field."""
    leaf = name.split(".")[-1]
    if leaf in CHOICES:
        return next(choice for choice in CHOICES[leaf] if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 0.75 or 0.25 if isinstance(value, float) else value + 2
    return "other" if isinstance(value, str) or leaf in ("path", "run_name", "rdzv_endpoint", "dask_address") else 32


def test_a_field_changes_the_output_params_unless_it_is_a_runtime_field() -> None:
    spec = recipes.resolve(recipes.recipe("demo"))
    fields = list(leaves(spec))
    assert len(fields) > 100
    wrong = [
        name
        for name, value, is_runtime in fields
        if (with_changes(spec, {name: other_value(name, value)}).output_params() == spec.output_params()) != is_runtime
    ]
    assert wrong == []


def test_a_nested_field_can_be_changed() -> None:
    assert with_changes(recipes.recipe("demo"), {"pretrain.model.depth": 6}).pretrain.model.depth == 6


def test_all_that_is_wrong_is_said_at_once_with_the_nearest_names() -> None:
    with pytest.raises(SpecError) as error:
        with_changes(recipes.recipe("demo"), {"pretrain.model.dept": 6, "sft.bach_rows": 1, "nonsense.x": 2})
    text = str(error.value)
    assert "did you mean 'depth'?" in text
    assert "did you mean 'batch_rows'?" in text
    assert "nonsense" in text


def test_a_bad_value_is_refused_with_its_field() -> None:
    with pytest.raises(SpecError, match=r"pretrain\.model\.depth: .*\(got 0\)"):
        with_changes(recipes.recipe("demo"), {"pretrain.model.depth": 0})


def test_every_field_has_a_description_and_says_what_it_is_when_empty() -> None:
    kinds = [value for value in vars(specs).values() if isinstance(value, type) and issubclass(value, Spec)]
    assert len(kinds) > 12
    for kind in kinds:
        for name, info in kind.model_fields.items():
            assert info.description, f"{kind.__name__}.{name}"
            is_optional = info.default is None or type(None) in get_args(info.annotation)
            assert ("empty: " in info.description) == is_optional or name == "rdzv_endpoint", f"{kind.__name__}.{name}"
