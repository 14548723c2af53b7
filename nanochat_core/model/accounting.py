"""How big a model is and what it costs, computed from its shape alone. Torch-free: flows and `nanochat plan` use it.

L layers, C width, H query heads, K key/value heads of D channels each, V vocabulary, T sequence length.
What it takes in memory: `model/memory.py`.
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
    short = short_window(model)
    pattern = [FULL_WINDOW_PATTERN[layer % 4] for layer in range(model.depth - 1)] + ["L"]
    return [model.sequence_len if kind == "L" else short for kind in pattern]


def short_window(model: ModelSpec) -> int:
    """Return how many keys the short layers of `full` see: as given, or T/4 rounded up to a multiple of 128.

    >>> short_window(ModelSpec(arch="full")), short_window(ModelSpec(arch="full", sequence_len=8192, short_window=512))
    (512, 512)
    """
    return model.short_window or -(-model.sequence_len // 4 // 128) * 128


def kv_width(model: ModelSpec) -> int:
    """Return K·D: the channels of a token's keys in one layer, and of its values.

    >>> kv_width(ModelSpec(depth=12)), kv_width(ModelSpec(depth=12, n_kv_head=2))
    (768, 256)
    """
    model = derive_shape(model)
    return model.n_embd // model.n_head * model.n_kv_head


def parameter_counts(model: ModelSpec, vocab_size: int) -> dict[str, int]:
    """Return the number of parameters by group, and their "total".

    Each layer has W_q, W_o (C x C), W_k, W_v (K·D x C), W_1 and W_2 (C x 4C); embedding and head have V·C each. `full`
    adds a table of V·K·D to every second layer, with a gate of 12·K; and scalars: r and z of each layer, the smear's 24
    weights and its scale, the backout's. V is the vocabulary: rows that only pad a table in memory are not counted.

    >>> parameter_counts(ModelSpec(depth=20), 65_536)["total"]
    560988160
    >>> parameter_counts(ModelSpec(arch="full", depth=12), 32_768)["value_embeddings"]
    150994944
    """
    model = derive_shape(model)
    c, kv = model.n_embd, kv_width(model)
    counts = {
        "embedding": vocab_size * c,
        "head": vocab_size * c,
        "matrices": model.depth * (2 * c * c + 2 * c * kv + 8 * c * c),
    }
    if model.arch == "full":
        layers = len(value_embedding_layers(model.depth))
        counts["matrices"] += layers * VALUE_GATE_CHANNELS * model.n_kv_head
        counts["value_embeddings"] = layers * vocab_size * kv
        counts["scalars"] = 2 * model.depth + SMEAR_CHANNELS + 2
    return counts | {"total": sum(counts.values())}


def scaling_parameters(model: ModelSpec, vocab_size: int) -> int:
    """Return the count that sets the horizon: all parameters for classic, matrices and head for full."""
    counts = parameter_counts(model, vocab_size)
    return counts["total"] if model.arch == "classic" else counts["matrices"] + counts["head"]


def flops_per_token(model: ModelSpec, vocab_size: int) -> int:
    """Return the FLOPs of a training step for each token, forward and backward.

    A weight that multiplies costs 2 FLOPs forward and 4 backward: 6 for each of the matrices, the head and the smear.
    Tables that are only looked up cost none. Attention costs 12·C for each of a layer's w keys, the causal half not
    taken off (Chowdhery et al. 2022, appendix B).

    >>> round(flops_per_token(ModelSpec(depth=20), 65_536) / 1e9, 2)
    3.49
    """
    model = derive_shape(model)
    counts = parameter_counts(model, vocab_size)
    smear = SMEAR_CHANNELS if model.arch == "full" else 0
    return 6 * (counts["matrices"] + counts["head"] + smear) + 12 * model.n_embd * sum(attention_windows(model))


def kv_bytes_per_token(model: ModelSpec, bytes_per_value: int = 2) -> int:
    """Return what a token adds to the cache of keys and values, in all layers: 2·L·K·D values.

    >>> kv_bytes_per_token(ModelSpec(depth=20))
    102400
    """
    return 2 * model.depth * kv_width(model) * bytes_per_value


def kv_bytes_per_row(model: ModelSpec, context: int, bytes_per_value: int = 2) -> int:
    """Return what the keys and values of one row of `context` tokens take.

    A layer with a window of w keys needs the newest w + 1 tokens only, a layer that sees the whole row all of them.

    >>> kv_bytes_per_row(ModelSpec(arch="full", depth=24), 2048), 2048 * kv_bytes_per_token(ModelSpec(depth=24))
    (132231168, 301989888)
    """
    kept = [
        context if window == model.sequence_len else min(context, window + 1) for window in attention_windows(model)
    ]
    return 2 * sum(kept) * kv_width(model) * bytes_per_value
