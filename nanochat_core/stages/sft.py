"""Supervised fine-tuning (SFT): `torchrun -m nanochat_core.stages.sft <folder>/spec.json`."""

from nanochat_core.artifacts import run_stage
from nanochat_core.distributed import rank_from_environment
from nanochat_core.training.finetune import finetune

if __name__ == "__main__":
    run_stage(finetune, is_main=rank_from_environment() == 0)
