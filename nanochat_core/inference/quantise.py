"""Weights in eight or four bits, multiplied as they are (docs/decisions/0020): activations stay as they come.

    int8   one scale for each output channel:        w = q·s,             q in −127 … 127
    int4   scale and offset for 32 inputs at a time:  w = (u − 8)·s + z,   u in 0 … 15, two to a byte
    rows   of a table that is looked up, in int8:     the same as int8, a row at a time

Scales and offsets are bf16, and the codes are chosen for the rounded scales, so that rounding them costs nothing: what
`dequantised` gives is exactly what is computed with.

On a CPU few rows go through torch's kernels, which read the codes themselves and take x in bf16: each input and output
is off by up to 2⁻⁹ of itself, a third of what int8 costs. Many rows, and any on other devices, are multiplied with a
piece of the weight at a time in x's own dtype. Nowhere is all of a weight there in a larger type.

N outputs, K inputs, M rows of x, G groups of inputs, V rows of a table.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32  # inputs that share scale and offset in int4
BLOCKS = (64, 32)  # outputs that lie together in int4: what torch's kernels for AVX512 and AVX2 read
INT8_KERNEL_ROWS, INT4_KERNEL_ROWS = 48, 160  # up to so many rows torch's kernels are faster than pieces
PIECE = 1 << 18  # elements of a weight that are dequantised at a time: 1 MiB of float32

Piece = Callable[[int, int, torch.dtype], Tensor]  # (first output, last + 1, dtype) -> columns of Wᵀ


@dataclass(frozen=True)
class Int8Weight:
    """A matrix (N, K): codes int8 (N, K), scale bf16 (N,). Called with x (M, K) it returns x·Wᵀ (M, N) in x's dtype."""

    codes: Tensor
    scale: Tensor

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.size(0) <= INT8_KERNEL_ROWS:
            return torch._weight_int8pack_mm(x.bfloat16(), self.codes, self.scale).to(x.dtype)
        return _by_pieces(x, self.codes.size(0), PIECE // self.codes.size(1), self._piece).to(x.dtype)

    def _piece(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return the columns of Wᵀ (K, n) of some outputs."""
        return (self.codes[start:stop].to(dtype) * self.scale[start:stop, None].to(dtype)).t()

    def dequantised(self) -> Tensor:
        """Return W (N, K), float32."""
        return self.codes.float() * self.scale[:, None].float()


@dataclass(frozen=True)
class Int4Weight:
    """A matrix (N, K), N filled up to whole blocks of B outputs. Called like `Int8Weight`.

    codes uint8 (N/B, K, B/2): in a byte the output i of a block below, i + B/2 above. scale_and_offset bf16 (G, N, 2).
    """

    codes: Tensor
    scale_and_offset: Tensor
    outputs: int  # N without what fills it up

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale_and_offset.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.size(0) <= INT4_KERNEL_ROWS and self._block == kernel_block():
            flat = self.codes.view(-1, self.codes.size(1) // 2)  # (N, K/2) is what the kernel calls it
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), flat, GROUP, self.scale_and_offset)
            return y[:, : self.outputs].to(x.dtype)
        outputs = self.codes.size(0) * self._block
        blocks = max(1, PIECE // (self.codes.size(1) * self._block))
        return _by_pieces(x, outputs, blocks * self._block, self._piece)[:, : self.outputs].to(x.dtype)

    @property
    def _block(self) -> int:
        return 2 * self.codes.size(2)

    def _piece(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return the columns of Wᵀ (K, n) of some outputs: whole blocks."""
        codes = self.codes[start // self._block : stop // self._block].transpose(0, 1)  # (K, n/B, B/2)
        inputs, blocks, half = codes.shape
        piece = torch.empty(inputs, blocks, 2, half, device=codes.device, dtype=dtype)
        piece[:, :, 0] = codes & 15
        piece[:, :, 1] = codes >> 4
        scale, offset = self.scale_and_offset[:, start:stop].to(dtype).unbind(-1)  # (G, n)
        grouped = piece.view(-1, GROUP, stop - start).mul_(scale[:, None]).add_((offset - 8 * scale)[:, None])
        return grouped.view(inputs, stop - start)

    def dequantised(self) -> Tensor:
        """Return W (N, K), float32."""
        return self._piece(0, self.codes.size(0) * self._block, torch.float32).t()[: self.outputs].contiguous()


@dataclass(frozen=True)
class Int8Table:
    """Rows to look up (V, C): codes int8 (V, C), scale bf16 (V,). Called with ids it returns their rows."""

    codes: Tensor
    scale: Tensor
    dtype: torch.dtype  # of the rows

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the rows (…, C) of ids (…)."""
        return self.codes[ids].to(self.dtype) * self.scale[ids][..., None].to(self.dtype)


QuantisedWeight = Int8Weight | Int4Weight


def quantise_int8(weight: Tensor) -> Int8Weight:
    """Return a matrix (N, K) in int8; raises ValueError where it holds numbers that are not finite."""
    return Int8Weight(*_int8_rows(weight))


def quantise_table(table: Tensor, dtype: torch.dtype) -> Int8Table:
    """Return a table (V, C) in int8, whose rows are given in `dtype`."""
    return Int8Table(*_int8_rows(table), dtype)


def _int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes and scales, a scale for each row."""
    weight = _finite(weight)
    scale = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
    codes = (weight / scale.float()[:, None]).round().clamp(-127, 127)
    return codes.to(torch.int8), scale


def quantise_int4(weight: Tensor) -> Int4Weight:
    """Return a matrix (N, K) in int4.

    The codes of a group reach from its smallest weight to its largest. Raises ValueError where K is no multiple of
    GROUP, or the matrix holds numbers that are not finite.
    """
    if weight.size(1) % GROUP:
        raise ValueError(f"A matrix of {weight.size(1)} inputs cannot be int4: expected a multiple of {GROUP}.")
    block = kernel_block() or BLOCKS[0]
    filled = torch.nn.functional.pad(_finite(weight), (0, 0, 0, -weight.size(0) % block))
    grouped = filled.view(len(filled), -1, GROUP)  # (N, G, 32)
    low, high = grouped.amin(dim=-1), grouped.amax(dim=-1)
    scale = ((high - low) / 15).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()  # (N, G)
    offset = (low + 8 * scale.float()).bfloat16()
    codes = ((grouped - offset.float()[..., None]) / scale.float()[..., None] + 8).round().clamp(0, 15)
    scale_and_offset = torch.stack([scale, offset], dim=-1).transpose(0, 1).contiguous()  # (G, N, 2)
    return Int4Weight(pack(codes.view(filled.shape), block), scale_and_offset, len(weight))


def _finite(weight: Tensor) -> Tensor:
    weight = weight.detach().float()
    if not bool(weight.isfinite().all()):
        raise ValueError("The weights hold numbers that are not finite: they cannot be quantised.")
    return weight


def pack(codes: Tensor, block: int) -> Tensor:
    """Return codes 0 … 15 (N, K), N a multiple of `block`, as bytes (N/B, K, B/2).

    >>> pack(torch.tensor([[1, 2], [3, 4]]), 2).tolist()
    [[[49], [66]]]
    """
    blocks = codes.view(-1, block, codes.size(1)).transpose(1, 2).to(torch.uint8)  # (N/B, K, B)
    return (blocks[..., : block // 2] | (blocks[..., block // 2 :] << 4)).contiguous()


@functools.cache
def kernel_block() -> int | None:
    """Return the block of outputs whose bytes torch's int4 kernel reads on this CPU as `pack` lays them, or None."""
    codes = torch.randint(0, 16, (2 * BLOCKS[0], GROUP), generator=torch.Generator().manual_seed(0))
    theirs = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1).flatten()
    return next((block for block in BLOCKS if torch.equal(theirs, pack(codes, block).flatten())), None)


def _by_pieces(x: Tensor, outputs: int, step: int, piece: Piece) -> Tensor:
    """Return x·Wᵀ (M, N) with the columns of a piece of Wᵀ at a time; on a CPU in float32."""
    wide = x.float() if x.device.type == "cpu" else x
    y = torch.empty(x.size(0), outputs, device=x.device, dtype=wide.dtype)
    for start in range(0, outputs, max(1, step)):
        stop = min(start + max(1, step), outputs)
        torch.mm(wide, piece(start, stop, wide.dtype), out=y[:, start:stop])
    return y
