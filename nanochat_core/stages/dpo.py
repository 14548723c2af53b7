"""Direct preference optimization: `torchrun -m nanochat_core.stages.dpo <folder>/spec.json`.

In: `tokenizer`, `preferences` and `model`, whose answers are also the reference. Out: the last checkpoint.
"""

from nanochat_core.artifacts import StageFolder, run_stage
from nanochat_core.distributed import joined_world, rank_from_environment
from nanochat_core.preference_specs import DPOSpec
from nanochat_core.specs import parse_params
from nanochat_core.training.dpo import reference_scorers
from nanochat_core.training.evaluators import Evaluations
from nanochat_core.training.pair_training import PairStage, with_prepared_pairs


def optimize(folder: StageFolder) -> None:
    """Train the input model to prefer what people chose, and write checkpoints and result."""
    spec = parse_params(DPOSpec, with_prepared_pairs(folder.request.params))
    with joined_world() as world:
        stage = PairStage.open(folder, spec, world)
        evaluations = Evaluations.of(folder, spec.evaluators, stage.model, stage.tokenizer, world)
        stage.train(reference_scorers(stage, spec.beta), evaluations)


if __name__ == "__main__":
    run_stage(optimize, is_main=rank_from_environment() == 0)
