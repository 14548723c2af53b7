"""The reward model: `torchrun -m nanochat_core.stages.reward_model <folder>/spec.json`.

In: `tokenizer`, `preferences` and `model`, a chat model that it begins with. Out: the last checkpoint.
"""

from nanochat_core.artifacts import StageFolder, run_stage
from nanochat_core.distributed import joined_world, rank_from_environment
from nanochat_core.model.reward_model import RewardModel
from nanochat_core.preference_specs import RewardModelSpec
from nanochat_core.specs import parse_params
from nanochat_core.training.pair_training import FILES, PairStage, with_prepared_pairs
from nanochat_core.training.reward_scorer import score_by_head


def learn_rewards(folder: StageFolder) -> None:
    """Teach the input model, with a head of one number, which answers people chose; write checkpoints and result."""
    spec = parse_params(RewardModelSpec, with_prepared_pairs(folder.request.params))
    with joined_world() as world:
        stage = PairStage.open(folder, spec, world, RewardModel.of)
        stage.train(dict.fromkeys(FILES, score_by_head))


if __name__ == "__main__":
    run_stage(learn_rewards, is_main=rank_from_environment() == 0)
