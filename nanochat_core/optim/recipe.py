"""How each architecture is optimized: AdamW's groups with their constants, and Muon's variant.

classic: nanochat, October 2025. full: nanochat, July 2026 (Polar Express, Amsel et al. 2025; NorMuon, Li et al. 2025;
cautious decay, Liang et al. 2024). Rates are in the spec; the groups below scale them.
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from nanochat_core.specs import Arch

Group = Literal["embedding", "head", "value_embedding", "residual_scale", "input_scale", "smear_backout", "matrix"]

EPS = 1e-10


@dataclass(frozen=True)
class AdamWGroup:
    """Constants of one group: the betas, and the decay (a share of the rate, decoupled)."""

    betas: tuple[float, float] = (0.8, 0.95)
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Muon's variant and AdamW's groups.

    polar_express: five steps with coefficients of their own, after the rows were given one norm; else Newton-Schulz.
    variance_beta: of NorMuon's mean square of each row (column); None: without. cautious: decay only where it goes the
    way of the update.
    """

    polar_express: bool
    variance_beta: float | None
    cautious: bool
    groups: MappingProxyType[str, AdamWGroup] = field(default_factory=lambda: MappingProxyType({}))

    def group(self, name: Group) -> AdamWGroup:
        return self.groups.get(name, AdamWGroup())


CLASSIC = Recipe(polar_express=False, variance_beta=None, cautious=False)
FULL = Recipe(
    polar_express=True,
    variance_beta=0.9,
    cautious=True,
    groups=MappingProxyType(
        {
            "embedding": AdamWGroup((0.8, 0.995), 0.001),
            "head": AdamWGroup((0.8, 0.96), 0.01),
            "value_embedding": AdamWGroup((0.8, 0.995), 0.01),
            "residual_scale": AdamWGroup((0.8, 0.95), 0.05),
            "input_scale": AdamWGroup((0.96, 0.95)),
        }
    ),
)
RECIPES: dict[Arch, Recipe] = {"classic": CLASSIC, "full": FULL}

_GROUP_OF: dict[str, Group] = {
    "wte": "embedding",
    "lm_head": "head",
    "reward_head": "head",
    "value_embeds": "value_embedding",
    "residual_scale": "residual_scale",
    "input_scale": "input_scale",
    "smear_gate": "smear_backout",
    "smear_scale": "smear_backout",
    "backout_scale": "smear_backout",
    "blocks": "matrix",
}


def group_of(parameter: str) -> Group:
    """Return the group of a parameter of `GPT` by its name.

    >>> group_of("value_embeds.3.weight"), group_of("blocks.0.attn.value_gate.weight")
    ('value_embedding', 'matrix')
    """
    return _GROUP_OF[parameter.split(".")[0]]
