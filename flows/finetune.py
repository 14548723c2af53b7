"""Fine-tuning on conversations: mid-training, SFT, and the stages that a pipeline names itself (the field `finetune`).

Each starts from the model before it (nanochat_core/model_chain.py). RL has its conversations from here, too.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.download import TASK_DATA, evaluators_data
from flows.earlier_model import earlier_of
from flows.pipeline_run import make_stages
from flows.pretrain import PRETRAIN
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core.data.own.conversation_files import source_names, state_of_conversations
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.model_chain import OWN, model_before, training_of
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import ConversationsSpec, FinetuneSpec, PipelineSpec, RLSpec

NO_PARAMS = ("name", "after", "conversations", "start_from")  # of a spec: they are what it is called, and inputs
USUAL = ("midtrain", "sft")
VERSION = 3  # too long conversations are cut between messages


def chat_part(spec: PipelineSpec, part: str) -> FinetuneSpec | RLSpec:
    """Return the spec of midtrain, sft, rl or a stage of `finetune`; raises SpecError where the pipeline has it not."""
    value = training_of(spec, part)
    if isinstance(value, FinetuneSpec | RLSpec):
        return value
    if part in (*USUAL, "rl"):
        raise SpecError(f"The recipe {spec.recipe} has no stage {part}: choose another stage, or fill {part} in.")
    raise SpecError(f"There is no stage {part!r} in finetune{did_you_mean(part, [own.name for own in spec.finetune])}.")


def chat_inputs(spec: PipelineSpec, part: str, conversations: Stage, before: Stage | None = None) -> dict[str, Stage]:
    """Return the inputs of such a stage: its model is that of the stage `before` (of the fine-tuning before it, where
    none is given), or the one it starts from.
    """
    model = earlier_of(part) if chat_part(spec, part).start_from else before or stage_before(spec, part)
    return {"tokenizer": TOKENIZER, "conversations": conversations, "model": model}


def conversations_params(spec: ConversationsSpec) -> StageParams:
    """Files of the user's own that were written since, or are called otherwise, are others, wherever they lie."""
    items = [
        item.model_copy(update={"path": str(Path(item.path).expanduser().absolute())}) if item.path else item
        for item in spec.mixture
    ]
    params = StageParams.of(spec.model_copy(update={"mixture": tuple(items)}))
    states = {item.path: state_of_conversations(Path(item.path)) for item in items if item.path}
    for item, source, counted in zip(items, source_names(items), params.output["mixture"], strict=True):
        del counted["path"]
        if item.path:
            counted["file"] = [source, states[item.path]]
    return replace(params, full=params.full | ({"own_files": states} if states else {}))


def conversations_inputs(spec: PipelineSpec, part: str, conversations: ConversationsSpec) -> dict[str, Stage]:
    """Return the inputs of a stage that renders conversations: a model only where curation asks one."""
    inputs = {"tokenizer": TOKENIZER, "task_data": TASK_DATA}
    needs_model = conversations.curation.drop_worst_perplexity > 0
    return inputs | ({"model": base_model(spec, part)} if needs_model else {})


def base_model(spec: PipelineSpec, part: str) -> Stage:
    """Return the model that the trainings up to `part` began with: one that is started from, or pretraining's."""
    while part != PRETRAIN.part:
        training = training_of(spec, part)
        if training is not None and training.start_from:
            return earlier_of(part)
        part = model_before(spec, part).part
    return PRETRAIN


def conversations_for(part: str, conversations: Callable[[PipelineSpec], ConversationsSpec] | None = None) -> Stage:
    """Return the stage that renders the conversations of a part: those of its spec, or the given ones."""
    asked = conversations or (lambda spec: chat_part(spec, part).conversations)
    return Stage(
        name=f"conversations_{part}",
        part=part,
        module="tasks_eval.build_conversations",
        version=3,  # sums end as those of GSM8K
        params=lambda spec: conversations_params(asked(spec)),
        inputs=lambda spec: conversations_inputs(spec, part, asked(spec)),
    )


@functools.cache  # equal names are one stage
def finetuning(part: str) -> Stage:
    """Return the stage midtrain, sft, or the one of that name in `finetune`."""
    conversations = conversations_for(part)
    return Stage(
        name=part if part in USUAL else f"{OWN}{part}",
        part=part,
        module=f"nanochat_core.stages.{'midtrain' if part == 'midtrain' else 'sft'}",
        version=VERSION,
        params=lambda spec: StageParams.of(chat_part(spec, part), exclude=NO_PARAMS),
        inputs=lambda spec: chat_inputs(spec, part, conversations),
        measured_on=lambda spec: evaluators_data(spec, part),
        uses_torchrun=True,
    )


def stage_before(spec: PipelineSpec, part: str) -> Stage:
    """Return the stage whose model comes before that of `part`: pretraining, or one of fine-tuning."""
    before = model_before(spec, part)
    return PRETRAIN if before.stage == PRETRAIN.name else finetuning(before.part)


MIDTRAIN, SFT = map(finetuning, USUAL)


@flow(name="midtrain", flow_run_name=named("midtrain"))
def midtrain(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Mid-train the base model."""
    return make_stages(spec, [MIDTRAIN])


@flow(name="sft", flow_run_name=named("sft"))
def sft(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Fine-tune the chat model."""
    return make_stages(spec, [SFT])


@flow(name="finetune", flow_run_name=named("finetune"))
def finetune(spec: PipelineSpec = demo(), name: str | None = None) -> list[StageOutcome]:  # noqa: B008 - as above
    """Fine-tune on conversations as the stages of `finetune` say.

    Args:
        spec: the pipeline
        name: the one stage to run, with what it needs; empty: all of them
    """
    names = [name] if name else [own.name for own in spec.finetune]
    if not names:
        raise SpecError("The pipeline has no stage in finetune: give it one, with a name and its conversations.")
    for own in names:
        chat_part(spec, own)  # refuses a name that the pipeline does not have
    return make_stages(spec, [finetuning(own) for own in names])
