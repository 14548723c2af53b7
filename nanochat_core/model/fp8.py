"""Linear layers whose three matrix products are computed in 8-bit floating point (Micikevicius et al. 2022).

Each tensor is scaled by one factor so that its largest magnitude becomes the largest number of its format: activations
and weights in e4m3 (up to 448, 3 bits after the point), incoming gradients in e5m2 (up to 57,344, 2 bits). The product
of two such tensors is scaled back. For the backward pass the FP8 input is kept, half of what bf16 takes.

    y = x Wᵀ          e4m3 × e4m3, fast accumulation: partial sums in about 22 bits, good enough for y
    d_x = d_y W       e5m2 × e4m3, float32 accumulation, as gradients span more magnitudes
    d_W = d_yᵀ x      e5m2 × e4m3, float32 accumulation

CUDA multiplies the FP8 numbers themselves; elsewhere their values are multiplied in float32, which is slow, and there
for tests. An infinity or a NaN makes the whole result NaN, so that the loss is not finite and training stops.

R rows (all leading dimensions), I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
SMALLEST_AMAX = 1e-12  # of an all-zero tensor: its scale stays finite
ALIGNMENT, SMALLEST_SIDE = 16, 128  # of cuBLASLt's FP8 kernels; below, the casts take longer than the product saves
FIRST_WITH_FP8 = (8, 9)


def qualifies_for_fp8(rows: int, columns: int) -> bool:
    """Whether a matrix is computed in FP8: both sides multiples of 16, the smaller at least 128.

    >>> qualifies_for_fp8(6144, 1536), qualifies_for_fp8(12, 1536), qualifies_for_fp8(1000, 1000)
    (True, False, False)
    """
    return rows % ALIGNMENT == 0 and columns % ALIGNMENT == 0 and min(rows, columns) >= SMALLEST_SIDE


def why_not_fp8(device: torch.device) -> str | None:
    """Return why `device` has no FP8 products of its own, or None where it has."""
    if device.type != "cuda":
        return f"a {device.type} device only emulates FP8"
    if torch.version.hip is not None:
        return "AMD's FP8 has other formats, which nobody has tried here"
    capability = torch.cuda.get_device_capability(device)
    if capability < FIRST_WITH_FP8:
        return f"FP8 needs compute capability 8.9, this is {capability[0]}.{capability[1]}"
    return None


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x in FP8, and what 1 stands for in it (float32 scalar): x ≈ values · unit.

    The scale is computed in float64 and rounded once, so that it does not depend on x's dtype.
    """
    low, high = x.aminmax()
    largest = torch.finfo(dtype).max
    scale = (largest / torch.maximum(-low, high).double().clamp(min=SMALLEST_AMAX)).float()
    return (x.float() * scale).clamp(-largest, largest).to(dtype), scale.reciprocal()


class Fp8Weight:
    """The FP8 copies of one weight (O, I), made once per optimizer step and used by all its micro-steps.

    values (O, I) has rows one behind the other, as the product y = x Wᵀ needs it; columns (O, I) has the same numbers
    with columns one behind the other, as d_x = d_y W needs it. Both stay in place when refreshed, which is what a
    compiled model asks of its inputs. Costs 2 bytes per weight.
    """

    def __init__(self, weight: Tensor) -> None:
        self.values = torch.empty(weight.shape, dtype=FORWARD, device=weight.device)
        self.columns = torch.empty(weight.shape[::-1], dtype=FORWARD, device=weight.device).t()
        self.unit = torch.empty((), device=weight.device)
        self.version: int | None = None

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> bool:
        """Follow `weight`, if it was written to since the last time (not by way of `.data`); return whether it was.

        To be called outside of what is compiled, before each forward pass: it costs one comparison if nothing changed.
        """
        if self.version == weight._version:
            return False
        values, unit = quantise(weight, FORWARD)
        self.values.copy_(values)
        self.columns.copy_(values)
        self.unit.copy_(unit)
        self.version = weight._version
        return True


def fp8_linear(x: Tensor, weight: Tensor, copies: Fp8Weight | None = None) -> Tensor:
    """Return x Wᵀ (…, O), in x's dtype, for x (…, I) and a weight (O, I) that `qualifies_for_fp8`.

    Without copies, which must be fresh, the weight is quantised on the spot.
    """
    if copies is None:
        values, unit = quantise(weight.detach(), FORWARD)
        columns = _by_columns(values)
    else:
        values, columns, unit = copies.values, copies.columns, copies.unit
    return _Linear.apply(x.flatten(0, -2), weight, values, columns, unit).unflatten(0, x.shape[:-1])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, values: Tensor, columns: Tensor, unit: Tensor) -> Tensor:
        x8, x_unit = quantise(x, FORWARD)
        ctx.save_for_backward(x8, x_unit, columns, unit)
        ctx.dtypes = x.dtype, weight.dtype
        return _product(x8, values.t(), x_unit, unit, x.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x8, x_unit, columns, unit = ctx.saved_tensors
        d_y8, d_y_unit = quantise(d_y, BACKWARD)
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = _product(d_y8, columns, d_y_unit, unit, ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            d_y8, x8 = _whole_sixteens(d_y8), _whole_sixteens(x8)
            d_weight = _product(d_y8.t().contiguous(), _by_columns(x8), d_y_unit, x_unit, ctx.dtypes[1])
        return d_x, d_weight, None, None, None


def _by_columns(values: Tensor) -> Tensor:
    """Return the same matrix with its columns one behind the other in memory."""
    return values.t().contiguous().t()


def _whole_sixteens(values: Tensor) -> Tensor:
    """Return values (R, …) with rows of zeros up to a multiple of 16: cuBLASLt sums over no other number of rows."""
    missing = -values.size(0) % ALIGNMENT
    return values if missing == 0 else F.pad(values.view(torch.uint8), (0, 0, 0, missing)).view(values.dtype)


def _product(a: Tensor, b: Tensor, a_unit: Tensor, b_unit: Tensor, dtype: torch.dtype, *, fast: bool = False) -> Tensor:
    """Return a·b in `dtype` for FP8 matrices, a (n, m) with rows, b (m, k) with columns one behind the other."""
    if a.is_cuda:
        return torch._scaled_mm(a, b, scale_a=a_unit, scale_b=b_unit, out_dtype=dtype, use_fast_accum=fast)
    return (a.float() @ b.float()).mul(a_unit).mul(b_unit).to(dtype)
