"""Which questions of the evaluation stand in the training text: a stage of its own, on the CPU, before the report."""

from prefect import flow

from flows.download import DOWNLOAD, TASK_DATA
from flows.pipeline_run import make_stages
from flows.run_names import named
from flows.stage import Stage, StageOutcome, StageParams
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import ContaminationSpec, PipelineSpec
from nanochat_core.task_table import GENERATED


def contamination_spec(spec: PipelineSpec) -> ContaminationSpec:
    """Return what to look for, by default what is evaluated and was not made by rule.

    Where the pipeline leaves the stage out, who asks for it gets it as it is by default.
    """
    asked, evaluated = spec.contamination or ContaminationSpec(), spec.evaluate
    chat, core = asked.chat_tasks, asked.core_tasks
    if chat is None:
        chat = tuple(task for task in evaluated.chat_tasks if task not in GENERATED)
    if core is None:
        core = evaluated.core_tasks if evaluated.core_examples else ()
    return asked.model_copy(update={"chat_tasks": chat, "core_tasks": core})


CONTAMINATION = Stage(
    name="contamination",
    part="contamination",
    module="tasks_eval.contamination.search",
    version=1,
    params=lambda spec: StageParams.of(contamination_spec(spec)),
    inputs=lambda spec: {"text": DOWNLOAD, "task_data": TASK_DATA},
)


@flow(name="contamination", flow_run_name=named("contamination"))
def contamination(spec: PipelineSpec = demo()) -> list[StageOutcome]:  # noqa: B008 - frozen; it fills the form in the UI
    """Search the training text for the questions of the evaluation."""
    return make_stages(spec, [CONTAMINATION])
