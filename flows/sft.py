"""Supervised fine-tuning: the chat model, from the mid-trained one, or from the base where there is no other."""

from prefect import flow

from flows.download import evaluators_data
from flows.midtrain import MIDTRAIN, NO_PARAMS, chat_inputs, chat_part, conversations_for
from flows.pipeline_run import make_stages
from flows.pretrain import PRETRAIN
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec

CONVERSATIONS = conversations_for("sft")


def sft_inputs(spec: PipelineSpec) -> dict[str, Stage]:
    return chat_inputs(spec, "sft", CONVERSATIONS, PRETRAIN if spec.midtrain is None else MIDTRAIN)


SFT = Stage(
    name="sft",
    part="sft",
    module="nanochat_core.stages.sft",
    version=3,  # too long conversations are cut between messages
    params=lambda spec: StageParams.of(chat_part(spec, "sft"), exclude=NO_PARAMS),
    inputs=sft_inputs,
    measured_on=lambda spec: evaluators_data(spec, "sft"),
    uses_torchrun=True,
)


@flow(name="sft", flow_run_name=named("sft"))
def sft(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Fine-tune the chat model."""
    return make_stages(spec, [SFT])
