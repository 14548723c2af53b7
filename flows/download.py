"""The pretraining text, and the data sets that conversations and benchmarks are made from."""

from prefect import flow

from flows.pipeline_run import make_stages
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec

DOWNLOAD = Stage(
    name="download",
    part="download",
    module="nanochat_core.data.download",
    version=1,
    params=lambda spec: StageParams.of(spec.download),
    reads_hub=True,
)


def task_data_inputs(spec: PipelineSpec) -> dict[str, Stage]:
    """Without the Hub, words come from the pretraining text."""
    return {} if spec.task_data.source == "hub" else {"text": DOWNLOAD}


TASK_DATA = Stage(
    name="task_data",
    part="task_data",
    module="nanochat_core.data.task_data",
    version=1,
    params=lambda spec: StageParams.of(spec.task_data),
    inputs=task_data_inputs,
    reads_hub=True,
)


@flow(name="download", flow_run_name=named("download"))
def download(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Fetch the pretraining text and the data sets of the tasks."""
    return make_stages(spec, [DOWNLOAD, TASK_DATA])
