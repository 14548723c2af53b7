"""The arms of benchmarks/quality.py: which blocks, which optimizer, which rates."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from nanochat_core import recipes
from nanochat_core.model.blocks import BLOCK_SETS, BlockSet
from nanochat_core.model.gpt import GPT
from nanochat_core.optim import scaling
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import rates_at
from nanochat_core.optim.recipe import RECIPES, Recipe
from nanochat_core.optim.schedules import muon_decay, muon_momentum, rate_multiplier
from nanochat_core.specs import Arch, PretrainSpec

StepOf = Callable[[int], None]  # does the optimizer step of this number (from 0) and clears the gradients

ADAMW_LRS = (1e-3, 3e-3, 1e-2)
ADAMW_BETAS, ADAMW_DECAY, ADAMW_WARMUP, ADAMW_CLIP = (0.9, 0.95), 0.1, 0.05, 1.0
BLOCK_ABLATIONS = ("value_embeddings", "smear", "backout", "residual_scalars", "windows")
RECIPE_ABLATIONS: dict[str, dict[str, Any]] = {"normuon": {"variance_beta": None}, "cautious": {"cautious": False}}
SQUARE_ROOT = "full_square_root"
ABLATIONS = tuple(f"full-{name}" for name in (*BLOCK_ABLATIONS, *RECIPE_ABLATIONS))


@dataclass(frozen=True)
class Trainer:
    """One arm. `adamw_lr`: torch.optim.AdamW for everything at this rate, instead of the arm's own optimizer."""

    arch: Arch
    blocks: BlockSet
    recipe: Recipe
    lr_scale: float = 1.0
    adamw_lr: float | None = None
    square_root: bool = False  # rates by the square root of the batch however small it is

    def start(self, model: GPT, steps: int, step_tokens: int) -> StepOf:
        """Return the function that does one optimizer step of `steps`, on gradients that are there."""
        if self.adamw_lr is not None:
            return adamw_steps(model, self.adamw_lr * self.lr_scale, steps)
        return self._muon_steps(model, steps, step_tokens)

    def _muon_steps(self, model: GPT, steps: int, step_tokens: int) -> StepOf:
        """The project's optimizer, with the rates that the recipe of this architecture derives for such a batch."""
        pretrain = known_recipe(self.arch)
        spec, ratio = pretrain.optimizer, pretrain.tokens_per_parameter
        decay = scaling.weight_decay(model.spec, model.vocab_size, ratio, step_tokens)
        spec = spec.model_copy(update={"lr_scale": spec.lr_scale * self.lr_scale, "weight_decay": decay})
        batch_factor = scaling.rate_batch_factor(model.spec, step_tokens)
        if self.square_root:
            batch_factor = math.sqrt(step_tokens / scaling.REFERENCE_BATCH_TOKENS)
        optimizer = MuonAdamW(model, recipe=self.recipe)

        def step_of(step: int) -> None:
            rates = rates_at(
                spec,
                model.spec.n_embd,
                rate_multiplier(spec, step, steps),
                muon_momentum(spec, step, steps),
                decay=muon_decay(spec, step, steps),
                batch_factor=batch_factor,
            )
            optimizer.step(rates, grad_clip=spec.grad_clip)

        return step_of


def known_recipe(arch: Arch) -> PretrainSpec:
    """Return the pretraining of the recipe that is known for this architecture: its rates and schedules."""
    return (recipes.classic_d20 if arch == "classic" else recipes.speedrun)().pretrain


def adamw_steps(model: nn.Module, lr: float, steps: int) -> StepOf:
    """AdamW as it is used for small GPTs: decay on the matrices of the blocks only, warm-up, linear to 0, clipping."""
    matrices = [parameter for name, parameter in model.named_parameters() if name.startswith("blocks.")]
    others = [parameter for name, parameter in model.named_parameters() if not name.startswith("blocks.")]
    groups = [{"params": matrices, "weight_decay": ADAMW_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=ADAMW_BETAS, fused=True)
    warmup = max(1, math.ceil(ADAMW_WARMUP * steps))

    def step_of(step: int) -> None:
        multiplier = min((step + 1) / warmup, (steps - step) / (steps - warmup) if steps > warmup else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * multiplier
        nn.utils.clip_grad_norm_(model.parameters(), ADAMW_CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step_of


def adamw_name(lr: float) -> str:
    return f"classic_adamw_{lr:g}"


def trainer_of(arm: str) -> Trainer:
    """Return the arm of this name; raises ValueError with the names that there are.

    >>> trainer_of("full-smear").blocks.smear, trainer_of("classic@2").lr_scale
    (False, 2.0)
    """
    name, _, scale = arm.partition("@")
    full = Trainer("full", BLOCK_SETS["full"], RECIPES["full"])
    classic = Trainer("classic", BLOCK_SETS["classic"], RECIPES["classic"])
    arms = {"full": full, "classic": classic, SQUARE_ROOT: replace(full, square_root=True)}
    arms |= {adamw_name(lr): replace(classic, adamw_lr=lr) for lr in ADAMW_LRS}
    arms |= {f"full-{field}": replace(full, blocks=replace(full.blocks, **{field: False})) for field in BLOCK_ABLATIONS}
    arms |= {f"full-{what}": replace(full, recipe=replace(full.recipe, **to)) for what, to in RECIPE_ABLATIONS.items()}
    if name not in arms:
        raise ValueError(f"There is no arm {name!r}; there are {', '.join(arms)}, each also with @FACTOR on its rates.")
    return replace(arms[name], lr_scale=float(scale or 1))
