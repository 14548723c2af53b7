"""Pairs for each step: each once an epoch, shared by ranks, continued exactly, and rows that learn the answer alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.data.own.preference_files import Pair
from nanochat_core.data.preference_loader import PairLoader, PreferencePairs
from nanochat_core.data.preference_pairs import write_pairs
from nanochat_core.distributed import World
from nanochat_core.errors import DataError
from nanochat_core.model.loss import IGNORED
from tests.fakes import byte_tokenizer

TOKENIZER = byte_tokenizer()
CPU = torch.device("cpu")
FRAME = 5  # special tokens of a prompt and its answer


def pairs_of(path: Path, lengths: list[int], *, sequence_len: int = 64) -> PreferencePairs:
    """Return pairs whose longer answer, the rejected one, has so many letters."""
    prompt = [{"role": "user", "content": "?"}]
    write_pairs(path, TOKENIZER, [Pair(prompt, "y", "n" * length) for length in lengths])
    return PreferencePairs(path, sequence_len=sequence_len)


def loader(pairs: PreferencePairs, rank: int = 0, size: int = 1, batch_pairs: int = 4) -> PairLoader:
    return PairLoader(pairs, batch_pairs=batch_pairs, seed=3, world=World(rank, size, CPU))


@pytest.fixture(scope="module")
def eleven(tmp_path_factory: pytest.TempPathFactory) -> PreferencePairs:
    return pairs_of(tmp_path_factory.mktemp("pairs") / "train.parquet", list(range(1, 12)))


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 4))
def test_an_epoch_has_every_pair_once_whatever_the_ranks(eleven: PreferencePairs, batch_pairs: int, size: int) -> None:
    loaders = [loader(eleven, rank, size, batch_pairs) for rank in range(size)]
    alone = loader(eleven, batch_pairs=batch_pairs)
    orders = []
    for _ in range(2):
        seen: list[int] = []
        for _ in range(alone.steps_per_epoch):
            numbers, count = alone.next_pairs()
            shares = [one.next_pairs() for one in loaders]
            assert sorted(np.concatenate([share for share, _ in shares])) == sorted(numbers)
            assert {total for _, total in shares} == {count} and count == len(numbers) <= batch_pairs
            seen += numbers.tolist()
        assert sorted(seen) == list(range(11))
        orders.append(seen)
    assert batch_pairs > 1 or orders[0] != orders[1]


def test_pairs_go_on_where_the_checkpoint_was_written(eleven: PreferencePairs) -> None:
    one, resumed = loader(eleven), loader(eleven)
    for _ in range(4):
        one.next_pairs()
    resumed.load(one.state())
    assert [one.next_pairs()[0].tolist() for _ in range(5)] == [resumed.next_pairs()[0].tolist() for _ in range(5)]
    numbers, _ = one.next_pairs()
    assert one.origins() == {"pairs": sorted(numbers.tolist())}


def test_rows_are_the_chosen_answers_then_the_rejected_ones_and_targets_are_the_answers_alone(
    eleven: PreferencePairs,
) -> None:
    batch = eleven.batch(np.array([2, 0]))
    assert batch.numbers.tolist() == [2, 0]
    end = TOKENIZER.special("<|assistant_end|>")
    said = [[int(token) for token in row if token != IGNORED] for row in batch.targets]
    assert said == [[ord("y"), end], [ord("y"), end], [ord("n")] * 3 + [end], [ord("n"), end]]
    assert [int(row[place]) for row, place in zip(batch.idx, batch.last, strict=True)] == [end] * 4
    assert batch.tokens == sum(FRAME + 1 + letters for letters in (1, 1, 3, 1)) == int((batch.idx != 0).sum())
    follow = batch.targets != IGNORED
    assert torch.equal(batch.idx[:, 1:][follow[:, :-1]], batch.targets[follow]), "a target is the token that follows"


def test_pairs_that_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path / "pairs.parquet", [1, 9, 10, 2], sequence_len=FRAME + 1 + 9)
    assert (pairs.fitting.tolist(), pairs.left_out, len(pairs)) == ([0, 1, 3], 1, 4)
    assert pairs.batch(np.array([1])).idx.shape == (2, FRAME + 1 + 9)
    with pytest.raises(DataError, match=r"none of its 4 pairs fits rows of 6 tokens, the shortest has 7"):
        PreferencePairs(tmp_path / "pairs.parquet", sequence_len=6)
