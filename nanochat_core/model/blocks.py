"""What `arch` switches: the two block sets, and what each is made of.

`classic` is nanochat's plain transformer of October 2025, `full` that of July 2026. Taking one ingredient away from
`full` (`dataclasses.replace(FULL, smear=False)`) is how docs/experiments.md finds out what each is worth.
"""

from dataclasses import dataclass

from nanochat_core.specs import Arch, ModelSpec


@dataclass(frozen=True)
class BlockSet:
    """The ingredients of a model.

    rope_base: of the rotary positions (Su et al. 2021). qk_gain: factor on the normalised queries and on the keys.
    value_embeddings: every second layer adds a gated table of token values to v (Zhou et al. 2024). smear: each
    embedding takes a share of the one before. backout: the stream of the middle layer is taken away again at the end.
    residual_scalars: each layer scales the stream and adds the embedding again. windows: most layers see few keys.
    padded_vocab: tables have a multiple of this many rows.
    """

    rope_base: float
    qk_gain: float
    value_embeddings: bool
    smear: bool
    backout: bool
    residual_scalars: bool
    windows: bool
    padded_vocab: int


CLASSIC = BlockSet(
    rope_base=10_000.0,
    qk_gain=1.0,
    value_embeddings=False,
    smear=False,
    backout=False,
    residual_scalars=False,
    windows=False,
    padded_vocab=1,
)
FULL = BlockSet(
    rope_base=100_000.0,
    qk_gain=1.2,
    value_embeddings=True,
    smear=True,
    backout=True,
    residual_scalars=True,
    windows=True,
    padded_vocab=64,
)
BLOCK_SETS: dict[Arch, BlockSet] = {"classic": CLASSIC, "full": FULL}


def rope_base(model: ModelSpec, blocks: BlockSet | None = None) -> float:
    """Return the base of the rotary positions: the model's own (model/context.py), or that of its block set.

    >>> rope_base(ModelSpec()), rope_base(ModelSpec(rope_base=4e5))
    (10000.0, 400000.0)
    """
    return model.rope_base or (blocks or BLOCK_SETS[model.arch]).rope_base
