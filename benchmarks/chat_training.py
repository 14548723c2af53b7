"""What fine-tuning, preferences and reinforcement learning are worth, from a small model of real text, on the CPU.

    .venv/bin/python benchmarks/chat_training.py [--seeds 3] [--work DIR]

The recipe `demo` on the mirror that NANOCHAT_TEST_HUB points at (../shared/hub where empty), through `nanochat` as a
user would: the base model, mid-training, SFT with its scores; RL on sums and on spelling, with several seeds; DPO and a
reward model on pairs of the reference answer and the SFT model's own wrong sample; RL that pleases the reward model.
Stages are cached in DIR, so the study may be stopped at any time and goes on where it was; half an hour on two cores.
Prints tables, and as its last line one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._bars import print_bars
from benchmarks._machine import machine
from flows.evaluation.statistics import paired_difference
from nanochat_core.artifacts import read_json
from tests.hub_server import HubServer

PROJECT = Path(__file__).parent.parent
ARITHMETIC_BAR, PAIRS_BAR = 0.8, 0.7
EXAMPLES = 500  # held-out questions that the scores are of
SUMS, SPELLING, PLEASED = "RL on sums", "RL on spelling", "RL on the reward model"
QUESTIONS = {"LongArithmetic": 1200, "Arithmetic": 400, "Spelling": 400}
PAIRED = {"mixture": [{"task": task, "rows": rows} for task, rows in QUESTIONS.items()], "validation_rows": 300}
PAIRS = {
    "conversations": PAIRED,
    "samples_per_question": 4,
    "max_new_tokens": 48,
}
DPO_RATES = {"optimizer": {"lr_scale": 0.02, "warmdown_ratio": 1.0}}
REWARD_MODEL_RATES = {"optimizer": {"lr_scale": 0.2, "warmdown_ratio": 1.0}}
SUMS_MIXTURE = [{"task": "LongArithmetic", "rows": 3000}, {"task": "Arithmetic", "rows": 1000}]  # hard, and easy
PRACTICE: dict[str, dict[str, Any]] = {
    SUMS: {"conversations": {"mixture": SUMS_MIXTURE, "validation_rows": 384}},
    SPELLING: {
        "conversations": {"mixture": [{"task": "Spelling", "rows": 6000}], "validation_rows": 384},
        "steps": 80,
        "eval_every": 80,
    },
    PLEASED: {"conversations": PAIRED | {"validation_rows": 384}, "reward": "preference"},
}
RL = {"questions_per_step": 32, "samples_per_question": 8, "max_new_tokens": 48, "steps": 40}
RL |= {"eval_questions": 384, "eval_samples": 4, "eval_every": 40, "optimizer.lr_scale": 0.6}


@dataclass(frozen=True)
class Study:
    """Where the stages lie, and the mirror that they are made from."""

    work: Path
    hub: HubServer

    def stage(self, stage: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Make a stage of the demo, or find it made; return the metrics of every stage that it is made from."""
        urls = {"core_bundle_url": self.hub.core_bundle_url, "words_url": self.hub.words_url}
        fields = {f"task_data.{name}": url for name, url in urls.items()} | dict(changes)
        options = [part for name, value in fields.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        command = [sys.executable, "-m", "flows.cli", "stage", stage, "demo", "--data", "hub", *options]
        environment = os.environ | {"NANOCHAT_BASE_DIR": str(self.work)} | self.hub.environment(self.work / "hf_home")
        subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=sys.stderr)
        folders = read_json(self.work / "newest_run.json")["folders"]
        results = {name: self.work / "artifacts" / folder / "result.json" for name, folder in folders.items()}
        return {name: read_json(path)["metrics"] for name, path in results.items() if path.exists()}


def practised(study: Study, name: str, seeds: int, others: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what RL did with each seed."""
    fields = {f"rl.{field}": value for field, value in (RL | PRACTICE[name]).items()}
    return [study.stage("rl", fields | {"rl.seed": seed} | dict(others))["rl"] for seed in range(seeds)]


def gains(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean gain in held-out reward, with Student's 95 % interval over the seeds."""
    before, after = ([run[f"reward_{when}"] for run in runs] for when in ("before", "after"))
    found = paired_difference(before, after, confidence=0.95)
    each = [round(new - old, 4) for old, new in zip(before, after, strict=True)]
    rounded = {name: round(getattr(found, name), 4) for name in ("old", "new", "mean", "low", "high")}
    return {"gains": each} | rounded


def measured(study: Study, seeds: int) -> dict[str, Any]:
    """Return all that the study measures, by name; made before, it is read."""
    chat = {"evaluate.chat_tasks": ["Arithmetic", "LongArithmetic", "Spelling"], "evaluate.chat_examples": EXAMPLES}
    scores = study.stage("evaluate", chat | {"rl": None})
    found: dict[str, Any] = {
        "SFT": {name: scores["sft"][f"val_loss_{name}"] for name in ("first", "last")},
        "scores after SFT": {name: value for name, value in scores["evaluate_sft"].items() if "accuracy" in name},
    }
    for name in (SUMS, SPELLING):
        found[name] = gains(practised(study, name, seeds, {}))
    pairs = {"preferences": {"sampled": PAIRS}}
    found["DPO"] = study.stage("dpo", {"dpo": pairs | DPO_RATES})["dpo"]
    pleasing = {"reward_model": pairs | REWARD_MODEL_RATES}
    found["reward model"] = study.stage("reward_model", pleasing)["reward_model"]
    found[PLEASED] = gains(practised(study, PLEASED, seeds, pleasing))
    return found


def bars_of(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is to be reached: {what: {"value", "bar", "ok"}}."""
    sft, sums = found["SFT"], found["scores after SFT"]["accuracy/Arithmetic"]
    rise = found["DPO"]["val_margin_low"] - found["DPO"]["val_margin_first"]
    ranked = found["reward model"]["val_accuracy_last"]
    bars: dict[str, dict[str, Any]] = {
        "held-out loss after SFT, minus mid-training's": {
            "value": round(sft["last"] - sft["first"], 4),
            "bar": "< 0",
            "ok": sft["last"] < sft["first"],
        },
        "sums right after SFT": {"value": sums, "bar": f">= {ARITHMETIC_BAR}", "ok": sums >= ARITHMETIC_BAR},
        "DPO: rise of the held-out margin, low end of 95 %": {"value": round(rise, 4), "bar": "> 0", "ok": rise > 0},
        "reward model: held-out pairs": {"value": ranked, "bar": f">= {PAIRS_BAR}", "ok": ranked >= PAIRS_BAR},
    }
    for name in PRACTICE:
        low = found[name]["low"]
        bars[f"{name}: gain, low end of 95 % over seeds"] = {"value": low, "bar": "> 0", "ok": low > 0}
    return bars


def print_practice(found: Mapping[str, Any], console: Console) -> None:
    table = Table("held-out reward", "before", "after", "gain of each seed", "95 % over seeds")
    for name in PRACTICE:
        row = found[name]
        each = ", ".join(f"{gain:+.3f}" for gain in row["gains"])
        ends = f"{row['low']:+.3f} to {row['high']:+.3f}"
        table.add_row(name, f"{row['old']:.3f}", f"{row['new']:.3f}", each, ends)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of each RL, two at least")
    parser.add_argument("--work", type=Path, help="base folder of the study; default: a new one")
    chosen = parser.parse_args()
    console = Console()
    work = (chosen.work or Path(tempfile.mkdtemp(prefix="chat-training-"))).absolute()
    mirror = Path(os.environ.get("NANOCHAT_TEST_HUB") or PROJECT.parent / "shared" / "hub")
    with HubServer(mirror) as hub:
        found = measured(Study(work, hub), chosen.seeds)
    print_practice(found, console)
    bars = bars_of(found)
    print_bars(bars, console)
    print(json.dumps({"benchmark": "chat_training", "machine": machine(), "results": found, "bars": bars}))


if __name__ == "__main__":
    main()
