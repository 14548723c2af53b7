import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat_core.model.fp8 import BACKWARD, FORWARD, Fp8Weight, fp8_linear, qualifies_for_fp8, quantise, why_not_fp8

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nearest(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float64 x rounded to the nearest number of an FP8 format, found among all of them."""
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype).double()
    numbers = codes[codes.isfinite()].unique()  # ascending
    above = torch.searchsorted(numbers, x).clamp(1, len(numbers) - 1)
    low, high = numbers[above - 1], numbers[above]
    return torch.where(x - low < high - x, low, high)


def slow_quantise(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x as it is after its way through FP8, float64."""
    scale = float(torch.tensor(torch.finfo(dtype).max / max(x.abs().max().item(), 1e-12)))  # float32, as on a GPU
    return nearest((x * scale).double(), dtype) / scale


def gradients(x: Tensor, weight: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = fp8_linear(x, weight)
    y.backward(d_y)
    return y.detach(), x.grad, weight.grad


def assert_near(found: Tensor, expected: Tensor, error: float) -> None:
    """Compare by the root of the mean square: single elements of a product may cancel."""
    assert found.shape == expected.shape
    assert (found.double() - expected).square().mean().sqrt() <= error * expected.square().mean().sqrt()


@pytest.mark.parametrize("dtype", [FORWARD, BACKWARD])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), magnitude=st.floats(-10, 20, allow_subnormal=False))
def test_each_number_becomes_the_nearest_of_the_format(dtype: torch.dtype, seed: int, magnitude: float) -> None:
    x = random(50, seed=seed) * 10**magnitude
    values, unit = quantise(x, dtype)
    torch.testing.assert_close(values.double() * unit.double(), slow_quantise(x, dtype), rtol=1e-6, atol=0)
    assert values.double().abs().max() == torch.finfo(dtype).max


@pytest.mark.parametrize(("dtype", "bits"), [(FORWARD, 3), (BACKWARD, 2)])
def test_a_number_moves_by_half_of_its_last_bit_at_most(dtype: torch.dtype, bits: int) -> None:
    x = random(10_000)
    values, unit = quantise(x, dtype)
    error = (values.double() * unit.double() - x.double()).abs()
    smallest_step = torch.finfo(dtype).smallest_normal * 2**-bits * unit.double()
    assert (error <= torch.maximum(2.0 ** -(bits + 1) * x.abs().double(), smallest_step / 2) * (1 + 1e-6)).all()


def test_the_three_products_are_those_of_the_quantised_numbers() -> None:
    x, weight, d_y = random(48, 128), random(144, 128, seed=1) / 11, random(48, 144, seed=2) * 1e-6
    x8, weight8, d_y8 = slow_quantise(x, FORWARD), slow_quantise(weight, FORWARD), slow_quantise(d_y, BACKWARD)
    for found, expected in zip(gradients(x, weight, d_y), (x8 @ weight8.T, d_y8 @ weight8, d_y8.T @ x8), strict=True):
        assert_near(found, expected, 1e-6)


def test_the_three_products_differ_from_exact_ones_by_fp8s_rounding() -> None:
    x, weight, d_y = random(256, 256), random(512, 256, seed=1), random(256, 512, seed=2)
    exact_x, exact_weight, exact_d_y = x.double(), weight.double(), d_y.double()
    y, d_x, d_weight = gradients(x, weight, d_y)
    # The error of a uniformly spread mantissa of n bits is about 2^-n/√12/1.4 of it: 2.6 % and 5.2 %.
    assert_near(y, exact_x @ exact_weight.T, (2 * 0.026**2) ** 0.5 * 1.15)
    assert_near(d_x, exact_d_y @ exact_weight, (0.026**2 + 0.052**2) ** 0.5 * 1.15)
    assert_near(d_weight, exact_d_y.T @ exact_x, (0.026**2 + 0.052**2) ** 0.5 * 1.15)


@pytest.mark.parametrize("leading", [(1,), (7,), (2, 3), (2, 3, 5)])
def test_any_leading_dimensions_are_rows(leading: tuple[int, ...]) -> None:
    x, weight, d_y = random(*leading, 128), random(160, 128, seed=1), random(*leading, 160, seed=2)
    found = gradients(x, weight, d_y)
    flat = gradients(x.flatten(0, -2), weight, d_y.flatten(0, -2))
    assert [tensor.shape for tensor in found] == [d_y.shape, x.shape, weight.shape]
    for tensor, expected in zip(found, flat, strict=True):
        assert tensor.view(expected.shape).equal(expected)


def test_results_have_the_dtype_of_the_input_and_gradients_that_of_the_weight() -> None:
    y, d_x, d_weight = gradients(random(4, 128).bfloat16(), random(128, 128, seed=1), random(4, 128).bfloat16())
    assert (y.dtype, d_x.dtype, d_weight.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_zeros_stay_zeros() -> None:
    for tensor in gradients(torch.zeros(4, 128), torch.zeros(128, 128), torch.zeros(4, 128)):
        assert tensor.eq(0).all()


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_shows_in_every_result(bad: float) -> None:
    x = random(4, 128)
    x[1, 5] = bad
    assert fp8_linear(x, random(128, 128)).isnan().all()
    d_y = random(4, 128)
    d_y[0, 0] = bad
    _, d_x, d_weight = gradients(random(4, 128), random(128, 128), d_y)
    assert d_x.isnan().all()
    assert d_weight.isnan().all()


def test_copies_of_a_weight_are_made_anew_only_after_it_was_written_to() -> None:
    weight, x = random(128, 256).requires_grad_(), random(8, 256, seed=1)
    copies = Fp8Weight(weight)
    places = copies.values.data_ptr(), copies.columns.data_ptr(), copies.unit.data_ptr()
    assert [copies.refresh(weight) for _ in range(3)] == [True, False, False]
    assert fp8_linear(x, weight, copies).equal(fp8_linear(x, weight))
    with torch.no_grad():
        weight.mul_(-2).add_(0.1)
    assert not fp8_linear(x, weight, copies).equal(fp8_linear(x, weight))
    assert copies.refresh(weight)
    assert fp8_linear(x, weight, copies).equal(fp8_linear(x, weight))
    assert (copies.values.data_ptr(), copies.columns.data_ptr(), copies.unit.data_ptr()) == places


def test_a_weight_behind_copies_gets_the_gradient_it_gets_without() -> None:
    x, weight, d_y = random(8, 256, seed=1), random(128, 256).requires_grad_(), random(8, 128, seed=2)
    copies = Fp8Weight(weight)
    copies.refresh(weight)
    fp8_linear(x, weight, copies).backward(d_y)
    assert weight.grad.equal(gradients(x, weight.detach(), d_y)[2])


def test_copies_that_change_between_the_passes_are_an_error() -> None:
    weight = random(128, 128).requires_grad_()
    copies = Fp8Weight(weight)
    copies.refresh(weight)
    y = fp8_linear(random(8, 128).requires_grad_(), weight, copies)
    with torch.no_grad():
        weight.mul_(2)
    copies.refresh(weight)
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


def test_layouts_are_those_that_cublaslt_multiplies() -> None:
    copies = Fp8Weight(random(128, 256))
    assert copies.values.stride() == (256, 1)
    assert copies.columns.stride() == (1, 128)


def test_the_compiler_takes_it_without_a_break() -> None:
    x, weight, d_y = random(6, 128), random(128, 128, seed=1).requires_grad_(), random(6, 128, seed=2)
    copies = Fp8Weight(weight)
    copies.refresh(weight)
    compiled = torch.compile(lambda x: fp8_linear(x, weight, copies), backend="aot_eager", fullgraph=True)
    compiled(x).backward(d_y)
    assert weight.grad.equal(gradients(x, weight.detach(), d_y)[2])


@pytest.mark.parametrize(
    ("rows", "columns", "qualifies"),
    [(128, 128, True), (512, 144, True), (112, 512, False), (512, 120, False), (136, 128, False), (12, 1536, False)],
)
def test_only_large_matrices_of_whole_sixteens_qualify(rows: int, columns: int, qualifies: bool) -> None:
    assert qualifies_for_fp8(rows, columns) == qualifies_for_fp8(columns, rows) == qualifies


@pytest.mark.parametrize(
    ("capability", "hip", "reason"),
    [((9, 0), None, None), ((8, 9), None, None), ((10, 0), None, None), ((8, 0), None, "8.9"), ((9, 4), "6.4", "AMD")],
)
def test_fp8_is_for_gpus_that_compute_in_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, reason: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    found = why_not_fp8(CUDA)
    assert found is None if reason is None else reason in (found or "")


def test_fp8_is_only_emulated_without_a_gpu() -> None:
    assert why_not_fp8(CPU) == "a cpu device only emulates FP8"


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [64, 50])
def test_a_gpu_multiplies_as_the_emulation_does(rows: int) -> None:
    x, weight, d_y = random(rows, 256), random(512, 256, seed=1), random(rows, 512, seed=2)
    on_gpu = gradients(x.cuda().bfloat16(), weight.cuda(), d_y.cuda().bfloat16())
    for found, expected in zip(on_gpu, gradients(x.bfloat16(), weight, d_y.bfloat16()), strict=True):
        assert_near(found.cpu(), expected.double(), 0.01)
