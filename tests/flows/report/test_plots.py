"""The curves of what was measured while a stage trained."""

import re
from typing import Any

from flows.report.plots import MORE_COLORS, Plot, plots_of, svg


def lines_of(*tasks: str, mean: str = "chatcore") -> list[dict[str, Any]]:
    """Return metric lines of three measurements, with other lines in between."""
    lines: list[dict[str, Any]] = []
    for step in (0, 100, 200):
        lines.append({"step": step, "train/loss": 3.0, "evaluating": "chatcore: 0 of 8"})
        values = {f"eval/{mean}": step / 400, f"eval/{mean}_stderr": 0.05, f"eval/{mean}_seconds": 7.0}
        for task in tasks:
            values |= {f"eval/{task}/accuracy": step / 300, f"eval/{task}/stderr": 0.1}
        lines.append({"step": step + 1} | values)
    return lines


def by_name(stage: str, lines: list[dict[str, Any]], **metrics: Any) -> dict[str, Plot]:
    return {plot.name: plot for plot in plots_of(stage, lines, metrics)}


def test_chatcore_and_its_tasks_are_curves_with_their_errors() -> None:
    plots = by_name("sft", lines_of("MMLU", "ARC-Easy"))
    assert set(plots) == {"sft_loss", "sft_chatcore", "sft_tasks"}
    assert plots["sft_chatcore"].lines == {"chatcore": [(1, 0.0), (101, 0.25), (201, 0.5)]}
    assert plots["sft_chatcore"].title == "SFT: ChatCORE"
    assert list(plots["sft_tasks"].lines) == ["MMLU", "ARC-Easy"]
    assert plots["sft_tasks"].errors == {"MMLU": [0.1] * 3, "ARC-Easy": [0.1] * 3}
    bands = re.findall('<g id="FillBetween', svg(plots["sft_tasks"]))
    assert len(bands) == 2


def test_core_is_a_curve_and_its_22_tasks_are_left_to_mlflow() -> None:
    plots = by_name("pretrain", lines_of(*(f"task {n}" for n in range(22)), mean="core"))
    assert set(plots) == {"pretrain_loss", "pretrain_core"}
    few = [f"task {n}" for n in range(len(MORE_COLORS))]
    tasks = by_name("pretrain", lines_of(*few, mean="core_partial"))["pretrain_tasks"]
    assert len(set(re.findall(r"stroke: (#\w+)", svg(tasks)))) == len(few), "each task has a color of its own"


def test_a_metric_of_a_user_s_evaluator_is_a_curve_too() -> None:
    plots = by_name("midtrain", [{"step": 1, "eval/my metric (%)": 2.0}])
    assert plots["midtrain_my-metric-"].title == "Mid-training: my metric (%)"


def test_pass_at_k_is_one_line_for_each_k() -> None:
    lines = [{"step": step, "rl/held_out_reward": 0.5, "rl/pass_at_1": 0.5, "rl/pass_at_4": 0.75} for step in (0, 20)]
    plots = by_name("rl", lines, reward_after=0.6, steps=20)
    assert plots["rl_pass_at_k"].lines == {"pass@1": [(0, 0.5), (20, 0.5)], "pass@4": [(0, 0.75), (20, 0.75)]}
    assert plots["rl_reward"].lines["held out"] == [(0, 0.5), (20, 0.5)], "the last measurement is there already"
    older = by_name("rl", lines[:1], reward_after=0.6, steps=20)
    assert older["rl_reward"].lines["held out"] == [(0, 0.5), (20, 0.6)]


def test_a_stage_that_was_not_measured_has_the_plots_of_before() -> None:
    assert set(by_name("pretrain", [{"step": 0, "train/loss": 4.0, "val/bpb": 3.0}])) == {
        "pretrain_loss",
        "pretrain_bpb",
    }
    assert by_name("evaluate_sft", lines_of("MMLU")) == {}
