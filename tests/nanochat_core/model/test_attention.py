"""Every back-end against the sum written out, in float64."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat_core.model import attention
from nanochat_core.model.attention import (
    Attend,
    causal_attention,
    choose_attention,
    masked_attention,
    use_attention,
)
from nanochat_core.model.blockwise_attention import blocks_of, is_worthwhile

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS, HEAD_SIZE = 2, 16


def is_visible(length: int, window: int | None) -> Tensor:
    """Return (T, T), bool: which keys (columns) each query (row) sees."""
    return torch.tensor(
        [[j <= i and (window is None or i - window <= j) for j in range(length)] for i in range(length)]
    )


def naive(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """Return the attention (B, H, T, D) of one query and head at a time."""
    shared_by, visible = q.size(1) // k.size(1), is_visible(q.size(2), window)
    heads = []
    for head in range(q.size(1)):
        keys, values = k[:, head // shared_by], v[:, head // shared_by]  # (B, T, D)
        scores = torch.einsum("bqd,bkd->bqk", q[:, head], keys) / q.size(-1) ** 0.5
        weights = scores.masked_fill(~visible.to(q.device), float("-inf")).softmax(-1)
        heads.append(torch.einsum("bqk,bkd->bqd", weights, values))
    return torch.stack(heads, dim=1)


def random_inputs(heads: tuple[int, int], length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return q, k and v as the model makes them: transposed views of (B, T, H, D)."""
    generator = torch.Generator().manual_seed(length)
    n_head, n_kv_head = heads
    return [
        torch.randn(ROWS, length, count, HEAD_SIZE, generator=generator).to(dtype).transpose(1, 2).requires_grad_()
        for count in (n_head, n_kv_head, n_kv_head)
    ]


def with_gradients(attend: Attend, inputs: list[Tensor], window: int | None) -> list[Tensor]:
    """Return the output, and the gradients of q, k and v of a loss that weighs each output differently."""
    y = attend(*inputs, window)
    weights = torch.arange(y.numel(), dtype=torch.float64).sin().view(y.shape).to(y)
    return [y, *torch.autograd.grad((y * weights).sum(), inputs)]


def assert_equals_naive(attend: Attend, inputs: list[Tensor], window: int | None, tolerance: float = 2e-5) -> None:
    exact = with_gradients(naive, [x.detach().double().requires_grad_() for x in inputs], window)
    for found, expected in zip(with_gradients(attend, inputs, window), exact, strict=True):
        assert found.dtype == inputs[0].dtype
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


LENGTHS = st.integers(1, 300)
WINDOWS = st.none() | st.integers(0, 320)
HEADS = st.sampled_from([(1, 1), (2, 2), (4, 2), (4, 1), (6, 3)])


@settings(max_examples=15, deadline=None)
@given(HEADS, LENGTHS, WINDOWS)
@example((2, 2), 1, None)
@example((4, 1), 1, 0)
@example((2, 1), 200, 0)
@example((2, 1), 64, 63)
@example((2, 1), 65, 63)
@example((2, 2), 256, 64)
def test_attention_on_a_cpu_is_the_sum_written_out(heads: tuple[int, int], length: int, window: int | None) -> None:
    assert_equals_naive(causal_attention, random_inputs(heads, length), window)


@settings(max_examples=8, deadline=None)
@given(HEADS, LENGTHS, st.integers(0, 320))
def test_the_path_of_other_devices_is_the_sum_written_out_too(heads: tuple[int, int], length: int, window: int) -> None:
    assert_equals_naive(attention._sliding_attention, random_inputs(heads, length), window)


@pytest.mark.parametrize("window", [None, 40])
def test_attention_in_bfloat16_differs_by_rounding_alone(window: int | None) -> None:
    assert_equals_naive(causal_attention, random_inputs((4, 2), 150, torch.bfloat16), window, tolerance=0.05)


def test_more_keys_than_are_worth_keeping_the_probabilities_of_go_to_torchs_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nanochat_core.model.blockwise_attention.MOST_KEYS", 100)
    q = random_inputs((2, 2), 101)[0]
    assert not is_worthwhile(q, 100)
    assert is_worthwhile(q, 99)
    assert not is_worthwhile(q.bfloat16(), 99)
    assert_equals_naive(causal_attention, random_inputs((2, 1), 101), None)


def test_scores_too_large_for_exp_do_no_harm() -> None:
    q, k, v = random_inputs((2, 2), 100)
    assert_equals_naive(causal_attention, [(100 * q).detach().requires_grad_(), k, v], 30, tolerance=2e-3)


def test_keys_and_values_after_the_query_or_before_its_window_change_nothing() -> None:
    q, k, v = (x.detach() for x in random_inputs((2, 2), 200))
    before = causal_attention(q, k, v, 50)[:, :, 120]
    for x in (k, v):
        x[:, :, :70] += 1
        x[:, :, 121:] -= 1
    assert before.equal(causal_attention(q, k, v, 50)[:, :, 120])
    k[:, :, 70] += 1
    assert not before.equal(causal_attention(q, k, v, 50)[:, :, 120])


@pytest.mark.parametrize(("length", "window"), [(1, 0), (64, 5), (65, 5), (500, 120), (2048, 512), (300, 299)])
def test_blocks_hold_each_query_once_with_all_its_keys(length: int, window: int) -> None:
    blocks = blocks_of(length, window)
    assert [query for _, start, stop in blocks for query in range(start, stop)] == list(range(length))
    assert all(first == max(start - window, 0) for first, start, _ in blocks)


def test_a_window_of_a_quarter_leaves_six_tenths_of_the_scores_of_full_attention_and_that_of_all() -> None:
    def scores(window: int) -> int:
        return sum((stop - start) * (stop - first) for first, start, stop in blocks_of(2048, window))

    assert scores(512) < 0.6 * scores(2047)
    assert scores(2047) < 0.6 * 2048**2


def test_the_operators_promise_the_compiler_what_they_do() -> None:
    flat = [x.detach().flatten(0, 1) for x in random_inputs((2, 2), 150)]
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.nanochat.blockwise_attention, (*flat, 60), test_utils=checks)
    p = torch.ops.nanochat.blockwise_attention(*flat, 60)[1]
    torch.library.opcheck(torch.ops.nanochat.blockwise_attention_backward, (flat[0], *flat, p, 60), test_utils=checks)


def test_the_compiler_takes_attention_without_a_break() -> None:
    compiled = torch.compile(causal_attention, backend="aot_eager", fullgraph=True)
    assert_equals_naive(compiled, random_inputs((4, 2), 150), 60)


def test_a_mask_says_which_keys_each_row_sees() -> None:
    q, k, v = random_inputs((4, 2), 20)
    visible = is_visible(20, 7).expand(ROWS, 1, 20, 20)
    torch.testing.assert_close(masked_attention(q, k, v, visible), naive(q, k, v, 7), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("heads", "length", "window"), [((2, 2), 200, 60), ((4, 2), 130, 0), ((4, 1), 300, 129)])
def test_flex_attention_is_the_sum_written_out(heads: tuple[int, int], length: int, window: int) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    flex = use_attention("flex").attend
    flex.kernel = flex_attention  # without the compiler: on a CPU it knows no backward pass
    inputs = [x.detach() for x in random_inputs(heads, length)]
    torch.testing.assert_close(flex(*inputs, window), naive(*inputs, window), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(flex(*inputs, None), naive(*inputs), atol=1e-5, rtol=1e-5)


def test_flex_attention_skips_blocks_that_no_query_sees_and_makes_each_mask_once() -> None:
    chosen = use_attention("flex")
    chosen.prepare(1024, [256, 256, None, 1023], CPU)
    assert list(chosen.attend.masks) == [(1024, 256, CPU)]
    mask = chosen.attend.mask(1024, 256, CPU)
    assert mask.sparsity() > 50  # per cent
    assert chosen.attend.mask(1024, 256, CPU) is mask


def test_a_compiled_model_finds_the_mask_that_was_prepared() -> None:
    inputs, operations = [x.detach() for x in random_inputs((2, 2), 200)], []

    def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> torch.fx.GraphModule:
        operations.append(len(graph.graph.nodes))
        return graph

    for windows in [[60], []]:
        torch.compiler.reset()
        chosen = use_attention("flex")
        chosen.prepare(200, windows, CPU)
        y = torch.compile(chosen.attend, backend=count, fullgraph=True)(*inputs, 60)
        torch.testing.assert_close(y, naive(*inputs, 60), atol=1e-5, rtol=1e-5)
    prepared, unprepared = operations
    assert prepared < unprepared / 2


def fake_flash_attention(calls: list[dict[str, Any]], *, returns_sums: bool) -> SimpleNamespace:
    """Return a stand-in for the module flash_attn_interface: (B, T, H, D) in and out."""

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor | tuple[Tensor, None]:
        calls.append(options)
        window = None if options["window_size"][0] == -1 else options["window_size"][0]
        y = naive(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), window).transpose(1, 2)
        return (y, None) if returns_sums else y

    return SimpleNamespace(flash_attn_func=flash_attn_func)


@pytest.mark.parametrize("returns_sums", [False, True])
def test_flash_attention_3_gets_rows_of_tokens_of_heads(monkeypatch: pytest.MonkeyPatch, returns_sums: bool) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "flash_attn_interface", fake_flash_attention(calls, returns_sums=returns_sums))
    attend = use_attention("fa3").attend
    inputs = random_inputs((4, 2), 30)
    torch.testing.assert_close(attend(*inputs, 8), naive(*inputs, 8))
    torch.testing.assert_close(attend(*inputs, None), naive(*inputs))
    assert calls == [{"causal": True, "window_size": (8, 0)}, {"causal": True, "window_size": (-1, 0)}]


def pretend(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], packages: tuple[str, ...], hip: str | None
) -> None:
    """Have the machine look as if it had a GPU of `capability` and these packages."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: name if name in packages else None)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", fake_flash_attention([], returns_sums=False))


BOTH = ("flash_attn_interface", "triton")


@pytest.mark.parametrize(
    ("capability", "packages", "hip", "head_size", "name", "reason"),
    [
        ((9, 0), BOTH, None, 128, "fa3", "Hopper"),
        ((9, 0), ("triton",), None, 128, "flex", "flash_attn_interface is not installed"),
        ((9, 0), BOTH, None, 512, "flex", "up to 256, these have 512"),
        ((10, 0), BOTH, None, 128, "flex", "this is 10.0"),
        ((8, 0), BOTH, None, 128, "flex", "this is 8.0"),
        ((7, 5), BOTH, None, 128, "sdpa", "8.0"),
        ((9, 0), (), None, 128, "sdpa", "triton"),
        ((9, 4), BOTH, "6.4", 128, "flex", "NVIDIA"),
    ],
)
def test_a_gpu_gets_the_fastest_back_end_it_can_run(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    packages: tuple[str, ...],
    hip: str | None,
    head_size: int,
    name: str,
    reason: str,
) -> None:
    pretend(monkeypatch, capability, packages, hip)
    chosen = choose_attention(CUDA, torch.bfloat16, head_size)
    assert chosen.name == name
    assert reason in chosen.reason


@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [(CPU, torch.bfloat16, "cpu"), (torch.device("mps"), torch.bfloat16, "mps"), (CUDA, torch.float32, "float32")],
)
def test_what_the_fast_back_ends_cannot_compute_goes_to_torch(
    device: torch.device, dtype: torch.dtype, reason: str
) -> None:
    chosen = choose_attention(device, dtype, 128)
    assert (chosen.name, chosen.attend) == ("sdpa", causal_attention)
    assert reason in chosen.reason


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 0, 100, 512])
def test_on_a_gpu_the_chosen_back_end_is_the_sum_written_out(window: int | None) -> None:
    attend = choose_attention(CUDA, torch.bfloat16, 64).attend
    for heads, length in [((4, 4), 1024), ((4, 2), 600)]:
        generator = torch.Generator().manual_seed(0)
        inputs = [
            torch.randn(2, length, count, 64, generator=generator).to(CUDA, torch.bfloat16).transpose(1, 2)
            for count in (heads[0], heads[1], heads[1])
        ]
        assert_equals_naive(attend, [x.detach().requires_grad_() for x in inputs], window, tolerance=0.05)
