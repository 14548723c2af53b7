"""What training and inference take in memory, estimated from a model's shape alone, and the micro-batch that fits.

Torch-free: `nanochat plan` shows it, and training starts its search for a device batch size here. Weights, gradients
and optimizer state are counted; activations are derived from what the backward pass of `model/gpt.py` needs (a test
compares them with what autograd saves). Left out, and covered by what MEMORY_SHARE leaves free: the CUDA context,
buffers of collectives, the optimizer's temporaries, the fragments of the allocator.

L layers, C width, K·D channels of the keys, V rows of a table, T sequence length, W ranks.
"""

from dataclasses import asdict, dataclass

from nanochat_core.model.accounting import (
    attention_windows,
    derive_shape,
    kv_bytes_per_row,
    kv_width,
    parameter_counts,
    value_embedding_layers,
)
from nanochat_core.model.blocks import BLOCK_SETS
from nanochat_core.model.query_blocks import MOST_KEYS, scores_of
from nanochat_core.specs import ModelSpec, Precision

MEMORY_SHARE = 0.9  # of a device's memory that is planned with
LOGIT_ROWS_CUDA, LOGIT_ROWS_CPU = 4096, 128  # rows of logits that exist at a time (model/loss.py)
MOST_ROWS_CPU = 32  # more rows at a time gain nothing there
BYTES_PER_LOGIT = 8  # a float32 and its gradient
EDGE_CHANNELS = 16  # outside the layers: ~4C of embedding, smear and end, ~12C of one layer's gradients on their way


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one device, by what they hold."""

    parameters: int
    gradients: int
    optimizer: int
    low_precision_weights: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes on one device, by what they hold."""

    weights: int
    kv_cache: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.logits


def training_memory(
    model: ModelSpec, vocab_size: int, *, micro_rows: int, precision: Precision, ranks: int = 1, is_cuda: bool = True
) -> TrainingMemory:
    """Return what one rank takes while it trains on micro-batches of `micro_rows` rows.

    - parameters: 4 bytes each, all of them on every rank; embedding and value embeddings are bf16 on CUDA unless
      everything is fp32.
    - gradients: as the parameters.
    - optimizer, shared by the ranks: two moments of the tables' and scalars' dtype (AdamW); of the matrices one float32
      momentum (Muon) and, in `full`, one float32 for each row or column, whichever are more (NorMuon).
    - low-precision weights: the copies of matrices and head that products use and that the backward pass keeps, in
      bf16, or twice in FP8, by rows and by columns.
    - activations and logits: `activation_bytes_per_token`; the logits of one chunk of rows.

    >>> memory = training_memory(ModelSpec(depth=20), 65_536, micro_rows=32, precision="bf16", ranks=8)
    >>> memory.parameters, round(memory.total / 2**30, 1)
    (2076180480, 65.8)
    """
    model = derive_shape(model)
    has_small_tables = is_cuda and precision != "fp32"
    table_bytes = 2 if has_small_tables else 4
    counts = parameter_counts(model, padded_rows(model, vocab_size))
    tables = counts["embedding"] + counts.get("value_embeddings", 0)
    others = counts["head"] + counts.get("scalars", 0)
    parameters = table_bytes * tables + 4 * (others + counts["matrices"])
    state = 2 * (table_bytes * tables + 4 * others) + 4 * counts["matrices"]
    if model.arch == "full":
        state += 4 * 12 * model.n_embd * model.depth  # q, k, v, o: C each; both of the MLP: 4C
    tokens = micro_rows * model.sequence_len
    chunk_rows = min(tokens, LOGIT_ROWS_CUDA if is_cuda else LOGIT_ROWS_CPU)
    return TrainingMemory(
        parameters=parameters,
        gradients=parameters,
        optimizer=-(-state // ranks),
        low_precision_weights=(0 if precision == "fp32" else 2) * (counts["matrices"] + counts["head"]),
        activations=tokens * activation_bytes_per_token(model, precision, is_cuda=is_cuda),
        logits=chunk_rows * padded_rows(model, vocab_size) * BYTES_PER_LOGIT,
    )


def activation_bytes_per_token(model: ModelSpec, precision: Precision, *, is_cuda: bool = True) -> int:
    """Return what the backward pass needs of each token. An estimate: a compiler may keep less, or keep it longer.

    Of each layer, in channels: what is normalised (the stream before attention and before the MLP, q and k: 3C + K·D),
    the inputs of products (both normalised streams, the attention's output, relu(W_1 u)²: 7C), q, k and v of the
    attention (C + 2·K·D) and relu(W_1 u) (4C): 15C + 3·K·D in all. `full` adds the stream before its scaling (C), and
    the value embeddings in every second layer (K·D). On the CPU, in bf16, what is normalised is kept in float32. FP8
    keeps the inputs of products in one byte, but the attention's output in bf16 too. On the CPU, attention in fp32
    keeps its probabilities, and k and v for each query head.

    >>> activation_bytes_per_token(ModelSpec(depth=1, n_embd=128), "fp32") // (4 * 128) - EDGE_CHANNELS
    18
    """
    model = derive_shape(model)
    c, kv = model.n_embd, kv_width(model)
    size = 4 if precision == "fp32" else 2
    normalised = (size if is_cuda else 4) * (3 * c + kv)
    inputs = 7 * c + 2 * c if precision == "fp8" else size * 7 * c
    layer = normalised + inputs + size * (5 * c + 2 * kv)
    values = 0
    if model.arch == "full":
        layer += size * c
        values = size * kv * len(value_embedding_layers(model.depth))
    if precision == "fp32" and not is_cuda:
        values += sum(_kept_by_blocks(model, window) for window in attention_windows(model))
    return model.depth * layer + values + size * EDGE_CHANNELS * c


def _kept_by_blocks(model: ModelSpec, window: int) -> int:
    """Return what attention by blocks of queries keeps of a token, beyond q, k and v, in one layer."""
    window = min(window, model.sequence_len - 1)
    if window + 1 > MOST_KEYS:
        return 0
    scores = model.n_head * scores_of(model.sequence_len, window) // model.sequence_len
    repeated = 2 * (model.n_embd - kv_width(model))
    return 4 * (scores + repeated)


def largest_micro_rows(
    model: ModelSpec,
    vocab_size: int,
    *,
    rows_per_rank: int,
    memory_bytes: int,
    precision: Precision,
    ranks: int = 1,
    is_cuda: bool = True,
) -> int:
    """Return the largest power of two that divides a rank's rows and fits into MEMORY_SHARE of its memory; 0 for none.

    >>> largest_micro_rows(
    ...     ModelSpec(depth=20), 65_536, rows_per_rank=32, memory_bytes=80 * 2**30, precision="bf16", ranks=8
    ... )
    32
    """
    rows = rows_per_rank & -rows_per_rank  # its largest divisor among the powers of two
    while rows:
        needed = training_memory(
            model, vocab_size, micro_rows=rows, precision=precision, ranks=ranks, is_cuda=is_cuda
        ).total
        if needed <= MEMORY_SHARE * memory_bytes:
            break
        rows //= 2
    return rows


def micro_rows(
    model: ModelSpec,
    vocab_size: int,
    *,
    rows: int,
    memory_bytes: int,
    precision: Precision,
    ranks: int = 1,
    is_cuda: bool = True,
) -> int:
    """Return how many of a rank's `rows` go through the model at a time: even pieces, of as many as fit, 1 at least.

    On the CPU no more than MOST_ROWS_CPU.

    >>> micro_rows(ModelSpec(depth=20), 65_536, rows=88, memory_bytes=80 * 2**30, precision="bf16", ranks=3)
    30
    """
    fitting = largest_micro_rows(
        model,
        vocab_size,
        rows_per_rank=1 << (rows - 1).bit_length(),
        memory_bytes=memory_bytes,
        precision=precision,
        ranks=ranks,
        is_cuda=is_cuda,
    )
    most = max(1, fitting if is_cuda else min(fitting, MOST_ROWS_CPU))
    return -(-rows // -(-rows // most))


def inference_memory(
    model: ModelSpec, vocab_size: int, *, rows: int, context: int, bytes_per_value: int = 2
) -> InferenceMemory:
    """Return what answering takes: the weights, the keys and values of `rows` rows of `context` tokens, their logits.

    >>> memory = inference_memory(ModelSpec(depth=20), 65_536, rows=8, context=2048)
    >>> round(memory.weights / 2**30, 2), round(memory.kv_cache / 2**30, 2)
    (1.04, 1.56)
    """
    table_rows = padded_rows(model, vocab_size)
    return InferenceMemory(
        weights=bytes_per_value * parameter_counts(model, table_rows)["total"],
        kv_cache=rows * kv_bytes_per_row(model, context, bytes_per_value),
        logits=rows * table_rows * 4,
    )


def padded_rows(model: ModelSpec, vocab_size: int) -> int:
    """Return the rows of a table in memory: V, for `full` rounded up to a multiple of 64.

    >>> padded_rows(ModelSpec(arch="full"), 32_700), padded_rows(ModelSpec(), 32_700)
    (32704, 32700)
    """
    multiple = BLOCK_SETS[model.arch].padded_vocab
    return -(-vocab_size // multiple) * multiple
