"""New tokens in pieces, beside other rows, give the logits of a full forward pass."""

from collections.abc import Iterator, Sequence
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat_core.inference.decode_graphs import DecodeGraphs, Decoding
from nanochat_core.inference.forward import capped
from nanochat_core.inference.runner import Chunk, Runner
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import Arch, ModelSpec
from tests.nanochat_core.inference.test_engine import random_model

IDS = torch.randint(0, 200, (6, 300), generator=torch.Generator().manual_seed(0)).tolist()


def windowed_model() -> GPT:
    """Return a model whose first layer sees 128 tokens and whose second sees 512, with weights that matter."""
    model = GPT(ModelSpec(arch="full", depth=2, n_embd=32, n_head=2, n_kv_head=1, sequence_len=512), 200)
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def chunk(ids: Sequence[int], slot: int, start: int, size: int) -> Chunk:
    return Chunk(slot, start, ids[start : start + size], ids[start - 1] if start else -1, range(size))


def piece_by_piece(runner: Runner, lengths: Sequence[int], pieces: Iterator[int]) -> list[Tensor]:
    """Return the logits (T, V) of each row, its tokens fed in pieces; one of 0 tokens leaves a row out of a step."""
    done, found, rounds = [0] * len(lengths), [[] for _ in lengths], count()
    while any(start < length for start, length in zip(done, lengths, strict=True)):
        least = next(rounds) % 2  # every second step takes all rows along
        counts = [min(max(least, next(pieces)), length - start) for start, length in zip(done, lengths, strict=True)]
        chunks = [chunk(IDS[row], row, done[row], size) for row, size in enumerate(counts) if size]
        if not chunks:
            continue
        with torch.inference_mode():
            logits = capped(runner.raw_logits(runner.hidden(chunks)))
        for row, part in zip([new.slot for new in chunks], logits.split([len(new.ids) for new in chunks]), strict=True):
            found[row].append(part)
            done[row] += len(part)
            runner.memory.trim(row, done[row])
    return [torch.cat(parts) for parts in found]


def check(model: GPT, lengths: Sequence[int], pieces: Iterator[int]) -> None:
    runner = Runner(model, slots=len(lengths), capacity=320)
    for row, logits in enumerate(piece_by_piece(runner, lengths, pieces)):
        with torch.no_grad():
            expected = model(torch.tensor([IDS[row][: lengths[row]]]))[0]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["classic", "full"]),
    st.sampled_from([1, 2, 4]),
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.lists(st.sampled_from([0, 1, 1, 1, 3, 20]), min_size=8, max_size=40),
)
def test_tokens_in_pieces_beside_other_rows_give_the_logits_of_the_whole(
    arch: Arch, n_kv_head: int, lengths: list[int], pieces: list[int]
) -> None:
    check(random_model(n_kv_head=n_kv_head, arch=arch), lengths, endless([*pieces, 5]))


def endless(pieces: list[int]) -> Iterator[int]:
    while True:
        yield from pieces


def test_keys_before_the_windows_are_given_back_and_not_missed() -> None:
    model = windowed_model()
    check(model, [300, 290, 40], endless([1, 64, 7, 1, 1, 30]))


@torch.inference_mode()
@pytest.mark.parametrize("arch", ["classic", "full"])
def test_the_pass_that_a_gpu_records_gives_what_any_other_gives(arch: Arch) -> None:
    model = random_model(arch=arch)
    runner, graphs = (Runner(model, slots=6, capacity=320) for _ in range(2))
    recorded = DecodeGraphs(graphs.weights, graphs.memory, graphs._turns)
    lengths = {0: 270, 1: 3, 3: 90, 4: 0}
    for each in (runner, graphs):
        each.hidden([chunk(IDS[slot], slot, 0, length) for slot, length in lengths.items() if length])
        each.hidden([chunk(IDS[5], 2, 0, 5)])  # a row that has no new token
    for step in range(3):
        rows = {slot: length + step for slot, length in lengths.items()}
        expected = runner.hidden([chunk(IDS[slot], slot, start, 1) for slot, start in rows.items()])
        new = [Decoding(slot, at, IDS[slot][at], IDS[slot][at - 1] if at else -1) for slot, at in rows.items()]
        torch.testing.assert_close(recorded.decode(new), expected, rtol=1e-4, atol=2e-5)
    for found, mine in zip(graphs.memory.keys, runner.memory.keys, strict=True):
        torch.testing.assert_close(found[:6], mine[:6])


@torch.inference_mode()
def test_a_row_that_begins_with_a_copy_of_another_goes_on_like_it() -> None:
    model = windowed_model()
    runner, ids = Runner(model, slots=3, capacity=320), IDS[0]
    runner.hidden([chunk(ids, 0, 0, 260)])
    runner.memory.trim(0, 260)
    shortest = runner.memory.first_usable(0)
    assert 128 <= shortest <= 230
    runner.memory.copy_row(0, 1, 240)
    runner.memory.copy_row(0, 2, shortest)
    for slot, start in ((1, 240), (2, shortest)):
        logits = capped(runner.raw_logits(runner.hidden([chunk(ids, slot, start, 20)])))
        torch.testing.assert_close(logits, model(torch.tensor([ids[: start + 20]]))[0, start:], rtol=1e-4, atol=2e-5)


@torch.inference_mode()
def test_memory_that_was_given_back_is_free_again() -> None:
    runner = Runner(windowed_model(), slots=2, capacity=320)
    runner.hidden([chunk(IDS[0], 0, 0, 256)])
    assert runner.memory.pages(0, 0) == 0 and runner.memory.keys[0][0].any()
    runner.memory.leave(0, 256)
    assert runner.memory.pages(0, 0) == runner.memory.shape.pages(256)
    runner.memory.give_back(0)
    assert runner.memory.pages(0, 0) == 0
    assert not any(keys[0].any() for keys in runner.memory.keys), "read as zeros: the pages are the system's again"


def test_pages_count_what_each_layer_keeps() -> None:
    shape = Runner(windowed_model(), slots=1, capacity=320).memory.shape
    assert shape.windows == (128, 512)
    assert [shape.pages(length) for length in (1, 64, 65, 256, 257, 320)] == [2, 2, 4, 7, 9, 8]


@pytest.mark.parametrize("arch", ["classic", "full"])
def test_weights_that_were_trained_in_place_are_noticed(arch: Arch) -> None:
    model = random_model(arch=arch)
    runner = Runner(model, slots=1, capacity=64)
    assert not runner.follow(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
        model.wte.weight[3, 2] += 1
    assert runner.follow(model) and not runner.follow(model)
    check(model, [30], endless([7]))
