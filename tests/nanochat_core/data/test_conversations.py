"""Conversations in rows: nothing learned that the mask leaves out, each once an epoch, continued exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.data.conversations import Batching, ConversationLoader, Rows
from nanochat_core.errors import DataError, SpecError
from nanochat_core.model.loss import IGNORED


def made_rows(count: int = 24, seed: int = 0) -> Rows:
    """Return conversations of distinct ids, so that each token tells where it is from."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 12, count)
    starts = np.cumsum([0, *lengths[:-1]])
    return [
        (np.arange(start, start + length, dtype=np.int32), rng.integers(0, 2, length).astype(np.int8))
        for start, length in zip(starts, lengths, strict=True)
    ]


def loader(
    rows: Rows, batching: Batching, rank: int = 0, world_size: int = 1, sequence_len: int = 8
) -> ConversationLoader:
    return ConversationLoader(
        rows,
        batching=batching,
        batch_rows=4,
        sequence_len=sequence_len,
        seed=1,
        rank=rank,
        world_size=world_size,
    )


@given(st.integers(0, 1000))
def test_a_padded_epoch_learns_exactly_what_the_masks_say(seed: int) -> None:
    rows = made_rows(seed=seed)
    padded = loader(rows, "padded", sequence_len=16)
    learned: list[int] = []
    for _ in range(padded.steps_per_epoch):
        idx, targets = padded.batch()
        assert idx.shape == targets.shape and idx.shape[0] == 4
        learned += targets[targets != IGNORED].tolist()
    assert sorted(learned) == [int(t) for ids, mask in rows for t, m in zip(ids[1:], mask[1:], strict=True) if m]


def test_padding_ends_at_the_longest_of_the_step_and_long_ones_are_cut_and_counted() -> None:
    rows: Rows = [(np.arange(n, dtype=np.int32), np.ones(n, dtype=np.int8)) for n in (3, 5, 20, 4)]
    padded = loader(rows, "padded")
    idx, targets = padded.batch()
    assert idx.shape == (4, 8)
    assert padded.cut_conversations == 1
    assert int((targets != IGNORED).sum()) == 2 + 4 + 8 + 3


def test_a_stream_is_the_conversations_end_to_end_in_a_seeded_order() -> None:
    rows = made_rows()
    stream = loader(rows, "stream")
    ids = torch.cat([stream.batch()[0].flatten() for _ in range(stream.steps_per_epoch)]).tolist()
    order = np.random.default_rng([1, 0]).permutation(len(rows))
    expected = [int(token) for place in order for token in rows[place][0]]
    assert ids == expected[: len(ids)]
    assert len(expected) - len(ids) <= 4 * 8


@pytest.mark.parametrize("batching", ["padded", "stream"])
def test_a_resumed_loader_gives_the_same_steps_over_epochs(batching: Batching) -> None:
    rows = made_rows()
    whole, resumed = loader(rows, batching), loader(rows, batching)
    for _ in range(3):
        whole.batch()
    resumed.load(whole.state())
    for _ in range(2 * whole.steps_per_epoch):
        for ours, theirs in zip(whole.batch(), resumed.batch(), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("batching", ["padded", "stream"])
def test_ranks_share_the_rows_of_a_step(batching: Batching) -> None:
    rows = made_rows()
    one, two = loader(rows, batching), [loader(rows, batching, rank, 2) for rank in range(2)]
    for _ in range(4):
        idx, _ = one.batch()
        parts = [rank.batch()[0] for rank in two]
        assert torch.equal(idx[0::2], parts[0]) and torch.equal(idx[1::2], parts[1])


def test_what_cannot_be_shared_or_filled_is_refused() -> None:
    with pytest.raises(SpecError, match="batch_rows 4 cannot be shared by 3 ranks"):
        loader(made_rows(), "padded", 0, 3)
    with pytest.raises(DataError, match="2 conversations do not fill one step of 4 rows"):
        loader(made_rows(2), "padded").batch()
