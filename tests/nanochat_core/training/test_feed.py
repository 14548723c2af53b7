"""The feed: the loader's rows, widened, in order, and continued exactly wherever it stopped."""

import contextlib

import numpy as np
import pytest
import torch
from torch import Tensor

from nanochat_core.data.packing import PackingCounts
from nanochat_core.errors import DataError
from nanochat_core.training.feed import SNAPSHOT_EVERY, Feed, signed, widened

CPU = torch.device("cpu")


class Counting:
    """Rows that hold the step's number; as a real loader, one that can be continued from its state."""

    def __init__(self, dtype: type = np.uint16, last: int | None = None) -> None:
        self.step, self.dtype, self.last, self.is_closed = 0, dtype, last, False

    def rows(self) -> np.ndarray:
        if self.step == self.last:
            raise DataError("the text is at its end")
        self.step += 1
        return np.full((2, 5), self.step, self.dtype)

    @property
    def counts(self) -> PackingCounts:
        return PackingCounts(rows=2 * self.step)

    def state(self) -> dict[str, Tensor]:
        return {"step": torch.tensor([self.step])}

    def load(self, state: dict[str, Tensor]) -> None:
        self.step = int(state["step"])

    def origins(self) -> dict[str, list[int]]:
        self.rows()
        return {"counted": [self.step]}

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("steps", [0, 1, 5, SNAPSHOT_EVERY - 1, SNAPSHOT_EVERY, SNAPSHOT_EVERY + 1, 100])
def test_a_state_is_that_of_the_steps_taken_and_not_of_those_made_ahead(steps: int) -> None:
    with contextlib.closing(Feed(Counting(), CPU)) as feed:
        for step in range(1, steps + 1):
            ids, targets = feed.batch()
            assert ids.dtype == targets.dtype == torch.int64 and ids.shape == targets.shape == (2, 4)
            assert ids.unique().tolist() == [step] and feed.counts.rows == 2 * step
        state = feed.state()
    assert int(state["feed.taken"]) <= SNAPSHOT_EVERY
    with contextlib.closing(Feed(Counting(), CPU)) as again:
        again.load(state)
        assert again.counts.rows == 2 * steps
        assert again.state() == state
        assert [int(again.batch()[0][0, 0]) for _ in range(3)] == [steps + 1, steps + 2, steps + 3]

    with contextlib.closing(Feed(Counting(), CPU)) as stopped, contextlib.closing(Feed(Counting(), CPU)) as whole:
        stopped.load(state)
        for _ in range(40):
            stopped.batch()
        for _ in range(steps + 40):
            whole.batch()
        assert stopped.state() == whole.state()  # a checkpoint says nothing of how often its run was stopped


@pytest.mark.parametrize("steps", [1, SNAPSHOT_EVERY, SNAPSHOT_EVERY + 1])
def test_it_says_where_the_last_batch_is_from_and_goes_on_as_if_nobody_had_asked(steps: int) -> None:
    with contextlib.closing(Feed(Counting(), CPU)) as feed:
        for _ in range(steps):
            feed.batch()
        assert feed.origins() == {"counted": [steps]}
        assert int(feed.batch()[0][0, 0]) == steps + 1


def test_a_feed_goes_back_to_an_earlier_state_in_the_middle_of_its_work() -> None:
    with contextlib.closing(Feed(Counting(), CPU)) as feed:
        for _ in range(3):
            feed.batch()
        state = feed.state()
        for _ in range(SNAPSHOT_EVERY + 5):
            feed.batch()
        feed.load(state)
        assert int(feed.batch()[0][0, 0]) == 4 and feed.counts.rows == 2 * 4


def test_an_error_of_the_loader_reaches_the_training() -> None:
    with contextlib.closing(Feed(Counting(last=2), CPU)) as feed:
        feed.batch()
        feed.batch()
        with pytest.raises(DataError, match="at its end"):
            feed.batch()


def test_closing_stops_the_thread_and_the_loader() -> None:
    loader = Counting()
    feed = Feed(loader, CPU)
    feed.batch()
    thread = feed._thread
    feed.close()
    assert loader.is_closed and not thread.is_alive()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_the_largest_ids_survive_the_way(dtype: type) -> None:
    rows = np.array([[0, 1, np.iinfo(dtype).max]], dtype)
    assert widened(signed(rows)).tolist() == rows.tolist()


@pytest.mark.gpu
def test_pinned_buffers_are_never_written_before_they_are_sent() -> None:
    device = torch.device("cuda")
    with contextlib.closing(Feed(Counting(), device)) as feed:
        for step in range(1, 300):
            ids, targets = feed.batch()
            torch.cuda._sleep(100_000)  # the training stream lags behind the copies
            assert ids.unique().tolist() == targets.unique().tolist() == [step % 65_536]
