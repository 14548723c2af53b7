"""Mid-training: the base model learns the shape of a chat. Recipes without it go from pretraining to SFT."""

from typing import get_args

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
from nanochat_core.specs import FinetuneSpec, PipelineSpec, RLSpec

CHAT_PARTS: tuple[ChatPart, ...] = get_args(ChatPart)
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


def base_model(spec: PipelineSpec, part: ChatPart) -> Stage:
    """Return the model that fine-tuning up to `part` begins with: the one that is started from, or pretraining's."""
    before: list[ChatPart] = list(CHAT_PARTS[: CHAT_PARTS.index(part) + 1])
    own = (name for name in reversed(before) if (stage := getattr(spec, name)) is not None and stage.start_from)
    name = next(own, None)
    return EARLIER_OF[name] if name else PRETRAIN


def conversations_inputs(spec: PipelineSpec, part: ChatPart) -> dict[str, Stage]:
    """Return the inputs of a stage that renders conversations: a model only where curation asks one."""
    inputs = {"tokenizer": TOKENIZER, "task_data": TASK_DATA}
    needs_model = chat_part(spec, part).conversations.curation.drop_worst_perplexity > 0
    return inputs | ({"model": base_model(spec, part)} if needs_model else {})


def conversations_for(part: ChatPart) -> Stage:
    """Return the stage that renders the conversations of midtrain, sft or rl."""
    return Stage(
        name=f"conversations_{part}",
        part=part,
        module="tasks_eval.build_conversations",
        version=2,  # spelling is asked for in several languages
        params=lambda spec: StageParams.of(chat_part(spec, part).conversations),
        inputs=lambda spec: conversations_inputs(spec, part),
    )


CONVERSATIONS = conversations_for("midtrain")
MIDTRAIN = Stage(
    name="midtrain",
    part="midtrain",
    module="nanochat_core.stages.midtrain",
    version=3,  # too long conversations are cut between messages
    params=lambda spec: StageParams.of(chat_part(spec, "midtrain"), exclude=NO_PARAMS),
    inputs=lambda spec: chat_inputs(spec, "midtrain", CONVERSATIONS, PRETRAIN),
    measured_on=lambda spec: evaluators_data(spec, "midtrain"),
    uses_torchrun=True,
)


@flow(name="midtrain", flow_run_name=named("midtrain"))
def midtrain(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Mid-train the base model."""
    return make_stages(spec, [MIDTRAIN])
