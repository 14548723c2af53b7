import math
from typing import Any

import pytest

from benchmarks._quality_arms import ABLATIONS, trainer_of
from benchmarks.quality import best_adamw, gap_bar, mean_bpb, summary


def runs(*bpbs: float | None) -> dict[int, dict[str, Any]]:
    return {seed: {"bpb": bpb, "parameters": 1, "tokens_per_second": 1.0} for seed, bpb in enumerate(bpbs)}


def test_a_gap_counts_only_where_it_is_larger_than_the_spread_of_the_seeds() -> None:
    found = {"full": runs(2.0, 2.1), "classic": runs(2.3, 2.4), "near": runs(2.05, 2.15)}
    assert gap_bar(found, "full", "classic") == {"value": 0.3, "bar": "> 0.10000 (2 seeds)", "ok": True}
    assert not gap_bar(found, "full", "near")["ok"]


def test_a_gap_is_taken_over_the_seeds_that_both_arms_have() -> None:
    assert gap_bar({"full": runs(2.0, 9.0), "classic": runs(2.5)}, "full", "classic")["value"] == 0.5


def test_a_gap_to_an_arm_without_runs_is_missed() -> None:
    assert gap_bar({"full": runs(2.0)}, "full", "")["ok"] is False


def test_a_run_that_diverged_is_worse_than_any() -> None:
    found = {"full": runs(2.0), "classic_adamw_0.001": runs(3.0, None), "classic_adamw_0.003": runs(4.0)}
    assert mean_bpb(runs(2.0, None)) == math.inf
    assert summary(found)["classic_adamw_0.001"]["mean_bpb"] is None
    assert best_adamw(found) == "classic_adamw_0.001", "by the seed that both have"


def test_each_ablation_takes_one_thing_away() -> None:
    full = trainer_of("full")
    for name in ABLATIONS:
        arm = trainer_of(name)
        assert (arm.blocks == full.blocks) != (arm.recipe == full.recipe)


def test_an_unknown_arm_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ValueError, match="full-smear"):
        trainer_of("fool")
