"""What `nanochat run` prints at its end: the stages, what was learned, how to chat, where the report is."""

from typing import Any

from rich.console import Console
from rich.table import Table

from flows.pipeline import PipelineResult
from flows.stage import StageOutcome
from nanochat_core.artifacts import read_json

HEADLINES = 4  # metrics of a stage that fit into a line


def stage_table(outcomes: list[StageOutcome]) -> Table:
    """Return a table with a row for each stage: its seconds in this run, or that it was cached, and its numbers."""
    table = Table("stage", "", "headline", title="Stages", title_justify="left")
    table.columns[1].justify = "right"
    for outcome in outcomes:
        time = "cached" if outcome.is_cached else f"{outcome.seconds:.1f} s"
        numbers = [f"{name} {value:.4g}" for name, value in outcome.metrics.items() if isinstance(value, int | float)]
        table.add_row(outcome.stage, time, "  ".join(numbers[:HEADLINES]))
    return table


def learning_lines(report: dict[str, Any]) -> list[str]:
    """Return what the stages taught the model, one line each, as far as the report has the numbers."""
    pretrain, sft, rl = (report.get(name) or {} for name in ("pretrain", "sft", "rl"))
    lines = []
    if {"val_bpb_first", "val_bpb_last"} <= pretrain.keys():
        bigram = f" (bigram table: {pretrain['bigram_bpb']:.3f})" if pretrain.get("bigram_bpb") else ""
        first, last = pretrain["val_bpb_first"], pretrain["val_bpb_last"]
        lines.append(f"pretrain: validation bpb {first:.3f} -> {last:.3f}, -{1 - last / first:.0%}{bigram}")
    for task in ("arithmetic", "spelling"):
        if (accuracy := sft.get(f"{task}_accuracy")) is not None:
            lines.append(f"sft: {task} {accuracy:.1%} of held-out questions")
    if {"reward_before", "reward_after"} <= rl.keys():
        low = f" (gain at least {rl['reward_gain_low']:+.3f})" if rl.get("reward_gain_low") is not None else ""
        lines.append(f"rl: reward {rl['reward_before']:.3f} -> {rl['reward_after']:.3f}{low}")
    return lines


def print_summary(result: PipelineResult, console: Console) -> None:
    """Print the end of a run; the path of the report comes last."""
    console.print(stage_table(result.outcomes))
    for line in learning_lines(read_json(result.report / "report.json")):
        console.print(line, markup=False)
    console.print(
        'Chat with it: nanochat chat        Ask one thing: nanochat chat --prompt "What is 12*7?"', markup=False
    )
    console.print(f"Report: {result.report / 'report.md'}", markup=False, soft_wrap=True)
