"""The two contenders of benchmarks/rl.py do the same step: equal answers, an equal loss."""

import pytest

from benchmarks.rl import equal_share, our_step, plain_step, workload


def test_both_contenders_draw_the_same_answers_and_learn_the_same_from_them() -> None:
    work = workload(questions=2, samples=3, new_tokens=6)
    plain, ours = plain_step(work), our_step(work)
    assert [len(samples) for samples in plain.answers] == [3, 3]
    assert equal_share(plain, ours) == 1
    assert len({ids for samples in plain.answers for ids in samples}) > 3
    assert ours.loss == pytest.approx(plain.loss, abs=1e-6) and abs(plain.loss) > 1e-6
