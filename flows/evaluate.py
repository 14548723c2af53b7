"""Evaluation of each model of the pipeline: CORE and bits per byte for base, chat tasks for the others."""

from prefect import flow

from flows.download import DOWNLOAD, TASK_DATA
from flows.midtrain import MIDTRAIN
from flows.pipeline_run import make_stages
from flows.pretrain import PRETRAIN
from flows.rl import RL
from flows.run_names import named
from flows.sft import SFT
from flows.stage import Stage, StageOutcome, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import ModelName, PipelineSpec

BASE_FIELDS = ("core_tasks", "core_examples", "bpb_tokens")
CHAT_FIELDS = ("chat_tasks", "chat_examples", "max_new_tokens", "num_samples", "temperature", "top_k")


def evaluation_of(model_name: ModelName, model: Stage) -> Stage:
    """Return the stage that evaluates what `model` makes. Fields that it does not use do not make it run again."""
    is_base = model_name == "base"
    unused = CHAT_FIELDS if is_base else BASE_FIELDS
    inputs = {"tokenizer": TOKENIZER, "task_data": TASK_DATA, "model": model} | ({"text": DOWNLOAD} if is_base else {})
    return Stage(
        name=f"evaluate_{model_name}",
        part="evaluate",
        module="tasks_eval.run",
        version=1,
        params=lambda spec: StageParams.of(spec.evaluate, exclude=unused, model_name=model_name),
        inputs=lambda spec: inputs,
        uses_torchrun=True,
    )


BASE = evaluation_of("base", PRETRAIN)
MID = evaluation_of("mid", MIDTRAIN)
CHAT = evaluation_of("sft", SFT)
AFTER_RL = evaluation_of("rl", RL)


def evaluations(spec: PipelineSpec) -> list[Stage]:
    """Return an evaluation for each model that the pipeline makes."""
    return [BASE, *([MID] if spec.midtrain else []), CHAT, *([AFTER_RL] if spec.rl else [])]


@flow(name="evaluate", flow_run_name=named("evaluate"))
def evaluate(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Evaluate every model of the pipeline."""
    return make_stages(spec, evaluations(spec))
