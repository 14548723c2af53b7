"""Estimates of memory, against the tensors of a model, against what autograd saves, and against published runs."""

from dataclasses import replace

import pytest
import torch

from nanochat_core.model.accounting import derive_shape, kv_bytes_per_row, kv_bytes_per_token, parameter_counts
from nanochat_core.model.blocks import FULL, BlockSet
from nanochat_core.model.gpt import GPT
from nanochat_core.model.memory import (
    MEMORY_SHARE,
    activation_bytes_per_token,
    inference_memory,
    largest_micro_rows,
    micro_rows,
    padded_rows,
    training_memory,
)
from nanochat_core.specs import Arch, ModelSpec, Precision

GIB = 2**30


def small(arch: Arch, depth: int = 2, n_kv_head: int = 4) -> ModelSpec:
    return derive_shape(ModelSpec(arch=arch, depth=depth, n_embd=128, n_head=4, n_kv_head=n_kv_head, sequence_len=256))


def saved_bytes(spec: ModelSpec, rows: int, dtype: torch.dtype, blocks: BlockSet | None = None) -> int:
    """Return what autograd keeps of a forward pass, each storage once, weights left out."""
    model = GPT(spec, 64, blocks)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.compute_dtype = dtype
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: list[torch.Tensor] = []  # alive, so that no storage is given away and counted twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.hidden(torch.zeros(rows, spec.sequence_len, dtype=torch.int64))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(size for place, size in storages.items() if place not in weights)


@pytest.mark.parametrize("arch", ["classic", "full"])
@pytest.mark.parametrize("n_kv_head", [4, 1])
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_layer_keeps_as_many_bytes_of_a_token_as_estimated(
    arch: Arch, n_kv_head: int, precision: Precision, dtype: torch.dtype
) -> None:
    def of_a_row(depth: int) -> int:
        spec = small(arch, depth, n_kv_head)
        return saved_bytes(spec, 2, dtype) - saved_bytes(spec, 1, dtype)

    def estimate(depth: int) -> int:
        return activation_bytes_per_token(small(arch, depth, n_kv_head), precision, is_cuda=False)

    measured = (of_a_row(4) - of_a_row(2)) / 256
    assert measured == pytest.approx(estimate(4) - estimate(2), rel=0.05)


def test_value_embeddings_are_kept_in_every_second_layer() -> None:
    spec, without = small("full", depth=4), replace(FULL, value_embeddings=False)
    of_a_row = [
        saved_bytes(spec, 2, torch.float32, blocks) - saved_bytes(spec, 1, torch.float32, blocks)
        for blocks in (FULL, without)
    ]
    values = 2 * 4 * 128  # two layers, float32, K·D = 128
    assert values <= (of_a_row[0] - of_a_row[1]) / 256 <= 1.4 * values  # the gates take a little, too
    classic, full = (activation_bytes_per_token(small(arch, 4), "fp32") for arch in ("classic", "full"))
    assert full - classic == values + 4 * 4 * 128  # and the stream before its scaling, in every layer


@pytest.mark.parametrize("arch", ["classic", "full"])
def test_weights_and_gradients_are_those_of_the_model(arch: Arch) -> None:
    spec = small(arch)
    model = GPT(spec, 100)
    stored = sum(parameter.numel() for parameter in model.parameters())
    memory = training_memory(spec, 100, micro_rows=1, precision="fp32", is_cuda=False)
    assert memory.parameters == memory.gradients == 4 * stored
    assert inference_memory(spec, 100, rows=1, context=8).weights == 2 * stored
    assert stored == parameter_counts(spec, padded_rows(spec, 100))["total"]
    assert memory.total == sum(memory.as_dict().values())


def test_adamw_keeps_two_moments_and_muon_one_shared_by_the_ranks() -> None:
    classic, full = small("classic"), small("full")
    tables, matrices = 2 * 64 * 128, 2 * 12 * 128 * 128
    one = training_memory(classic, 64, micro_rows=1, precision="bf16")
    assert one.optimizer == (2 + 4) * tables + 4 * matrices  # the embedding's moments are bf16, the head's fp32
    assert training_memory(classic, 64, micro_rows=1, precision="bf16", ranks=3).optimizer == -(-one.optimizer // 3)
    counts = parameter_counts(full, 64)
    small_tables = counts["embedding"] + counts["value_embeddings"]
    vectors = 2 * 12 * 128  # NorMuon's: C for each of q, k, v, o, and 4C for each of the MLP's
    state = 4 * small_tables + 8 * (counts["head"] + counts["scalars"]) + 4 * (counts["matrices"] + vectors)
    assert training_memory(full, 64, micro_rows=1, precision="bf16").optimizer == state


def test_tables_take_two_bytes_on_cuda_unless_all_is_fp32() -> None:
    spec = small("full")
    counts = parameter_counts(spec, 64)
    four, two = (
        training_memory(spec, 64, micro_rows=1, precision=precision).parameters for precision in ("fp32", "bf16")
    )
    assert four - two == 2 * (counts["embedding"] + counts["value_embeddings"])
    assert training_memory(spec, 64, micro_rows=1, precision="bf16", is_cuda=False).parameters == four


def test_logits_exist_in_chunks() -> None:
    spec = ModelSpec(depth=2)
    for rows, is_cuda, logit_rows in ((1, True, 2048), (64, True, 4096), (64, False, 128)):
        memory = training_memory(spec, 32_768, micro_rows=rows, precision="bf16", is_cuda=is_cuda)
        assert memory.logits == 8 * logit_rows * 32_768


def test_fp8_keeps_less_than_bf16_and_that_less_than_fp32() -> None:
    spec = ModelSpec(arch="full", depth=26)
    fp8, bf16, fp32 = (
        training_memory(spec, 32_768, micro_rows=16, precision=precision, ranks=8).total / GIB
        for precision in ("fp8", "bf16", "fp32")
    )
    assert fp8 < bf16 < fp32
    assert 6 < bf16 - fp8 < 9e9 / GIB  # nanochat saw 9 GB of its d26; it keeps no copies of the weights in FP8


@pytest.mark.parametrize(
    ("arch", "depth", "rows"),
    [
        ("classic", 20, 32),
        ("classic", 26, 16),
        ("classic", 32, 8),
        ("full", 18, 32),
        ("full", 24, 16),
        ("full", 26, 16),
        ("full", 28, 8),
    ],
)
def test_the_micro_batches_that_the_published_runs_used_on_80_gb_are_found(arch: Arch, depth: int, rows: int) -> None:
    vocab_size = 65_536 if arch == "classic" else 32_768
    spec = ModelSpec(arch=arch, depth=depth)
    found = largest_micro_rows(spec, vocab_size, rows_per_rank=32, memory_bytes=80 * GIB, precision="bf16", ranks=8)
    assert found == rows


@pytest.mark.parametrize(("rows_per_rank", "divisor"), [(64, 64), (88, 8), (96, 32), (7, 1)])
def test_a_micro_batch_is_a_power_of_two_that_divides_the_rows(rows_per_rank: int, divisor: int) -> None:
    def rows(memory_bytes: int) -> int:
        return largest_micro_rows(
            small("full"), 100, rows_per_rank=rows_per_rank, memory_bytes=memory_bytes, precision="bf16"
        )

    assert rows(10**15) == divisor
    assert rows(0) == 0
    needed = training_memory(small("full"), 100, micro_rows=divisor, precision="bf16").total
    assert rows(int(needed / MEMORY_SHARE) + 1) == divisor
    assert rows(int(needed / MEMORY_SHARE) - 1) == divisor // 2


@pytest.mark.parametrize(
    ("rows", "is_cuda", "expected"), [(64, True, 64), (64, False, 32), (48, True, 48), (48, False, 24), (5, False, 5)]
)
def test_rows_go_in_even_pieces_and_in_small_ones_on_a_cpu(rows: int, is_cuda: bool, expected: int) -> None:
    many, none = (
        micro_rows(small("full"), 100, rows=rows, memory_bytes=memory, precision="bf16", is_cuda=is_cuda)
        for memory in (10**15, 0)
    )
    assert (many, none) == (expected, 1)


def test_windows_need_no_more_keys_than_they_see() -> None:
    spec = ModelSpec(arch="full", depth=4, sequence_len=2048)  # three windows of 512, one layer that sees all
    kv = 2 * 256 * 2  # keys and values, C = 256, two bytes
    assert kv_bytes_per_token(spec) == 4 * kv
    assert kv_bytes_per_row(spec, 100) == 100 * kv_bytes_per_token(spec)
    assert kv_bytes_per_row(spec, 2048) == (3 * 513 + 2048) * kv
    assert kv_bytes_per_row(spec, 8192) == (3 * 513 + 8192) * kv
    assert kv_bytes_per_row(ModelSpec(depth=4), 2048, 4) == 2048 * kv_bytes_per_token(ModelSpec(depth=4), 4)


def test_answering_takes_weights_rows_and_their_last_logits() -> None:
    spec = ModelSpec(depth=4)
    one, eight = (inference_memory(spec, 1000, rows=rows, context=2048) for rows in (1, 8))
    assert one.weights == eight.weights
    assert eight.kv_cache == 8 * kv_bytes_per_row(spec, 2048)
    assert eight.logits == 8 * 1000 * 4
    assert eight.total == eight.weights + eight.kv_cache + eight.logits
