"""Scaled dot-product attention, softmax(qkᵀ/√D)v: one function, whatever computes it.

`choose_attention` picks what fits a device, once at start:

    fa3   FlashAttention-3 (Shah et al. 2024), on Hopper, where its package `flash_attn_interface` is installed
    flex  torch's FlexAttention (Dong et al. 2024) for the layers with a window, on other CUDA and ROCm devices
    sdpa  torch's scaled_dot_product_attention, and on CPUs the products of model/blockwise_attention.py

All take q (B, H, T, D), k and v (B, K, T, D), all of one dtype, and give (B, H, T, D). Query i sees the keys j with
i − window ≤ j ≤ i, all up to i where the window is None. tests/nanochat_core/model/test_attention.py compares each
with the sum written out.

B rows, H query heads, K key/value heads (a divisor of H), T queries, S keys, D head size.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nanochat_core.model.blockwise_attention import blockwise_attention, is_worthwhile

Attend = Callable[[Tensor, Tensor, Tensor, int | None], Tensor]
HALF = (torch.bfloat16, torch.float16)
FA3_PACKAGE = "flash_attn_interface"
FA3_LARGEST_HEAD = 256


@dataclass(frozen=True)
class AttentionBackend:
    """What computes attention, why, and the function itself."""

    name: str
    reason: str
    attend: Attend = field(repr=False)

    def prepare(self, length: int, windows: Iterable[int | None], device: torch.device) -> None:
        """Make what is needed for rows of `length` tokens, so that a compiled model finds it and does not make it."""
        if isinstance(self.attend, FlexAttention):
            for window in windows:
                if window is not None and window < length - 1:
                    self.attend.mask(length, window, device)


def choose_attention(device: torch.device, dtype: torch.dtype, head_size: int) -> AttentionBackend:
    """Return the fastest back-end for training on `device` in `dtype`; the caller logs its name and reason."""
    if device.type != "cuda":
        return use_attention("sdpa", f"the only one for {device.type}")
    if dtype not in HALF:
        return use_attention("sdpa", f"the others compute in 16 bits, not in {dtype}")
    capability, is_nvidia = torch.cuda.get_device_capability(device), torch.version.hip is None
    why_not = _why_not_fa3(capability, head_size) if is_nvidia else "FlashAttention-3 is for NVIDIA's Hopper"
    if why_not is None:
        return use_attention("fa3", f"Hopper, and {FA3_PACKAGE} is installed")
    if is_nvidia and capability < (8, 0):
        return use_attention("sdpa", f"FlexAttention needs compute capability 8.0, this is {capability}")
    if importlib.util.find_spec("triton") is None:
        return use_attention("sdpa", f"{why_not}; FlexAttention needs the package triton")
    return use_attention("flex", why_not)


def _why_not_fa3(capability: tuple[int, int], head_size: int) -> str | None:
    """Return why FlashAttention-3 cannot be used on an NVIDIA GPU, or None."""
    if capability[0] != 9:
        return f"FlashAttention-3 is for Hopper, compute capability 9, this is {capability[0]}.{capability[1]}"
    if head_size > FA3_LARGEST_HEAD:
        return f"FlashAttention-3 takes heads up to {FA3_LARGEST_HEAD}, these have {head_size}"
    if importlib.util.find_spec(FA3_PACKAGE) is None:
        return f"FlashAttention-3's package {FA3_PACKAGE} is not installed"
    return None


def use_attention(name: str, reason: str = "asked for") -> AttentionBackend:
    """Return the back-end called `name` (sdpa, flex, fa3), unchecked whether this machine can run it."""
    makers: dict[str, Callable[[], Attend]] = {
        "sdpa": lambda: causal_attention,
        "flex": FlexAttention,
        "fa3": FlashAttention3,
    }
    return AttentionBackend(name, reason, makers[name]())


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """Return the attention (B, H, T, D) by torch's kernels, and on a CPU in float32 by blocks of queries."""
    length = q.size(2)
    is_full = window is None or window >= length - 1
    reach = length - 1 if is_full else window
    if length > 1 and is_worthwhile(q, reach):
        return blockwise_attention(q, _to_heads(k, q), _to_heads(v, q), reach)
    if is_full:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))
    return _sliding_attention(q, k, v, reach)


def _to_heads(x: Tensor, q: Tensor) -> Tensor:
    """Return x (B, K, T, D) with each head as often as query heads share it: (B, H, T, D)."""
    return x if x.size(1) == q.size(1) else x.repeat_interleave(q.size(1) // x.size(1), dim=1)


def _sliding_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Return windowed attention (B, H, T, D) by blocks of queries that are shown no keys but those some of them see.

    T·(w + b) scores for blocks of b queries, where torch's kernel alone would work through T².
    """
    size, outputs = max(window // 2, 64), []
    for start in range(0, q.size(2), size):
        stop, first = min(start + size, q.size(2)), max(start - window, 0)
        back = torch.arange(start, stop, device=q.device)[:, None] - torch.arange(first, stop, device=q.device)
        visible = (back >= 0) & (back <= window)  # (b, S)
        outputs.append(masked_attention(q[:, :, start:stop], k[:, :, first:stop], v[:, :, first:stop], visible))
    return torch.cat(outputs, dim=2)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Return (B, H, T, D); `visible` (B, 1, T, S) or (T, S), bool, says which keys each query sees (at least one)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=q.size(1) != k.size(1))


class FlexAttention:
    """FlexAttention over a window of keys; layers without one go to torch's own kernel, which is faster for them."""

    def __init__(self) -> None:
        from torch.nn.attention.flex_attention import flex_attention  # imports the compiler: a second

        self.kernel: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False)
        self.masks: dict[tuple[int, int, torch.device], Any] = {}  # BlockMask by length, window, device

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        if window is None or window >= q.size(2) - 1:
            return causal_attention(q, k, v)
        mask = self.mask(q.size(2), window, q.device)
        return self.kernel(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1))

    def mask(self, length: int, window: int, device: torch.device) -> Any:
        """Return the BlockMask, made at the first call: which blocks of 128 × 128 scores are computed."""
        if (length, window, device) not in self.masks:
            from torch.nn.attention.flex_attention import create_block_mask

            def is_visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return (key <= query) & (query - key <= window)

            self.masks[length, window, device] = create_block_mask(is_visible, None, None, length, length, device)
        return self.masks[length, window, device]


class FlashAttention3:
    """FlashAttention-3, which skips what no query sees, with a window or without."""

    def __init__(self) -> None:
        self.kernel: Callable[..., Any] = importlib.import_module(FA3_PACKAGE).flash_attn_func

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, T, H | K, D)
        found = self.kernel(q, k, v, causal=True, window_size=(-1 if window is None else window, 0))
        y = found[0] if isinstance(found, tuple) else found  # early versions return the log-sums of exp too
        return y.transpose(1, 2)
