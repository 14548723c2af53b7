"""Garbage is collected rarely while a run lasts, and as ever after it."""

import gc

from nanochat_core.training.garbage import COLLECT_EVERY, RareCollection


def test_it_is_collected_after_the_first_step_and_then_rarely_and_as_ever_at_the_end() -> None:
    collections: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            collections.append(steps)

    steps = 0
    gc.callbacks.append(note)
    try:
        with RareCollection() as collection:
            for _ in range(COLLECT_EVERY + 1):
                steps += 1
                collection.after_step()
            assert not gc.isenabled() and gc.get_freeze_count() > 0
    finally:
        gc.callbacks.remove(note)
    assert [made for made in collections if made] == [1, COLLECT_EVERY + 1]
    assert gc.isenabled() and gc.get_freeze_count() == 0
