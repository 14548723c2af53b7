"""Pairs of a question's reference answer and the model's own wrong one, sampled for DPO and the reward model.

Where both ask for the same, the pairs are made once: they are one stage then.
"""

from typing import Literal

from flows.earlier_model import earlier_of
from flows.finetune import conversations_for, stage_before
from flows.stage import Stage, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core.errors import SpecError
from nanochat_core.preference_specs import PairTrainingSpec, SampledPairsSpec
from nanochat_core.specs import PipelineSpec

PairPart = Literal["dpo", "reward_model"]
NO_PARAMS = ("conversations",)  # they are an input


def pair_part(spec: PipelineSpec, part: PairPart) -> PairTrainingSpec:
    """Return the spec of dpo or reward_model; raises SpecError where the recipe leaves the stage out."""
    value: PairTrainingSpec | None = getattr(spec, part)
    if value is None:
        raise SpecError(f"The recipe {spec.recipe} has no stage {part}: choose another stage, or fill {part} in.")
    return value


def sampled_of(spec: PipelineSpec, part: PairPart) -> SampledPairsSpec:
    sampled = pair_part(spec, part).preferences.sampled
    assert sampled is not None, f"the pairs of {part} are read from a file"
    return sampled


def model_of(spec: PipelineSpec, part: PairPart) -> Stage:
    """Return what makes the model that dpo or reward_model starts from: the one before it, or the one that it names."""
    return earlier_of(part) if pair_part(spec, part).start_from else stage_before(spec, part)


def sampled_pairs_of(spec: PipelineSpec, part: PairPart) -> Stage:
    """Return the stage that samples the pairs of dpo or reward_model; it has one name for both where it is one."""
    is_second = part == "reward_model" and spec.dpo is not None and spec.dpo.preferences.sampled is not None
    if is_second and _wanted(spec, "dpo") == _wanted(spec, part):
        return sampled_pairs_of(spec, "dpo")
    conversations = conversations_for(part, lambda spec: sampled_of(spec, part).conversations)
    return Stage(
        name="sampled_pairs_reward_model" if is_second else "sampled_pairs",
        part=part,
        module="nanochat_core.stages.sampled_pairs",
        version=1,
        params=lambda spec: StageParams.of(sampled_of(spec, part), exclude=NO_PARAMS),
        inputs=lambda spec: {"tokenizer": TOKENIZER, "conversations": conversations, "model": model_of(spec, part)},
        uses_torchrun=True,
    )


def _wanted(spec: PipelineSpec, part: PairPart) -> tuple[SampledPairsSpec, str | None]:
    return sampled_of(spec, part), pair_part(spec, part).start_from
