"""Mid-training: the base model learns the shape of a chat. Recipes without it go from pretraining to SFT."""

from collections.abc import Callable

from prefect import flow

from flows.download import TASK_DATA, evaluators_data
from flows.earlier_model import EARLIER_OF, ChatPart
from flows.pipeline_run import make_stages
from flows.pretrain import PRETRAIN
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core import specs
from nanochat_core.errors import SpecError
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import ConversationsSpec, FinetuneSpec, PipelineSpec, RLSpec

NO_PARAMS = ("conversations", "start_from")  # of a spec: they are inputs of the stage


def chat_part(spec: PipelineSpec, part: specs.Stage) -> FinetuneSpec | RLSpec:
    """Return the spec of midtrain, sft or rl; raises SpecError where the recipe leaves the stage out."""
    value: FinetuneSpec | RLSpec | None = getattr(spec, part)
    if value is None:
        raise SpecError(f"The recipe {spec.recipe} has no stage {part}: choose another stage, or fill {part} in.")
    return value


def chat_inputs(spec: PipelineSpec, part: ChatPart, conversations: Stage, before: Stage) -> dict[str, Stage]:
    """Return the inputs of midtrain, sft or rl: its model is that of the stage `before`, or the one it starts from."""
    model = EARLIER_OF[part] if chat_part(spec, part).start_from else before
    return {"tokenizer": TOKENIZER, "conversations": conversations, "model": model}


def conversations_for(
    part: specs.Stage, conversations: Callable[[PipelineSpec], ConversationsSpec] | None = None
) -> Stage:
    """Return the stage that renders the conversations of a part: those of its spec, or the given ones."""
    asked = conversations or (lambda spec: chat_part(spec, part).conversations)
    return Stage(
        name=f"conversations_{part}",
        part=part,
        module="tasks_eval.build_conversations",
        version=2,  # spelling is asked for in several languages
        params=lambda spec: StageParams.of(asked(spec)),
        inputs=lambda spec: {"tokenizer": TOKENIZER, "task_data": TASK_DATA},
    )


CONVERSATIONS = conversations_for("midtrain")
MIDTRAIN = Stage(
    name="midtrain",
    part="midtrain",
    module="nanochat_core.stages.midtrain",
    version=2,  # longer rows extend the model's context
    params=lambda spec: StageParams.of(chat_part(spec, "midtrain"), exclude=NO_PARAMS),
    inputs=lambda spec: chat_inputs(spec, "midtrain", CONVERSATIONS, PRETRAIN),
    measured_on=lambda spec: evaluators_data(spec, "midtrain"),
    uses_torchrun=True,
)


@flow(name="midtrain", flow_run_name=named("midtrain"))
def midtrain(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Mid-train the base model."""
    return make_stages(spec, [MIDTRAIN])
