"""Learning from preferences: pairs of answers, DPO on them, and the reward model that RL can be asked to please."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.download import evaluators_data
from flows.pipeline_run import make_stages
from flows.run_names import named
from flows.sampled_pairs import PairPart, model_of, pair_part, sampled_pairs_of
from flows.stage import Stage, StageOutcome, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core.data.own.preference_files import state_of_preferences
from nanochat_core.preference_specs import PairTrainingSpec
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec

NO_PARAMS = ("preferences", "start_from")  # of a spec: they are inputs of the stage


def preferences_for(part: PairPart) -> Stage:
    """Return the stage that prepares the pairs of dpo or reward_model."""
    return Stage(
        name=f"preferences_{part}",
        part=part,
        module="nanochat_core.data.preference_pairs",
        version=1,
        params=lambda spec: preferences_params(pair_part(spec, part)),
        inputs=lambda spec: preferences_inputs(spec, part),
    )


def preferences_params(part: PairTrainingSpec) -> StageParams:
    """Pairs that were written since are others, wherever they lie; of sampled ones all is in the input."""
    if part.preferences.path is None:
        return StageParams({}, {})
    params = StageParams.of(part.preferences, exclude=("path", "sampled"))
    place = Path(part.preferences.path).expanduser().absolute()
    pairs = {"pairs": state_of_preferences(place)}
    return replace(params, full=params.full | {"path": str(place)} | pairs, output=params.output | pairs)


def preferences_inputs(spec: PipelineSpec, part: PairPart) -> dict[str, Stage]:
    is_sampled = pair_part(spec, part).preferences.sampled is not None
    return {"tokenizer": TOKENIZER} | ({"pairs": sampled_pairs_of(spec, part)} if is_sampled else {})


def pair_inputs(part: PairPart) -> Callable[[PipelineSpec], dict[str, Stage]]:
    """Return what makes the inputs of dpo or reward_model."""
    preferences = preferences_for(part)
    return lambda spec: {"tokenizer": TOKENIZER, "preferences": preferences, "model": model_of(spec, part)}


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
