"""The baseline of benchmarks/eval.py scores what it should, whatever the options' lengths; its bars tell a miss."""

import pytest
import torch

from benchmarks.baselines.plain_scorer import option_losses
from benchmarks.eval import TEN_SHOT, Measured, bars_of, together
from tests.nanochat_core.inference.test_engine import TOKENIZER, random_model
from tests.slow_scorer import scored


def test_the_baseline_gives_the_losses_of_each_option_alone() -> None:
    model = random_model(arch="full")
    rows = [[TOKENIZER.bos, *TOKENIZER.encode(text)] for text in ("One and one", "One and one is two", "One")]
    for ids, start, losses in zip(rows, (4, 9, 1), option_losses(model, rows, (4, 9, 1)), strict=True):
        expected, _ = scored(model, ids, len(ids) - start)
        torch.testing.assert_close(losses.double(), -expected, rtol=0, atol=1e-4)


def test_the_whole_ratio_is_that_of_the_times_and_a_slow_task_misses_its_bar() -> None:
    fast, slow = Measured(plain=1, ours=10, apart=1e-5), Measured(plain=1, ours=2, apart=1e-3)
    assert together([fast, slow]) == pytest.approx(2 / (0.1 + 0.5))
    bars = bars_of({"d4": dict.fromkeys(TEN_SHOT, fast) | {"boolq": slow}})
    assert [bar["ok"] for bar in bars.values()] == [True, False, False]
