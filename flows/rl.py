"""Reinforcement learning on questions that a reward can grade, from the model before."""

from prefect import flow

from flows.download import evaluators_data
from flows.finetune import NO_PARAMS, chat_inputs, chat_part, conversations_for
from flows.pipeline_run import make_stages
from flows.preferences import DPO, REWARD_MODEL
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec

CONVERSATIONS = conversations_for("rl")
REWARD_MODEL_REWARD = "preference"  # as the reward model is registered in nanochat.rewards


def rl_inputs(spec: PipelineSpec) -> dict[str, Stage]:
    inputs = chat_inputs(spec, "rl", CONVERSATIONS, DPO if spec.dpo else None)
    is_pleasing = spec.rl is not None and spec.rl.reward == REWARD_MODEL_REWARD
    return inputs | ({"reward_model": REWARD_MODEL} if is_pleasing else {})


RL = Stage(
    name="rl",
    part="rl",
    module="nanochat_core.stages.rl",
    version=3,  # what answers begin with is computed once: other roundings
    params=lambda spec: StageParams.of(chat_part(spec, "rl"), exclude=NO_PARAMS),
    inputs=rl_inputs,
    measured_on=lambda spec: evaluators_data(spec, "rl"),
    uses_torchrun=True,
)


@flow(name="rl", flow_run_name=named("rl"))
def rl(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Improve the chat model by its own graded answers."""
    return make_stages(spec, [RL])
