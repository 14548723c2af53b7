"""Learning from preferences: pairs of answers, DPO on them, and the reward model that RL can be asked to please."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from prefect import flow

from flows.download import evaluators_data
from flows.earlier_model import earlier_of
from flows.finetune import stage_before
from flows.pipeline_run import make_stages
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core.data.own.preference_files import state_of_preferences
from nanochat_core.errors import SpecError
from nanochat_core.preference_specs import PairTrainingSpec
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec

PairPart = Literal["dpo", "reward_model"]
NO_PARAMS = ("preferences", "start_from")  # of a spec: they are inputs of the stage


def pair_part(spec: PipelineSpec, part: PairPart) -> PairTrainingSpec:
    """Return the spec of dpo or reward_model; raises SpecError where the recipe leaves the stage out."""
    value: PairTrainingSpec | None = getattr(spec, part)
    if value is None:
        raise SpecError(f"The recipe {spec.recipe} has no stage {part}: choose another stage, or fill {part} in.")
    return value


def preferences_for(part: PairPart) -> Stage:
    """Return the stage that prepares the pairs of dpo or reward_model."""
    return Stage(
        name=f"preferences_{part}",
        part=part,
        module="nanochat_core.data.preference_pairs",
        version=1,
        params=lambda spec: preferences_params(pair_part(spec, part)),
        inputs=lambda spec: {"tokenizer": TOKENIZER},
    )


def preferences_params(part: PairTrainingSpec) -> StageParams:
    """Pairs that were written since are others, wherever they lie."""
    params = StageParams.of(part.preferences, exclude=("path",))
    place = Path(part.preferences.path).expanduser().absolute()
    return replace(
        params,
        full=params.full | {"path": str(place)},
        output=params.output | {"pairs": state_of_preferences(place)},
    )


def pair_inputs(part: PairPart) -> Callable[[PipelineSpec], dict[str, Stage]]:
    """Return what makes the inputs of dpo or reward_model: the model is that before it, or the one it starts from."""
    preferences = preferences_for(part)

    def inputs(spec: PipelineSpec) -> dict[str, Stage]:
        model = earlier_of(part) if pair_part(spec, part).start_from else stage_before(spec, part)
        return {"tokenizer": TOKENIZER, "preferences": preferences, "model": model}

    return inputs


DPO = Stage(
    name="dpo",
    part="dpo",
    module="nanochat_core.stages.dpo",
    version=1,
    params=lambda spec: StageParams.of(pair_part(spec, "dpo"), exclude=NO_PARAMS),
    inputs=pair_inputs("dpo"),
    measured_on=lambda spec: evaluators_data(spec, "dpo"),
    uses_torchrun=True,
)
REWARD_MODEL = Stage(
    name="reward_model",
    part="reward_model",
    module="nanochat_core.stages.reward_model",
    version=1,
    params=lambda spec: StageParams.of(pair_part(spec, "reward_model"), exclude=NO_PARAMS),
    inputs=pair_inputs("reward_model"),
    uses_torchrun=True,
)


@flow(name="dpo", flow_run_name=named("dpo"))
def dpo(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Teach the chat model to prefer the answers that people chose."""
    return make_stages(spec, [DPO])


@flow(name="reward_model", flow_run_name=named("reward_model"))
def reward_model(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Train a model that says how much people would like an answer."""
    return make_stages(spec, [REWARD_MODEL])
