"""The report alone, of what a spec's stages have made so far. The pipeline writes it at its end in any case."""

from pathlib import Path

from prefect import flow

from flows.contamination import CONTAMINATION
from flows.evaluate import evaluations
from flows.pipeline_run import PipelineRun
from flows.run_names import named
from nanochat_core.errors import DataError
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec


@flow(name="report", flow_run_name=named("report"))
def write_report(spec: PipelineSpec = demo()) -> Path:  # noqa: B008 - frozen; it fills the form in the UI
    """Write the report of the stages that are finished, running none; raises DataError where none is."""
    with PipelineRun(spec) as run:
        for stage in (*evaluations(run.spec), CONTAMINATION):
            run.find(stage)
        if not run.outcomes:
            raise DataError("No stage of this spec is finished, so there is nothing to report. Run the pipeline first.")
        return run.report()
