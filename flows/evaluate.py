"""Evaluation of each model of the pipeline: CORE and bits per byte for base, chat tasks for the others."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prefect import flow

from flows.download import DOWNLOAD, TASK_DATA
from flows.midtrain import MIDTRAIN
from flows.pipeline_run import make_stages
from flows.preferences import DPO
from flows.pretrain import PRETRAIN
from flows.rl import RL
from flows.run_names import named
from flows.sft import SFT
from flows.stage import Stage, StageOutcome, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import EvaluateSpec, ModelName, PipelineSpec

Measure = Literal["core", "bpb", "samples", "chat"]
VERSION = 3  # gallery.json; intervals of the parts of a task, rates of identity
MODULE = "tasks_eval.run"
MEASURES: Mapping[ModelName, tuple[Measure, ...]] = {
    "base": ("core", "bpb", "samples"),
    "mid": ("chat",),
    "sft": ("chat",),
    "dpo": ("chat",),
    "rl": ("chat",),
}
FIELDS: Mapping[Measure, tuple[str, ...]] = {
    "core": ("core_tasks", "core_examples"),
    "bpb": ("bpb_tokens",),
    "samples": (),
    "chat": (
        "chat_tasks",
        "chat_examples",
        "max_new_tokens",
        "num_samples",
        "temperature",
        "top_k",
        "tool",
        "allow_unsafe_code",
    ),
}


def evaluation_params(spec: EvaluateSpec, measures: Sequence[Measure], **about: Any) -> StageParams:
    """Return what an evaluation is told. Fields that it does not use do not make it run again."""
    unused = [field for measure, fields in FIELDS.items() if measure not in measures for field in fields]
    return StageParams.of(spec, exclude=unused, measures=list(measures), **about)


def evaluation_of(model_name: ModelName, model: Stage, measures: Sequence[Measure] | None = None) -> Stage:
    """Return the stage that evaluates what `model` makes; by default, as the pipeline does."""
    measured = measures or MEASURES[model_name]
    inputs = {"tokenizer": TOKENIZER, "task_data": TASK_DATA, "model": model}
    inputs |= {"text": DOWNLOAD} if "bpb" in measured else {}
    return Stage(
        name=f"evaluate_{model_name}",
        part="evaluate",
        module=MODULE,
        version=VERSION,
        params=lambda spec: evaluation_params(spec.evaluate, measured, model_name=model_name),
        inputs=lambda spec: inputs,
        uses_torchrun=True,
    )


BASE = evaluation_of("base", PRETRAIN)
MID = evaluation_of("mid", MIDTRAIN)
CHAT = evaluation_of("sft", SFT)
AFTER_DPO = evaluation_of("dpo", DPO)
AFTER_RL = evaluation_of("rl", RL)


def evaluations(spec: PipelineSpec) -> list[Stage]:
    """Return an evaluation for each model that the pipeline makes."""
    optional = [(spec.dpo, AFTER_DPO), (spec.rl, AFTER_RL)]
    return [BASE, *([MID] if spec.midtrain else []), CHAT, *(stage for part, stage in optional if part)]


@flow(name="evaluate", flow_run_name=named("evaluate"))
def evaluate(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Evaluate every model of the pipeline."""
    return make_stages(spec, evaluations(spec))
