"""The whole DAG, from raw text to a report on a chat model. What is finished is reused, what is not goes on."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prefect import Flow, flow

from flows import evaluate
from flows.contamination import CONTAMINATION, contamination
from flows.download import TASK_DATA, download
from flows.finetune import midtrain, sft
from flows.pipeline_run import PipelineRun
from flows.preferences import dpo, reward_model
from flows.pretrain import pretrain
from flows.rl import rl
from flows.run_names import named
from flows.stage import StageOutcome
from flows.train_tokenizer import train_tokenizer
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec

STAGE_FLOWS = {
    "download": download,
    "task_data": download,
    "tokenizer": train_tokenizer,
    "pretrain": pretrain,
    "midtrain": midtrain,
    "sft": sft,
    "dpo": dpo,
    "reward_model": reward_model,
    "rl": rl,
    "evaluate": evaluate.evaluate,
    "contamination": contamination,
}


@dataclass(frozen=True)
class PipelineResult:
    """What a run has made or reused, in order, and the folder of its report."""

    run_name: str
    outcomes: list[StageOutcome]
    report: Path


@flow(name="nanochat", flow_run_name=named())
def pipeline(spec: PipelineSpec = demo()) -> PipelineResult:  # noqa: B008 - frozen; it fills the form in the UI
    """Make a chat model from raw text, evaluate it at every stage, and write the report."""
    with PipelineRun(spec) as run:
        run.make(TASK_DATA, *evaluate.trained_and_evaluated(spec))  # a stage's inputs come first: text and tokenizer
        if spec.contamination:
            run.make(CONTAMINATION)
        report = run.report()
    return PipelineResult(run.name, list(run.outcomes.values()), report)


@functools.cache  # prefect.yaml has every recipe read recipe_flows.py once more
def pipeline_of(recipe: Callable[[], PipelineSpec]) -> Flow[[PipelineSpec], PipelineResult]:
    """Return the same flow with a form that stands on the values of `recipe`; what that derives is empty in it."""

    def run(spec: PipelineSpec = recipe()) -> PipelineResult:  # noqa: B008 - frozen; it fills the form in the UI
        return pipeline.fn(spec)

    run.__doc__ = recipe.__doc__
    return flow(name=pipeline.name, flow_run_name=pipeline.flow_run_name)(run)
