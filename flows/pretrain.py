"""Pretraining: the base model, from text."""

from prefect import flow

from flows.download import DOWNLOAD
from flows.pipeline_run import make_stages
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from flows.train_tokenizer import TOKENIZER
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec

PRETRAIN = Stage(
    name="pretrain",
    part="pretrain",
    module="nanochat_core.stages.pretrain",
    version=1,
    params=lambda spec: StageParams.of(spec.pretrain),
    inputs=lambda spec: {"text": DOWNLOAD, "tokenizer": TOKENIZER},
    uses_torchrun=True,
)


@flow(name="pretrain", flow_run_name=named("pretrain"))
def pretrain(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Pretrain the base model."""
    return make_stages(spec, [PRETRAIN])
