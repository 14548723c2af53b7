"""Which rows compute which tokens in the next step: continuous batching over slots and pages.

Rows wait in a line and enter between steps, the oldest first, as soon as there is a slot and pages for their prompt. A
row begins with what another row, running or finished, has computed already; while a running row still computes what two
have in common, the other waits for it. Where pages end, finished rows are forgotten first; then the youngest row goes
back into the line and is computed again later. Rows that run stay in the lowest slots: neighbours attend together.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from nanochat_core.inference.kv_memory import KVMemory
from nanochat_core.inference.prefixes import PrefixStore, common_prefix
from nanochat_core.inference.row import Row

WORTH_WAITING = 16  # tokens in common with another request: fewer are computed twice sooner than waited for
LOOKS_AHEAD = 64  # rows of the line that are tried, where the first ones wait for what another computes
MOVED_BYTES = 1_000_000  # of a row's keys and values in a layer: more are not copied to close a gap between the slots


@dataclass(frozen=True)
class Work:
    """The next `count` tokens of a row that are not computed yet."""

    row: Row
    count: int


class Scheduler:
    """Rows that run and rows that wait, over one memory of `pages_total` pages: all of it, or what the owner allows."""

    def __init__(self, memory: KVMemory, *, rows: int, step_tokens: int) -> None:
        self.memory, self.step_tokens = memory, step_tokens
        self._most_pages = memory.slots * memory.shape.pages(memory.shape.capacity)  # of all slots, where all are full
        self.pages_total = self._most_pages
        self.prefixes = PrefixStore(memory, range(rows, memory.slots))
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []  # the oldest first
        self.restarts = 0
        self._free_slots = list(range(rows - 1, -1, -1))

    @property
    def pages_used(self) -> int:
        return sum(row.pages for row in self.running)

    def why_never(self, tokens: int) -> str | None:
        """Return why a row of that many tokens can never run, None where it can."""
        if tokens > self.memory.shape.capacity:
            return f"{tokens} tokens are more than the context of {self.memory.shape.capacity}"
        needed = self.memory.shape.pages(tokens)
        if needed > self.pages_total:
            return f"{tokens} tokens need {needed} pages of memory, and there are {self.pages_total}"
        return None

    def add(self, row: Row) -> None:
        """Put a row at the end of the line."""
        self.waiting.append(row)

    def remove(self, row: Row) -> None:
        """Take a row out, done or not. A request's first sample, when done, is kept for those that begin like it."""
        if row in self.running:
            self.running.remove(row)
            self._leave(row, keep=row.is_done and row.sample == 0)
        elif row in self.waiting:
            self.waiting.remove(row)

    def plan(self) -> list[Work]:
        """Admit rows and return the work of the next step, in the order of the slots."""
        self._admit()
        self._close_gaps()
        budget, works = self.step_tokens, []
        for row in list(self.running):
            pending = row.end - row.computed
            count = min(pending, max(budget, 1))
            if row.slot is None or row.call is not None or (pending > 1 and budget < 1):
                continue  # put back meanwhile, waiting for its tool, or too much for this step
            if self._reserve(row, row.computed + count):
                works.append(Work(row, count))
                budget -= count
        return sorted(works, key=lambda work: work.row.slot or 0)

    def computed(self, row: Row, count: int) -> None:
        """Note that the next `count` tokens of a row are in the memory."""
        row.computed += count
        assert row.slot is not None
        self.memory.trim(row.slot, row.computed)

    def _admit(self) -> None:
        skipped: list[Row] = []
        known: dict[tuple[int, int], int] = {}
        while self.waiting and self._free_slots and len(skipped) < LOOKS_AHEAD:
            row = self.waiting.popleft()
            ids = row.prompt if len(row.ids) == row.prompt_length else np.array(row.ids)
            source, shared, is_worth_waiting = self._best_source(row, ids, known)
            if is_worth_waiting:
                skipped.append(row)
                continue
            slot = self._free_slots.pop()
            needed = self.memory.pages(slot, min(len(row.ids), shared + self.step_tokens))
            growth = len(self.running) * len(self.memory.shape.windows)  # each row's next page, in each layer
            if not self._make_room(needed, margin=min(growth, self.pages_total // 8)):
                self._free_slots.append(slot)
                self.waiting.appendleft(row)
                break
            row.pages, row.slot = needed, slot
            self._begin(row, ids, source, shared)
            self.running.append(row)
        self.waiting.extendleft(reversed(skipped))

    def _close_gaps(self) -> None:
        """Move the rows of the highest slots into free ones below them, where that is little to copy."""
        while self._free_slots and self._free_slots[-1] < len(self.running):
            row = max(self.running, key=lambda row: row.slot or 0)
            assert row.slot is not None
            if row.computed * self.memory.shape.token_bytes > MOVED_BYTES:
                break
            slot, before = self._free_slots.pop(), row.slot
            growth = self.memory.pages(slot, row.computed)  # what it leaves behind is the old slot's until it is needed
            if not self._make_room(growth):
                self._free_slots.append(slot)
                break
            self.memory.copy_row(before, slot, row.computed)
            self.memory.leave(before, row.computed)
            row.slot, row.pages = slot, growth
            self._free_slots.append(before)
            self._free_slots.sort(reverse=True)

    def _best_source(
        self, row: Row, ids: np.ndarray, known: dict[tuple[int, int], int]
    ) -> tuple[Row | None, int, bool]:
        """Return the running row that has computed the most of `ids`, how much, and whether to wait for more.

        No row, and what is stored, where no running row has as much as that. `known`: what the prompts of two requests
        have in common, for the many samples of each.
        """
        limit = len(ids) - 1 if row.score_from is None else row.score_from - 1
        best, soon, source, is_sibling = 0, 0, None, False
        for other in reversed(self.running):  # a sample of the same request, if any, is among the last
            pair = (id(other.request), id(row.request))
            if ids is not row.prompt:
                common = common_prefix(other.prompt, ids)
            else:
                if pair not in known:
                    known[pair] = common_prefix(other.prompt, ids)
                common = known[pair]
            common = min(common, limit)
            assert other.slot is not None
            ready = min(common, other.computed)
            is_sibling |= other.request is row.request
            soon = max(soon, common)
            if ready > best and ready >= self.memory.first_usable(other.slot):
                best, source = ready, other
                if best == limit:
                    return source, best, False
        stored, _ = self.prefixes.best(ids[: limit + 1])
        if stored > best:
            best, source = stored, None
        return source, best, soon > best if is_sibling else soon - best >= WORTH_WAITING

    def _begin(self, row: Row, ids: np.ndarray, source: Row | None, shared: int) -> None:
        """Give a row what is computed of it already."""
        assert row.slot is not None
        if source is not None and source.slot is not None:
            self.memory.copy_row(source.slot, row.slot, shared)
        elif shared:
            length, entry = self.prefixes.best(ids[: shared + 1])
            if entry is None or length < shared:  # it was forgotten to make room for this very row
                shared = 0
            else:
                self.memory.copy_row(entry.slot, row.slot, shared)
        row.computed = row.cached_tokens = shared

    def _reserve(self, row: Row, length: int) -> bool:
        """Have the pages of a row that grows to `length`; False where it was put back instead."""
        assert row.slot is not None
        needed = self.memory.pages(row.slot, length)
        while needed > row.pages and not self._make_room(needed - row.pages):
            youngest = self.running[-1]
            self._put_back(youngest)
            if youngest is row:
                return False
        row.pages = needed
        return True

    def _make_room(self, pages: int, margin: int = 0) -> bool:
        """Have that many pages free, and a margin; False where there are not so many.

        What free slots still have is given up first, then finished rows.
        """
        if self.pages_total >= self._most_pages:
            return True
        idle = {slot: self.memory.pages(slot, 0) for slot in (*self._free_slots, *self.prefixes.free_slots)}
        free = self.pages_total - self.pages_used - self.prefixes.pages - sum(idle.values())
        for slot, held in idle.items():
            if free < pages + margin and held:
                self.memory.give_back(slot)
                free += held
        if free < pages + margin:
            free += self.prefixes.give_up(pages + margin - free)
        return free >= pages + margin

    def _put_back(self, row: Row) -> None:
        self.running.remove(row)
        self._leave(row, keep=False)
        row.restart()
        self.waiting.appendleft(row)
        self.restarts += 1

    def _leave(self, row: Row, *, keep: bool) -> None:
        assert row.slot is not None
        slot, row.slot, row.pages = row.slot, None, 0
        if keep and row.computed >= WORTH_WAITING:
            self.prefixes.add(np.array(row.ids[: row.computed]), slot)
        self.memory.leave(slot, row.computed)
        self._free_slots.append(slot)
        self._free_slots.sort(reverse=True)
        self._make_room(0)

    def forget(self) -> None:
        """Forget all finished rows: the weights are others now."""
        self.prefixes.clear()
