"""What `nanochat run` prints at its end: the stages, what was learned, how to chat, where the report is."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.pipeline import PipelineResult
from flows.stage import StageOutcome
from nanochat_core.artifacts import read_json
from nanochat_core.model_chain import made_by

HEADLINES = {  # what to read first, by how a stage's name or its kind of training begins: metric -> its name here
    "download": {"train_documents": "documents", "train_characters": "characters"},
    "task_data": {"files": "files"},
    "tokenizer": {"vocab_size": "tokens", "bytes_per_token": "bytes per token"},
    "pretrain": {"val_bpb_first": "bpb before", "val_bpb_last": "after", "tokens_per_second": "tokens/s"},
    "conversations": {"train_rows": "conversations", "train_tokens": "tokens"},
    "finetune": {"val_loss_first": "loss before", "val_loss_last": "after"},
    "sampled_pairs": {"train_pairs": "pairs", "mean_reward": "reward"},
    "preferences": {"train_rows": "pairs"},
    "dpo": {"val_margin_last": "margin", "val_accuracy_last": "ranked right"},
    "reward_model": {"val_accuracy_last": "ranked right"},
    "rl": {"reward_before": "reward before", "reward_after": "after"},
    "evaluate_base": {"core": "CORE", "bpb_validation": "bpb"},
    "evaluate": {"chatcore": "ChatCORE"},
    "contamination": {"contaminated": "questions in the text", "checked": "of"},
}


def stage_table(outcomes: list[StageOutcome]) -> Table:
    """Return a table with a row for each stage: Prefect's state of it, its seconds in this run, and its numbers."""
    table = Table("stage", "state", "seconds", "headline", title="Stages", title_justify="left")
    table.columns[2].justify = "right"
    for outcome in outcomes:
        table.add_row(outcome.stage, outcome.state, f"{outcome.seconds:.1f}", headline(outcome.stage, outcome.metrics))
    return table


def headline(stage: str, metrics: Mapping[str, Any]) -> str:
    """Return the stage's first numbers in a few words.

    >>> headline("midtrain", {"val_loss_first": 7.4, "val_loss_last": 0.82, "steps": 280})
    'loss before 7.4, after 0.82'
    """
    model = made_by(stage)
    kind = model.training if model else stage
    names = next((names for start, names in HEADLINES.items() if kind.startswith(start)), {})
    return ", ".join(
        f"{label} {number(metrics[name])}" for name, label in names.items() if metrics.get(name) is not None
    )


def number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"


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
    command = sys.argv[0] if Path(sys.argv[0]).name == "nanochat" else "nanochat"
    console.print(f"Chat with it:  {command} chat", markup=False, soft_wrap=True)
    console.print(f'Ask one thing: {command} chat --prompt "What is 12*7?"', markup=False, soft_wrap=True)
    console.print(f"Report: {result.report / 'report.md'}", markup=False, soft_wrap=True)
