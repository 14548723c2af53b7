import pytest

from nanochat_core.model.accounting import (
    attention_windows,
    derive_shape,
    flops_per_token,
    parameter_counts,
    scaling_parameters,
    value_embedding_layers,
    width,
)
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import Arch, ModelSpec


@pytest.mark.parametrize("arch", ["classic", "full"])
@pytest.mark.parametrize("depth", [1, 3, 4])
@pytest.mark.parametrize(("n_embd", "n_head", "n_kv_head"), [(64, 4, 4), (64, 4, 1), (None, None, None)])
def test_the_counts_are_those_of_the_model_that_is_built(
    arch: Arch, depth: int, n_embd: int | None, n_head: int | None, n_kv_head: int | None
) -> None:
    spec = derive_shape(
        ModelSpec(arch=arch, depth=depth, n_embd=n_embd, n_head=n_head, n_kv_head=n_kv_head, sequence_len=32)
    )
    model, counts = GPT(spec, 128), parameter_counts(spec, 128)
    assert counts["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert counts["matrices"] == sum(parameter.numel() for parameter in model.blocks.parameters())
    assert counts["embedding"] == model.wte.weight.numel()
    assert counts["head"] == model.lm_head.weight.numel()
    tables = [parameter.numel() for name, parameter in model.named_parameters() if name.startswith("value_embeds")]
    assert counts.get("value_embeddings", 0) == sum(tables)


def test_full_adds_gates_value_embeddings_and_scalars() -> None:
    spec = ModelSpec(arch="full", depth=2, n_embd=64, n_head=4, n_kv_head=2, sequence_len=32)
    counts = parameter_counts(spec, 100)
    assert counts["matrices"] == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 8 * 64 * 64) + 12 * 2  # the last layer's gate
    assert counts["value_embeddings"] == 100 * 32
    assert counts["scalars"] == 2 + 2 + 24 + 1 + 1  # residual and input of each layer, smear gate and scale, backout
    assert counts["total"] == 106_166


def test_a_step_costs_six_flops_a_matrix_weight_and_twelve_a_channel_a_key() -> None:
    spec = ModelSpec(depth=2, n_embd=64, n_head=4, n_kv_head=2, sequence_len=32)
    matrices = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 8 * 64 * 64)
    assert flops_per_token(spec, 100) == 6 * (matrices + 64 * 100) + 12 * 64 * 32 * 2


@pytest.mark.parametrize("depth", [1, 2, 3, 12, 20, 31, 128])
def test_a_derived_width_holds_whole_heads(depth: int) -> None:
    spec = derive_shape(ModelSpec(depth=depth))
    assert spec.n_embd == width(spec) >= 64 * depth
    assert spec.n_embd % 128 == 0 and spec.n_embd - 64 * depth < 128
    assert spec.n_embd == 128 * spec.n_head and spec.n_kv_head == spec.n_head
    assert derive_shape(spec) == spec


def test_classic_layers_see_the_whole_row() -> None:
    assert attention_windows(ModelSpec(depth=3, sequence_len=32)) == [32, 32, 32]


def test_full_layers_are_three_short_one_long_and_the_last_long() -> None:
    spec = ModelSpec(arch="full", depth=6, sequence_len=2048)
    assert attention_windows(spec) == [512, 512, 512, 2048, 512, 2048]
    assert attention_windows(ModelSpec(arch="full", depth=2, sequence_len=256)) == [128, 256]


@pytest.mark.parametrize(("depth", "layers"), [(1, [0]), (4, [1, 3]), (5, [0, 2, 4])])
def test_every_second_layer_has_a_value_embedding_and_the_last_always(depth: int, layers: list[int]) -> None:
    assert value_embedding_layers(depth) == layers


def test_the_horizon_counts_all_of_classic_but_no_tables_of_full() -> None:
    classic, full = ModelSpec(depth=4), ModelSpec(arch="full", depth=4)
    assert scaling_parameters(classic, 1000) == parameter_counts(classic, 1000)["total"]
    counts = parameter_counts(full, 1000)
    assert scaling_parameters(full, 1000) == counts["total"] - sum(
        counts[name] for name in ("embedding", "value_embeddings", "scalars")
    )
