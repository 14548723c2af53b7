"""Evaluation of each model of the pipeline: CORE and bits per byte for base, chat tasks for the others."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from prefect import flow

from flows.download import DOWNLOAD, TASK_DATA
from flows.finetune import finetuning
from flows.pipeline_run import make_stages
from flows.preferences import DPO, REWARD_MODEL
from flows.pretrain import PRETRAIN
from flows.rl import RL
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core.model_chain import Model, models_of
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import EvaluateSpec, PipelineSpec

Measure = Literal["core", "bpb", "samples", "chat"]
VERSION = 3  # gallery.json; intervals of the parts of a task, rates of identity
MODULE = "tasks_eval.run"
OF_BASE: tuple[Measure, ...] = ("core", "bpb", "samples")
OF_CHAT: tuple[Measure, ...] = ("chat",)
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


GALLERY_FIELDS = ("max_new_tokens", "top_k", "tool")  # its questions are answered by every model, in the same way


def evaluation_params(spec: EvaluateSpec, measures: Sequence[Measure], **about: Any) -> StageParams:
    """Return what an evaluation is told. Fields that it does not use do not make it run again."""
    needed = set(GALLERY_FIELDS if spec.gallery_prompts else ()).union(*(FIELDS[measure] for measure in measures))
    unused = {field for fields in FIELDS.values() for field in fields} - needed
    return StageParams.of(spec, exclude=sorted(unused), measures=list(measures), **about)


def usual_measures(model: Model) -> tuple[Measure, ...]:
    """Return how the pipeline measures a model."""
    return OF_CHAT if model.is_chat else OF_BASE


def stage_making(model: Model) -> Stage:
    """Return the stage that trains a model."""
    own = {stage.name: stage for stage in (PRETRAIN, REWARD_MODEL, DPO, RL)}
    return own.get(model.stage) or finetuning(model.part)


@functools.cache  # equal questions are one stage
def evaluation_of(model: Model, measures: tuple[Measure, ...] | None = None) -> Stage:
    """Return the stage that evaluates a model; by default, as the pipeline does."""
    measured = measures or usual_measures(model)
    inputs = {"tokenizer": TOKENIZER, "task_data": TASK_DATA, "model": stage_making(model)}
    inputs |= {"text": DOWNLOAD} if "bpb" in measured else {}
    return Stage(
        name=f"evaluate_{model.name}",
        part="evaluate",
        module=MODULE,
        version=VERSION,
        params=lambda spec: evaluation_params(spec.evaluate, measured, model_name=model.name),
        inputs=lambda spec: inputs,
        uses_torchrun=True,
    )


def evaluations(spec: PipelineSpec) -> list[Stage]:
    """Return an evaluation for each model that the pipeline makes and that says something."""
    return [evaluation_of(model) for model in models_of(spec) if model.is_speaking]


def trained_and_evaluated(spec: PipelineSpec) -> Iterator[Stage]:
    """Yield the training of each model that the pipeline makes, and its evaluation after it."""
    for model in models_of(spec):
        yield stage_making(model)
        if model.is_speaking:
            yield evaluation_of(model)


@flow(name="evaluate", flow_run_name=named("evaluate"))
def evaluate(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Evaluate every model of the pipeline."""
    return make_stages(spec, evaluations(spec))
