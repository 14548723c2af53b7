"""Conversations in rows: none lost, learned as the mask says, the same for any ranks, continued exactly."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.data.conversations import Batching, ConversationLoader, Conversations, read_conversations
from nanochat_core.errors import DataError, SpecError
from nanochat_core.model.loss import IGNORED

ALL: tuple[Batching, ...] = ("stream", "padded", "packed", "bucketed")
COMPLETE: tuple[Batching, ...] = ("packed", "bucketed")  # they leave no conversation out
LENGTHS = st.lists(st.integers(2, 14), min_size=1, max_size=40)
T = 8  # longest row of inputs: of conversations with more than T + 1 tokens the rest is cut


def conversations_of(lengths: Sequence[int], *, learned_share: float = 0.5) -> Conversations:
    """Return conversations of distinct ids from 1 on, so that each token tells where it is from; 0 is padding."""
    starts = np.cumsum([0, *lengths])
    mask = np.random.default_rng(0).random(starts[-1]) < learned_share
    return Conversations(np.arange(1, starts[-1] + 1, dtype=np.int32), mask.astype(np.int8), starts)


def some_conversations(count: int = 24, seed: int = 0) -> Conversations:
    return conversations_of(np.random.default_rng(seed).integers(2, 12, count).tolist())


def loader(
    conversations: Conversations,
    batching: Batching,
    rank: int = 0,
    world_size: int = 1,
    sequence_len: int = T,
    batch_tokens: int | None = None,
) -> ConversationLoader:
    return ConversationLoader(
        conversations,
        batching=batching,
        batch_rows=4,
        sequence_len=sequence_len,
        seed=1,
        rank=rank,
        world_size=world_size,
        batch_tokens=batch_tokens,
    )


def epoch_of(made: ConversationLoader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [made.batch() for _ in range(made.steps_per_epoch)]


def learned_in(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[int]:
    return sorted(token for _, targets in batches for token in targets[targets != IGNORED].tolist())


def to_learn(conversations: Conversations, longest: int) -> list[int]:
    """Return the ids that the masks say are learned; nothing foretells a conversation's first token."""
    places = [conversations.place(index, longest=longest) for index in range(len(conversations))]
    planes = [(conversations.ids[place][1:], conversations.mask[place][1:]) for place in places]
    return [int(token) for ids, mask in planes for token in ids[mask == 1]]


@given(st.integers(0, 1000))
def test_a_padded_epoch_learns_exactly_what_the_masks_say(seed: int) -> None:
    conversations = some_conversations(seed=seed)
    batches = epoch_of(loader(conversations, "padded", sequence_len=16))
    assert all(idx.shape == targets.shape and len(idx) == 4 for idx, targets in batches)
    assert learned_in(batches) == to_learn(conversations, 17)


@pytest.mark.parametrize("batching", COMPLETE)
@given(lengths=LENGTHS)
def test_every_packed_or_bucketed_epoch_learns_exactly_what_the_masks_say(
    batching: Batching, lengths: list[int]
) -> None:
    conversations = conversations_of(lengths)
    made = loader(conversations, batching)
    for _ in range(3):
        assert learned_in(epoch_of(made)) == to_learn(conversations, T + 1)


@pytest.mark.parametrize("batching", COMPLETE)
@given(lengths=LENGTHS)
def test_each_conversation_stands_whole_in_one_row_once_an_epoch(batching: Batching, lengths: list[int]) -> None:
    conversations = conversations_of(lengths, learned_share=1.0)
    made = loader(conversations, batching)
    expected = [conversations.ids[conversations.place(index, longest=T + 1)].tolist() for index in range(len(lengths))]
    for _ in range(2):
        found = [piece for idx, targets in epoch_of(made) for piece in conversations_in(idx, targets, conversations)]
        assert sorted(found) == expected


def conversations_in(idx: torch.Tensor, targets: torch.Tensor, conversations: Conversations) -> list[list[int]]:
    """Return the conversations in the rows of a step; all of their tokens but the first ones are learned."""
    pieces: list[list[int]] = []
    for ids, after in zip(idx.tolist(), targets.tolist(), strict=True):
        assert len(ids) <= T
        row = [token for token in [*ids, max(after[-1], 0)] if token]
        first_tokens = [place for place, token in enumerate(row) if token - 1 in conversations.starts]
        assert first_tokens[0] == 0
        pieces += [part.tolist() for part in np.split(np.array(row), first_tokens[1:])]
        for place, token in enumerate(after):  # what is learned after an id is the next one, never over a border
            following = ids[place + 1] if place + 1 < len(ids) else token
            is_border = following == 0 or following - 1 in conversations.starts
            assert token == (IGNORED if is_border else following)
    return pieces


def test_padding_ends_at_the_longest_of_the_step_and_long_ones_are_cut_and_counted() -> None:
    padded = loader(conversations_of([3, 5, 20, 4], learned_share=1.0), "padded")
    idx, targets = padded.batch()
    assert idx.shape == (4, 8)
    assert padded.cuts()["cut_conversations"] == 1
    assert int((targets != IGNORED).sum()) == 2 + 4 + 8 + 3
    assert padded.padding() == {"rows": 4, "padding_share": round(1 - (3 + 5 + 9 + 4) / 36, 6)}


@given(st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=4), min_size=1, max_size=12))
def test_a_conversation_is_cut_after_its_last_answer_that_ends_in_the_row_and_elsewhere_only_where_none_does(
    answers: list[list[int]],
) -> None:
    end = 99  # each conversation: a first token, and answers of so many tokens, the last of them `end`
    rows = [[7, *[token for size in sizes for token in (*[8] * (size - 1), end)]] for sizes in answers]
    ids = np.array([token for row in rows for token in row], dtype=np.int32)
    starts = np.cumsum([0, *map(len, rows)])
    found = Conversations(ids, np.ones(len(ids), dtype=np.int8), starts, answer_end=end)
    for row, length in zip(rows, found.fitted(T + 1).tolist(), strict=True):
        ends = [place + 1 for place, token in enumerate(row[: T + 1]) if token == end]
        assert length == (len(row) if len(row) <= T + 1 else max(ends, default=T + 1))


def test_what_was_cut_inside_a_message_and_what_teaches_nothing_is_counted() -> None:
    end = 99
    rows = ([1, 2, end], [1, 2, end, *[3] * 20, end], [1, *[3] * 20, end], [1, *[2] * 20, 3, end])
    ids = np.array([token for row in rows for token in row], dtype=np.int32)
    mask = np.isin(ids, (3, end)).astype(np.int8)
    made = loader(Conversations(ids, mask, np.cumsum([0, *map(len, rows)]), answer_end=end), "padded")
    assert made.cuts() == {"cut_conversations": 3, "cut_messages": 2, "unlearned_conversations": 1}
    assert int((made.batch()[1] != IGNORED).sum()) == 1 + 1 + T + 0


def test_rows_of_single_tokens_have_room_for_a_target() -> None:
    idx, targets = loader(conversations_of([1, 1, 1, 1], learned_share=1.0), "padded").batch()
    assert idx.shape == targets.shape == (4, 1) and (targets == IGNORED).all()


def test_a_packed_row_holds_all_that_fits_it() -> None:
    packed = loader(conversations_of([6, 3, 9, 4, 5, 20], learned_share=1.0), "packed")
    idx, targets = packed.batch()
    assert packed.steps_per_epoch == 1 and idx.shape == (4, T)
    assert packed.cuts()["cut_conversations"] == 1
    assert packed.padding() == {"rows": 4, "padding_share": 0.0}
    # 5 + 2 in the row of 6 and 3, 3 + 4 in that of 4 and 5, and twice 8: none at a border, none beyond the cut.
    assert int((targets != IGNORED).sum()) == 7 + 7 + 8 + 8


def test_a_bucketed_step_is_as_wide_as_its_longest_and_holds_its_budget() -> None:
    lengths = [2, 3, 5, 9] * 16
    bucketed = loader(conversations_of(lengths), "bucketed", batch_tokens=32)
    batches = epoch_of(bucketed)
    assert {idx.shape[1] for idx, _ in batches} == {1, 2, 4, 8}
    assert all(idx.numel() <= 32 for idx, _ in batches)
    assert len(batches) == 8  # 240 tokens without padding are 7.5 budgets
    assert (
        bucketed.padding()["padding_share"]
        < 0.1
        < loader(conversations_of(lengths), "padded").padding()["padding_share"]
    )


def test_a_stream_is_the_conversations_end_to_end_in_a_seeded_order() -> None:
    conversations = some_conversations()
    stream = loader(conversations, "stream")
    ids = torch.cat([idx.flatten() for idx, _ in epoch_of(stream)]).tolist()
    order = np.random.default_rng([1, 0]).permutation(len(conversations))
    expected = [int(token) for index in order for token in conversations.ids[conversations.place(index)]]
    assert ids == expected[: len(ids)]
    assert len(expected) - len(ids) <= 4 * 8
    assert stream.padding() == {"rows": len(ids) / 8, "padding_share": 0.0}


@pytest.mark.parametrize("batching", ALL)
@given(taken=st.integers(0, 40))
def test_a_loader_resumed_from_any_state_gives_the_steps_of_one_that_never_stopped(
    batching: Batching, taken: int
) -> None:
    conversations = some_conversations()
    whole, resumed = loader(conversations, batching), loader(conversations, batching)
    for _ in range(taken):
        whole.batch()
    state = whole.state()
    assert sum(tensor.numel() for tensor in state.values()) == 1
    resumed.load(state)
    for _ in range(whole.steps_per_epoch + 1):
        for ours, theirs in zip(whole.batch(), resumed.batch(), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("batching", ALL)
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_rows_of_a_step_are_those_of_one_rank_dealt_out(batching: Batching, world_size: int) -> None:
    conversations = some_conversations()
    one = loader(conversations, batching)
    ranks = [loader(conversations, batching, rank, world_size) for rank in range(world_size)]
    for _ in range(2 * one.steps_per_epoch):
        whole = one.batch()
        parts = [rank.batch() for rank in ranks]
        for rank, part in enumerate(parts):
            assert all(torch.equal(ours[rank::world_size], own) for ours, own in zip(whole, part, strict=True))


@pytest.mark.parametrize("batching", ALL)
def test_a_loader_names_every_conversation_of_its_last_rows_and_no_other(batching: Batching) -> None:
    conversations = some_conversations(60)
    made = loader(conversations, batching, 1, 2)
    for _ in range(made.steps_per_epoch + 3):
        idx, _ = made.batch()
        tokens = idx[idx > 0].numpy() - 1  # the place of each among all tokens
        present = set((np.searchsorted(conversations.starts, tokens, side="right") - 1).tolist())
        named = made.origins()["conversations"]
        assert present <= set(named) and named == sorted(named)
        assert len(named) <= len(present) + len(idx)  # one whose first token is a row's last target


@pytest.mark.parametrize("batching", COMPLETE)
def test_epochs_differ_in_order_and_not_in_size(batching: Batching) -> None:
    made = loader(some_conversations(200), batching)
    first, second = epoch_of(made), epoch_of(made)
    assert sum(idx.numel() for idx, _ in first) == sum(idx.numel() for idx, _ in second)
    assert not all(torch.equal(ours, theirs) for (ours, _), (theirs, _) in zip(first, second, strict=True))


def test_what_cannot_be_shared_or_filled_is_refused() -> None:
    with pytest.raises(SpecError, match="batch_rows 4 cannot be shared by 3 ranks"):
        loader(some_conversations(), "padded", 0, 3)
    with pytest.raises(DataError, match="2 conversations do not fill one step of 4 rows"):
        loader(some_conversations(2), "padded").batch()


def write_file(path: Path, ids: list[list[int]], mask: list[list[int]]) -> Path:
    pq.write_table(
        pa.table({"ids": pa.array(ids, pa.list_(pa.int32())), "mask": pa.array(mask, pa.list_(pa.int8()))}), path
    )
    return path


def test_a_file_is_read_end_to_end_and_mask_none_learns_every_token(tmp_path: Path) -> None:
    path = write_file(tmp_path / "c.parquet", [[7, 8], [9, 10, 11]], [[0, 1], [0, 0, 1]])
    found = read_conversations(path, mask="assistant")
    assert (found.ids.tolist(), found.mask.tolist(), found.starts.tolist()) == (
        [7, 8, 9, 10, 11],
        [0, 1, 0, 0, 1],
        [0, 2, 5],
    )
    assert read_conversations(path, mask="none").mask.tolist() == [1] * 5


@pytest.mark.parametrize(("ids", "mask"), [([[7, 8], []], [[0, 1], []]), ([[7, 8]], [[0]])])
def test_conversations_without_tokens_or_mask_are_refused(
    tmp_path: Path, ids: list[list[int]], mask: list[list[int]]
) -> None:
    with pytest.raises(DataError, match="without tokens, or without a mask: build the conversations again"):
        read_conversations(write_file(tmp_path / "c.parquet", ids, mask), mask="assistant")


@pytest.mark.parametrize("batching", ["stream", "padded"])
def test_a_sequence_is_learned_as_it_stands_in_each_epoch(batching: Batching) -> None:
    sequence = replace(some_conversations(), in_order=True)
    made = loader(sequence, batching)
    for _ in range(2):
        met = [made.batch() and made.origins()["conversations"] for _ in range(made.steps_per_epoch)]
        assert [number for step in met for number in step] == sorted(number for step in met for number in step)
        assert met[0][0] == 0


@pytest.mark.parametrize("batching", ["packed", "bucketed"])
def test_a_sequence_is_refused_where_rows_go_by_length(batching: Batching) -> None:
    with pytest.raises(SpecError, match=f"are a sequence, and batching '{batching}' puts them side by side"):
        loader(replace(some_conversations(), in_order=True), batching)
