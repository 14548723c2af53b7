"""How big a model is and what it costs, computed from its shape alone. Torch-free: flows and `nanochat plan` use it.

L layers, C width, H query heads, V vocabulary, T sequence length. Formulas: README of the parameters in `model/gpt.py`;
a matrix of m x n costs 2mn FLOPs a token forward and twice that backward; attention 12·C·w for a window of w keys
(forward and backward, without the causal half), as in the PaLM paper's appendix B.
"""

from nanochat_core.specs import ModelSpec

VALUE_GATE_CHANNELS = 12
SMEAR_CHANNELS = 24
FULL_WINDOW_PATTERN = "SSSL"


def width(model: ModelSpec) -> int:
    """Return C: as given, or 64 x depth rounded up to a multiple of 128.

    >>> width(ModelSpec(depth=20)), width(ModelSpec(depth=3))
    (1280, 256)
    """
    return model.n_embd or -(-64 * model.depth // 128) * 128


def derive_shape(model: ModelSpec) -> ModelSpec:
    """Return the spec with width and heads filled in."""
    n_embd = width(model)
    n_head = model.n_head or -(-n_embd // 128)
    return model.model_copy(
        update={"n_embd": n_embd, "n_head": n_head, "n_kv_head": model.n_kv_head or n_head},
    )


def value_embedding_layers(depth: int) -> list[int]:
    """Return the layers with a value embedding (`arch: full`): every second one, the last always."""
    return [layer for layer in range(depth) if layer % 2 == (depth - 1) % 2]


def attention_windows(model: ModelSpec) -> list[int]:
    """Return how many keys each layer sees: T everywhere for classic; SSSL tiled, the last one long, for full."""
    if model.arch == "classic":
        return [model.sequence_len] * model.depth
    short = -(-model.sequence_len // 4 // 128) * 128
    pattern = [FULL_WINDOW_PATTERN[layer % 4] for layer in range(model.depth - 1)] + ["L"]
    return [model.sequence_len if kind == "L" else short for kind in pattern]


def parameter_counts(model: ModelSpec, vocab_size: int) -> dict[str, int]:
    """Return the number of parameters by group, and their "total".

    >>> parameter_counts(ModelSpec(depth=20), 65_536)["total"]
    560988160
    """
    model = derive_shape(model)
    c, n_head, n_kv_head = model.n_embd, model.n_head, model.n_kv_head
    kv_width = c // n_head * n_kv_head
    counts = {
        "embedding": vocab_size * c,
        "head": vocab_size * c,
        "matrices": model.depth * (2 * c * c + 2 * c * kv_width + 8 * c * c),
    }
    if model.arch == "full":
        layers = len(value_embedding_layers(model.depth))
        counts["matrices"] += layers * VALUE_GATE_CHANNELS * n_kv_head
        counts["value_embeddings"] = layers * vocab_size * kv_width
        counts["scalars"] = 2 * model.depth + SMEAR_CHANNELS + 2
    return counts | {"total": sum(counts.values())}


def scaling_parameters(model: ModelSpec, vocab_size: int) -> int:
    """Return the count that sets the horizon: all parameters for classic, matrices and head for full."""
    counts = parameter_counts(model, vocab_size)
    return counts["total"] if model.arch == "classic" else counts["matrices"] + counts["head"]


def flops_per_token(model: ModelSpec, vocab_size: int) -> int:
    """Return the FLOPs of a training step for each token, forward and backward.

    >>> round(flops_per_token(ModelSpec(depth=20), 65_536) / 1e9, 2)
    3.49
    """
    model = derive_shape(model)
    counts = parameter_counts(model, vocab_size)
    smear = SMEAR_CHANNELS if model.arch == "full" else 0
    return 6 * (counts["matrices"] + counts["head"] + smear) + 12 * model.n_embd * sum(attention_windows(model))
