"""The pretraining text, and the data sets that conversations and benchmarks are made from."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.pipeline_run import make_stages
from flows.run_names import named
from flows.shard_tasks import ShardTask, ShardTasks
from flows.stage import Stage, StageOutcome, StageParams
from nanochat_core import recipes
from nanochat_core.data.own.conversation_files import state_of_conversations
from nanochat_core.data.own.persona import state_of_file
from nanochat_core.data.own.text_places import state_of
from nanochat_core.model_chain import training_of
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec


def fetch_shards(tasks: ShardTasks, spec: PipelineSpec, inputs: Mapping[str, Path]) -> list[ShardTask]:
    return tasks.fetch(spec.download) if spec.download.source == "hub" else []


def fetch_first_shards(tasks: ShardTasks, spec: PipelineSpec, inputs: Mapping[str, Path]) -> list[ShardTask]:
    return tasks.fetch(recipes.tokenizer_text(spec))


def download_params(spec: PipelineSpec) -> StageParams:
    """Files of the user's own that were written since are another text."""
    params = StageParams.of(spec.download)
    if spec.download.source != "path" or not spec.download.path:
        return params
    return replace(params, output=params.output | {"files": state_of(Path(spec.download.path).expanduser())})


DOWNLOAD = Stage(
    name="download",
    part="download",
    module="nanochat_core.data.download",
    version=2,  # index.json has the shards' hashes
    params=download_params,
    reads_hub=True,
    shard_tasks=fetch_shards,
)
FIRST_DOWNLOAD = replace(  # so that the tokenizer waits for few shards, and more of them do not train it again
    DOWNLOAD,
    name="download_first",
    params=lambda spec: StageParams.of(recipes.tokenizer_text(spec)),
    shard_tasks=fetch_first_shards,
)


def tokenizer_text(spec: PipelineSpec) -> Stage:
    """Return the stage whose text the tokenizer learns from: that of pretraining, where it needs all of it."""
    return DOWNLOAD if recipes.tokenizer_text(spec) == spec.download else FIRST_DOWNLOAD


def task_data_inputs(spec: PipelineSpec) -> dict[str, Stage]:
    """Without the Hub, words come from the pretraining text."""
    return {} if spec.task_data.source == "hub" else {"text": DOWNLOAD}


OWN_DATA: dict[str, tuple[str, Callable[[Path], str | None]]] = {  # field: its name in a fingerprint, what is hashed
    "custom_path": ("custom", state_of_conversations),
    "persona_path": ("persona", state_of_file),
    "documents_path": ("documents", state_of),
}


def task_data_params(spec: PipelineSpec) -> StageParams:
    """What the user brings along and has written since is another data set, wherever it lies."""
    params = StageParams.of(spec.task_data, exclude=tuple(OWN_DATA))
    for field, (name, state) in OWN_DATA.items():
        if place := getattr(spec.task_data, field):
            path = Path(place).expanduser().absolute()
            params = StageParams(params.full | {field: str(path)}, params.output | {name: state(path)})
    return params


TASK_DATA = Stage(
    name="task_data",
    part="task_data",
    module="nanochat_core.data.task_data",
    version=1,
    params=task_data_params,
    inputs=task_data_inputs,
    reads_hub=True,
)


def evaluators_data(spec: PipelineSpec, part: str) -> dict[str, Stage]:
    """Return what the evaluators of a training stage read, where it has any."""
    return {"task_data": TASK_DATA} if getattr(training_of(spec, part), "evaluators", ()) else {}


@flow(name="download", flow_run_name=named("download"))
def download(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Fetch the pretraining text and the data sets of the tasks."""
    return make_stages(spec, [DOWNLOAD, TASK_DATA])
