"""A longer context: which pairs of channels turn how fast, which windows stay, and that training goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core import checkpoint
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.distributed import World
from nanochat_core.errors import SpecError
from nanochat_core.inference.forward import capped
from nanochat_core.inference.runner import Chunk, Runner
from nanochat_core.model.accounting import attention_windows
from nanochat_core.model.blocks import rope_base
from nanochat_core.model.context import continued, extended
from nanochat_core.model.gpt import GPT, rotary_tables
from nanochat_core.model.init import init_weights
from nanochat_core.model.loss import loss_sum
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import rates_at
from nanochat_core.specs import Arch, ModelSpec, OptimizerSpec

CPU = torch.device("cpu")
WORLD = World(0, 1, CPU)
VOCAB_SIZE = 70
SHAPE = ModelSpec(depth=4, n_embd=32, n_head=2, n_kv_head=1, sequence_len=32)


def tiny(arch: Arch) -> ModelSpec:
    return SHAPE.model_copy(update={"arch": arch, "short_window": 8 if arch == "full" else None})


def angle(model: ModelSpec, pair: int) -> float:
    """Return by how much a pair of channels turns from one token to the next."""
    size = model.n_embd // model.n_head
    return rope_base(model) ** (-2 * pair / size)


@given(
    head_size=st.sampled_from([4, 6, 16, 64, 128]),
    stretch=st.integers(2, 16),
    arch=st.sampled_from(["classic", "full"]),
)
def test_the_slowest_pair_turns_no_further_over_a_row_and_the_fastest_as_before(
    head_size: int, stretch: int, arch: Arch
) -> None:
    model = ModelSpec(arch=arch, depth=2, n_embd=4 * head_size, n_head=4, n_kv_head=2, sequence_len=64)
    longer = extended(model, 64 * stretch)
    slowest = head_size // 2 - 1
    assert angle(longer, slowest) * longer.sequence_len == pytest.approx(angle(model, slowest) * 64, rel=1e-9)
    assert angle(longer, 0) == angle(model, 0) == 1
    turns = [angle(longer, pair) / angle(model, pair) for pair in range(slowest + 1)]
    assert turns == sorted(turns, reverse=True)


@given(first=st.integers(64, 500), more=st.integers(0, 5000), arch=st.sampled_from(["classic", "full"]))
def test_two_extensions_are_one(first: int, more: int, arch: Arch) -> None:
    twice, once = extended(extended(tiny(arch), first), first + more), extended(tiny(arch), first + more)
    assert twice.rope_base == pytest.approx(once.rope_base, rel=1e-9)
    assert twice.model_copy(update={"rope_base": None}) == once.model_copy(update={"rope_base": None})


def test_short_windows_stay_in_tokens_and_long_ones_see_the_longer_row() -> None:
    model = ModelSpec(arch="full", depth=6)
    assert attention_windows(extended(model, 8192)) == [512, 512, 512, 8192, 512, 8192]
    assert attention_windows(model.model_copy(update={"sequence_len": 8192})) == [2048, 2048, 2048, 8192, 2048, 8192]
    assert extended(ModelSpec(depth=6), 8192).short_window is None


def test_the_same_length_changes_nothing() -> None:
    assert extended(tiny("full"), 32) == tiny("full")
    assert extended(SHAPE, 32) == SHAPE


def test_a_single_pair_of_channels_keeps_its_base() -> None:
    assert extended(ModelSpec(depth=1, n_embd=16, n_head=8, n_kv_head=8), 4096).rope_base == 10_000


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sequence_len": 16}, "rows of 32 tokens and cannot go on at a sequence_len of 16: expected as many or more"),
        ({"n_embd": 64, "depth": 5}, "model.depth 5, there it is 4; model.n_embd 64, there it is 32"),
        ({"arch": "full"}, "model.arch 'full', there it is 'classic'"),
    ],
)
def test_weights_that_do_not_fit_and_shorter_rows_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as refusal:
        continued(SHAPE, SHAPE.model_copy(update=changes))
    assert problem in str(refusal.value)


def test_what_is_given_wins_over_what_the_extension_would_choose() -> None:
    wanted = tiny("full").model_copy(update={"sequence_len": 64, "rope_base": 5e5, "short_window": 16})
    assert continued(tiny("full"), wanted) == wanted
    left_empty = wanted.model_copy(update={"rope_base": None, "short_window": None})
    assert continued(tiny("full"), left_empty) == extended(tiny("full"), 64)


def train(model: GPT, length: int, steps: int = 4) -> list[float]:
    """Return the losses of some steps on one batch of a repeating text."""
    optimizer, losses = MuonAdamW(model), []
    row = torch.arange(length + 1) * 3 % 11
    for _ in range(steps):
        loss = loss_sum(model, row[None, :-1], row[None, 1:]) / length
        loss.backward()
        optimizer.step(rates_at(OptimizerSpec(), model.spec.n_embd, 0.2, 0.9))
        losses.append(float(loss.detach()))
    return losses


def saved(model: GPT, folder: Path) -> Path:
    meta = CheckpointMeta(
        stage="pretrain",
        step=1,
        tokens=1,
        optimizer_steps=1,
        model=model.spec,
        vocab_size=VOCAB_SIZE,
        precision="fp32",
        tokenizer_hash="t",
        data_digest="",
    )
    tensors = Checkpoint(meta=meta, model=model.state_dict(), optimizer={}, loader={})
    return checkpoint.save(folder, tensors, WORLD, keep=1)


@pytest.mark.parametrize("arch", ["classic", "full"])
def test_training_goes_on_at_twice_the_length_and_decodes_what_it_computes(arch: Arch, tmp_path: Path) -> None:
    model = GPT(tiny(arch), VOCAB_SIZE)
    init_weights(model, 0)
    before = train(model, 32)
    path = saved(model, tmp_path)
    longer, meta = checkpoint.load_model(
        path, tokenizer_hash="t", device=CPU, reshape=lambda shape: extended(shape, 64)
    )
    assert meta.model == longer.spec == extended(tiny(arch), 64)
    torch.testing.assert_close(longer.rotary(64), rotary_tables(64, 16, longer.spec.rope_base, CPU))
    windows = {"classic": [None] * 4, "full": [8, 8, 8, 64]}[arch]
    assert [block.attn.window for block in longer.blocks] == windows
    after = train(longer, 64)
    assert after[0] < before[0] and after[-1] < after[0]
    ids = torch.randint(0, VOCAB_SIZE, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    runner, found, start = Runner(longer, slots=1, capacity=64), [], 0
    with torch.inference_mode():
        for count in (40, 1, 1, 22):
            before = ids[start - 1] if start else -1
            found.append(runner.hidden([Chunk(0, start, ids[start : start + count], before, range(count))]))
            start += count
        logits = capped(runner.raw_logits(torch.cat(found)))
        torch.testing.assert_close(logits, longer(torch.tensor([ids]))[0], rtol=1e-4, atol=1e-5)
