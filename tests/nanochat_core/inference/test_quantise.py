"""Products with quantised weights against float64, and what quantising may change."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nanochat_core.inference import quantise
from nanochat_core.inference.quantise import (
    GROUP,
    INT4_KERNEL_ROWS,
    INT8_KERNEL_ROWS,
    QuantisedWeight,
    quantise_int4,
    quantise_int8,
    quantise_table,
)

Quantiser = Callable[[Tensor], QuantisedWeight]
QUANTISERS = pytest.mark.parametrize("quantiser", [quantise_int8, quantise_int4])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@QUANTISERS
@pytest.mark.parametrize("outputs", [128, 265, 31])  # whole blocks of outputs, and not
@pytest.mark.parametrize("rows", [1, 7, INT8_KERNEL_ROWS, INT4_KERNEL_ROWS + 1])
def test_a_product_is_that_with_the_dequantised_weight(quantiser: Quantiser, outputs: int, rows: int) -> None:
    weight = quantiser(random(outputs, 96) * 0.05)
    x = random(rows, 96, seed=1)
    expected = x.double() @ weight.dequantised().double().t()
    y = weight(x)
    assert y.dtype == torch.float32
    assert y.shape == (rows, outputs)
    is_exact = rows > INT4_KERNEL_ROWS
    error = (y - expected).norm() / expected.norm()
    assert error < (1e-6 if is_exact else 2**-8)
    assert weight(x.bfloat16()).dtype == torch.bfloat16


@QUANTISERS
def test_without_a_kernel_that_reads_the_codes_all_rows_go_by_pieces(
    quantiser: Quantiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = quantiser(random(128, 96))
    x = random(3, 96, seed=1)
    expected = x.double() @ weight.dequantised().double().t()
    monkeypatch.setattr(quantise, "kernel_block", lambda: None)
    monkeypatch.setattr(quantise, "INT8_KERNEL_ROWS", 0)
    monkeypatch.setattr(quantise, "PIECE", 64 * 96)  # so that there are several pieces
    torch.testing.assert_close(weight(x).double(), expected, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 1000), st.floats(1e-6, 1e4))
def test_no_weight_moves_by_more_than_half_a_step(seed: int, size: float) -> None:
    weight = random(16, 64, seed=seed) * size
    moved = (quantise_int8(weight).dequantised() - weight).abs()
    # Half a step, and what the largest lose where rounding the scale to bf16 made the range smaller.
    assert (moved <= (0.5 / 127 + 2**-8) * weight.abs().amax(dim=1, keepdim=True)).all()
    grouped = weight.view(16, -1, GROUP)
    step = (grouped.amax(dim=-1) - grouped.amin(dim=-1)) / 15
    moved = (quantise_int4(weight).dequantised() - weight).view(grouped.shape).abs().amax(dim=-1)
    assert (moved <= 0.51 * step + 2**-7 * grouped.abs().amax(dim=-1)).all()


@QUANTISERS
def test_what_was_quantised_comes_back_the_same(quantiser: Quantiser) -> None:
    once = quantiser(random(64, 64)).dequantised()
    again = quantiser(once).dequantised()
    assert (again - once).norm() <= (1e-3 if quantiser is quantise_int8 else 0.03) * once.norm()


@QUANTISERS
def test_zeros_and_outputs_of_very_different_sizes_survive(quantiser: Quantiser) -> None:
    weight = random(64, 64)
    weight[0], weight[1] = 0.0, weight[1] * 1e4
    found = quantiser(weight).dequantised()
    assert (found[0] == 0).all()
    assert ((found - weight).norm(dim=1) <= 0.12 * weight.norm(dim=1)).all()


def test_bytes_of_a_parameter() -> None:
    weight = random(512, 512)
    assert quantise_int8(weight).nbytes == 512 * 512 + 2 * 512
    assert quantise_int4(weight).nbytes == 512 * 512 * (0.5 + 4 / GROUP)


def test_a_table_gives_its_rows() -> None:
    table = random(100, 32)
    rows = quantise_table(table, torch.bfloat16)
    ids = torch.tensor([[3, 99], [0, 3]])
    assert rows(ids).dtype == torch.bfloat16
    assert rows(ids).shape == (2, 2, 32)
    torch.testing.assert_close(rows(ids).float(), table[ids], rtol=0.01, atol=0.02)


@QUANTISERS
def test_numbers_that_are_not_finite_are_refused(quantiser: Quantiser) -> None:
    with pytest.raises(ValueError, match="not finite"):
        quantiser(torch.full((64, 32), torch.nan))


def test_int4_refuses_a_number_of_inputs_that_groups_do_not_fit() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        quantise_int4(random(64, 40))


def test_the_kernel_of_this_cpu_reads_our_bytes() -> None:
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("known for x86 only")
    assert quantise.kernel_block() in quantise.BLOCKS


@pytest.mark.gpu
@QUANTISERS
def test_a_gpu_gives_the_same_product(quantiser: Quantiser) -> None:
    weight, x = random(128, 96), random(5, 96, seed=1)
    expected = x.double() @ quantiser(weight).dequantised().double().t()
    found = quantiser(weight.cuda())(x.cuda().bfloat16())
    assert (found.cpu() - expected).norm() / expected.norm() < 2**-6
