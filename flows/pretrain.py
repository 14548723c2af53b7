"""Pretraining: the base model, from text."""

from collections.abc import Mapping
from pathlib import Path

from prefect import flow

from flows.download import DOWNLOAD, evaluators_data
from flows.earlier_model import earlier_of
from flows.pipeline_run import make_stages
from flows.run_names import named
from flows.shard_tasks import ShardTask, ShardTasks
from flows.stage import Stage, StageOutcome, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec


def tokenise_shards(tasks: ShardTasks, spec: PipelineSpec, inputs: Mapping[str, Path]) -> list[ShardTask]:
    """Begin with the shards that are there as soon as the tokenizer is; none where text is encoded on the fly."""
    if spec.pretrain.runtime.tokens == "on_the_fly":
        return []
    return tasks.tokenise(inputs["tokenizer"], inputs.get("text"))


def pretrain_inputs(spec: PipelineSpec) -> dict[str, Stage]:
    """Return tokenizer, text (which goes on coming while the first is made) and the model to go on from, if any."""
    inputs = {"tokenizer": TOKENIZER, "text": DOWNLOAD}
    return inputs | ({"model": earlier_of("pretrain")} if spec.pretrain.start_from else {})


PRETRAIN = Stage(
    name="pretrain",
    part="pretrain",
    module="nanochat_core.stages.pretrain",
    version=2,  # rows come in another order
    params=lambda spec: StageParams.of(spec.pretrain, exclude=["start_from"]),  # an input instead
    inputs=pretrain_inputs,
    measured_on=lambda spec: evaluators_data(spec, "pretrain"),
    uses_torchrun=True,
    shard_tasks=tokenise_shards,
)


@flow(name="pretrain", flow_run_name=named("pretrain"))
def pretrain(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Pretrain the base model."""
    return make_stages(spec, [PRETRAIN])
