"""The tokenizer, learned from the pretraining text."""

from prefect import flow

from flows.download import tokenizer_text
from flows.pipeline_run import make_stages
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec

TOKENIZER = Stage(
    name="tokenizer",
    part="tokenizer",
    module="nanochat_core.stages.tokenizer",
    version=2,  # learned by rustbpe
    params=lambda spec: StageParams.of(spec.tokenizer),
    inputs=lambda spec: {"text": tokenizer_text(spec)},
)


@flow(name="train-tokenizer", flow_run_name=named("train-tokenizer"))
def train_tokenizer(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Train the tokenizer."""
    return make_stages(spec, [TOKENIZER])
