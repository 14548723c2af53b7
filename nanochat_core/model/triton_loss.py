"""Soft-capped cross-entropy on a GPU, loss and gradient in one kernel; importable where triton is, which CUDA brings.

Of a row of logits z: t = tanh(z/cap), p = softmax(cap·t), loss = −log p[target], d loss/dz = (p − onehot)·(1 − t²).
The row is read twice, the second time from the cache, and the gradient takes its place: no other array of its size is
ever made, where plain torch operations make five. As |cap·t| ≤ cap, exp needs no maximum taken away first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_CAP = 60.0  # e^60 times any vocabulary is a float32
COLUMNS = tl.constexpr(4096)  # logits of a row at a time
WARPS = 8  # so that each thread has 16 of them


def softcap_cross_entropy_(
    logits: Tensor, targets: Tensor, cap: float, *, ignored: int = -1, scale: float = 1.0
) -> Tensor:
    """Return the loss of each row in nats, float32 (n,), 0 where its target is `ignored`.

    Overwrites the logits (n, V), float32 or bfloat16, by `scale` times the gradient of each row's loss; they hold no
    cap yet. A row may be a part of a longer one (stride above V), its own numbers lie side by side. targets: (n,),
    int64, each below V.
    """
    assert logits.ndim == 2 and logits.stride(1) == 1 and targets.shape == logits.shape[:1]
    assert 0 < cap <= LARGEST_CAP
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    if len(logits):
        _one_row[(len(logits),)](
            logits, targets.contiguous(), losses, logits.stride(0), logits.size(1), cap, ignored, scale,
            num_warps=WARPS,
        )  # fmt: skip
    return losses


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    return 1 - 2 / (tl.exp(2 * x) + 1)


@triton.jit
def _one_row(logits, targets, losses, stride, vocab_size, cap, ignored, scale):  # type: ignore[no-untyped-def]
    """Each program has one row of logits."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    if target == ignored:
        tl.store(losses + row, 0.0)
        for start in range(0, vocab_size, COLUMNS):
            at = start + tl.arange(0, COLUMNS)
            tl.store(logits + at, tl.zeros((COLUMNS,), logits.dtype.element_ty), mask=at < vocab_size)
    else:
        of_target = cap * _tanh(tl.load(logits + target).to(tl.float32) / cap)  # before other threads write there
        sums = tl.zeros((COLUMNS,), tl.float32)
        for start in range(0, vocab_size, COLUMNS):
            at = start + tl.arange(0, COLUMNS)
            capped = cap * _tanh(tl.load(logits + at, mask=at < vocab_size, other=0.0).to(tl.float32) / cap)
            sums += tl.where(at < vocab_size, tl.exp(capped), 0.0)
        total = tl.sum(sums, axis=0)
        tl.store(losses + row, tl.log(total) - of_target)
        for start in range(0, vocab_size, COLUMNS):
            at = start + tl.arange(0, COLUMNS)
            t = _tanh(tl.load(logits + at, mask=at < vocab_size, other=0.0).to(tl.float32) / cap)
            slope = (tl.exp(cap * t) / total - tl.where(at == target, 1.0, 0.0)) * (1 - t * t)
            tl.store(logits + at, (scale * slope).to(logits.dtype.element_ty), mask=at < vocab_size)
