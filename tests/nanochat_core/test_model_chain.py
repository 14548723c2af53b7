"""Which models a pipeline makes, in which order, and what each starts from."""

from typing import Any

import pytest

from nanochat_core.model_chain import (
    CALLED,
    MODELS,
    base_alone,
    made_by,
    model_before,
    models_of,
    own_model,
    trainings,
)
from nanochat_core.recipes import RECIPES, recipe
from nanochat_core.specs import OwnFinetuneSpec, PipelineSpec, with_changes

CONVERSATIONS = {"mixture": [{"path": "own.jsonl"}]}
PAIRS = {"preferences": {"path": "pairs.jsonl"}}
OWN = [
    {"name": name, "conversations": CONVERSATIONS, "after": after}
    for name, after in (("dolly", "sft"), ("alpaca", "pretrain"), ("notes", "midtrain"), ("manners", "sft"))
]
WHOLE = {"finetune": OWN, "dpo": PAIRS, "reward_model": PAIRS}


def pipeline(**changes: Any) -> PipelineSpec:
    return with_changes(recipe("demo"), WHOLE | changes)


def names(spec: PipelineSpec) -> list[str]:
    return [model.name for model in models_of(spec)]


def test_own_stages_stand_behind_the_one_they_name_in_their_order() -> None:
    usual = ["base", "mid", "sft", "rl"]
    assert names(recipe("demo")) == usual
    with_own = ["base", "alpaca", "mid", "notes", "sft", "dolly", "manners", "reward_model", "dpo", "rl"]
    assert names(pipeline()) == with_own
    assert [field.split(".")[0] for field in trainings(pipeline())] == [
        *("pretrain", "finetune", "midtrain", "finetune", "sft", "finetune", "finetune", "reward_model", "dpo", "rl")
    ]


@pytest.mark.parametrize(
    ("part", "before"),
    [
        ("alpaca", "base"),
        ("midtrain", "alpaca"),
        ("notes", "mid"),
        ("sft", "notes"),
        ("dolly", "sft"),
        ("manners", "dolly"),
        ("dpo", "manners"),
        ("reward_model", "manners"),
        ("rl", "dpo"),
    ],
)
def test_each_training_starts_from_the_model_before_and_none_from_a_reward_model(part: str, before: str) -> None:
    assert model_before(pipeline(), part).name == before
    if part == "rl":
        assert model_before(pipeline(dpo=None), part).name == "manners"


def test_a_model_is_known_by_its_stage() -> None:
    for model in [*MODELS, own_model("dolly-15k")]:
        assert made_by(model.stage) == model
    assert made_by("conversations_dolly") is made_by("evaluate_sft") is None
    assert own_model("dolly").part == "dolly" and own_model("dolly").field == "finetune.dolly"
    assert all(model.part == model.field == model.stage for model in MODELS)
    assert list(CALLED) == ["base", "mid", "sft", "dpo", "rl"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_base_alone_has_nothing_that_may_be_left_out(name: str) -> None:
    assert names(base_alone(with_changes(recipe(name), {"finetune": OWN[:2]}))) == ["base", "sft"]


def test_a_name_and_a_file_are_enough() -> None:
    own = OwnFinetuneSpec.model_validate({"name": "dolly", "conversations": {"mixture": [{"path": "dolly.jsonl"}]}})
    assert own.after == "sft" and own.batching == "packed", "rows of any number of conversations"
