"""Pairs of reference answers and a finished model's wrong ones, without a pipeline: `nanochat data pairs`.

The stage is the pipeline's, with the same cache.
"""

from prefect import flow
from prefect.runtime import flow_run

from flows.earlier_model import earlier_of
from flows.lineage import Lineage, lineage_of
from flows.model_ref import find_model
from flows.pipeline_run import PipelineRun
from flows.sampled_pairs import sampled_pairs_of
from flows.stage import StageOutcome
from nanochat_core import conflicts, paths
from nanochat_core.errors import SpecError
from nanochat_core.model_chain import base_alone
from nanochat_core.preference_specs import DPOSpec, PreferencesSpec, SampledPairsSpec
from nanochat_core.recipes import derive
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec


def name_run() -> str:
    return f"pairs of {flow_run.parameters['model']}"


@flow(name="model-pairs", flow_run_name=name_run)
def model_pairs(model: str, sampled: SampledPairsSpec) -> StageOutcome:
    """Return the pairs of a model by its name, or folder; they are sampled where they are not there yet."""
    base = paths.base_dir()
    lineage = lineage_of(find_model(model, base).model, base)
    spec = spec_for(lineage, sampled)
    given = {name: lineage.outcomes[name] for name in ("tokenizer", "task_data")}
    with PipelineRun(spec, given=given | {earlier_of("dpo").name: lineage.model}) as run:
        return run.outcome(sampled_pairs_of(spec, "dpo"))


def spec_for(lineage: Lineage, sampled: SampledPairsSpec) -> PipelineSpec:
    """Return a pipeline that samples pairs of this model. Raises SpecError that lists all that cannot work."""
    own = base_alone(demo())
    dpo = DPOSpec(start_from=str(lineage.model.folder), preferences=PreferencesSpec(sampled=sampled))
    spec = own.model_copy(
        update={
            "recipe": "unknown",
            "run_name": f"pairs-{lineage.stage}-{lineage.model.fingerprint[:8]}",
            "task_data": lineage.task_data,
            "pretrain": own.pretrain.model_copy(update={"model": lineage.shape}),
            "dpo": dpo,
        }
    )
    derived = derive(spec)
    found = [*conflicts.conflicts(derived), *conflicts.obstacles(derived, gpus=0)]
    field = "dpo.preferences.sampled."
    if problems := [line.removeprefix(field) for line in found if line.startswith(field)]:
        raise SpecError.listing(problems)
    return spec
