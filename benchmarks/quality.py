"""How well each recipe learns: validation bits per byte after a fixed number of tokens of real text, on the CPU.

    .venv/bin/python benchmarks/quality.py [--full] [--arms a,b] [--seeds 0,1] [--steps N] [--work DIR] [--jobs 2]

d4 (C = 256, two heads, T = 512), a vocabulary of 8,192, 2,048 tokens a step. `--full`: 300 steps (614,400 tokens),
three seeds, then one row for each ingredient taken away from `full`, two seeds; about two hours on two cores. Without
it: three arms, one seed, 100 steps, which shows a tendency and no more.

- `full`, `classic`: the block sets with their own optimizers (Muon for matrices), rates, schedules and batch rules;
- `classic_adamw_LR`: `classic` with torch.optim.AdamW for all parameters, the best of three learning rates;
- `full_square_root`: the reference's batch rule, which falls with the square root also where it was never tuned;
- `full-NAME`: without that ingredient; `ARM@2`: an arm with all rates doubled (only where asked for by `--arms`).

All arms see the same rows (best fit, in the order of their seed) and are validated on the same rows, the reference's
best fit, so that only the recipe differs. The text is the mirror that NANOCHAT_TEST_HUB points at (../shared/hub where
empty), else the built-in text of the demo. A finished run stays in DIR/runs-STEPS/ARM-SEED.json and is not made again:
the study may be stopped at any time and goes on where it was. Prints a table, and as its last line one JSON object.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._machine import machine
from benchmarks._quality_arms import ABLATIONS, ADAMW_LRS, SQUARE_ROOT, Trainer, adamw_name, trainer_of
from benchmarks.data import shards
from nanochat_core import paths
from nanochat_core.artifacts import read_json, sha256_of, write_json
from nanochat_core.data.document_order import DocumentOrder
from nanochat_core.data.lanes import lanes_of
from nanochat_core.data.loader import RowShape, TokenLoader
from nanochat_core.data.shards import documents
from nanochat_core.data.token_shards import ensure_token_shard
from nanochat_core.data.token_source import CachedTokens
from nanochat_core.data.validation_rows import validation_rows
from nanochat_core.device import set_determinism
from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.model.loss import loss_sum
from nanochat_core.specs import ModelSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.training.validate import bits_per_byte

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
VOCAB_SIZE, SEQUENCE_LEN, STEP_TOKENS = 8192, 512, 2048
VOCABULARY_CHARACTERS, DOCUMENT_CHARACTERS = 50_000_000, 10_000
VALIDATION_TOKENS = 131_072
FULL_STEPS, QUICK_STEPS = 300, 100
LOGGED_STEPS = 20  # the last training losses of a run are averaged over so many
RECIPE_FILES = [f"model/{name}.py" for name in ("gpt", "blocks", "init")]
RECIPE_FILES += [f"optim/{name}.py" for name in ("adamw", "muon", "muon_adamw", "recipe", "scaling", "schedules")]


@dataclass(frozen=True)
class Settings:
    """What the runs of one study have in common."""

    work: Path
    steps: int
    threads: int

    @property
    def runs(self) -> Path:
        return self.work / f"runs-{self.steps}"

    def result(self, arm: str, seed: int) -> Path:
        return self.runs / f"{arm}-{seed}.json"


def model_spec(arch: str) -> ModelSpec:
    return ModelSpec(arch=arch, depth=4, n_embd=256, n_head=2, n_kv_head=2, sequence_len=SEQUENCE_LEN)


def prepare(work: Path) -> None:
    """Write vocabulary, tokenised shards and validation rows to `work`, once; prepared.json says that all are there."""
    if (work / "prepared.json").exists():
        return
    (work / "text").mkdir(parents=True, exist_ok=True)
    train, held_out = shards(work / "text")
    if not (work / "tokenizer/tokenizer.json").exists():
        (work / "tokenizer").mkdir(exist_ok=True)
        Tokenizer.train(_beginnings(train), VOCAB_SIZE).save(work / "tokenizer")
    tokenizer = Tokenizer.load(work / "tokenizer")
    tokens = [ensure_token_shard(path, sha256_of(path), tokenizer, work / "tokens") for path in train]
    write_json(
        work / "prepared.json",
        {"train": list(map(str, train)), "tokens": list(map(str, tokens)), "validation": str(held_out)},
    )


def _beginnings(train: Sequence[Path]) -> list[str]:
    """Return the beginnings of the first documents, as the tokenizer stage takes them."""
    texts, characters = [], 0
    for document in documents(train):
        texts.append(document[:DOCUMENT_CHARACTERS])
        characters += len(texts[-1])
        if characters >= VOCABULARY_CHARACTERS:
            break
    return texts


def loader_of(work: Path, tokenizer: Tokenizer, seed: int) -> TokenLoader:
    """Return the training rows of a seed: the same for every arm."""
    prepared = read_json(work / "prepared.json")
    rows = STEP_TOKENS // SEQUENCE_LEN
    order = DocumentOrder(list(map(Path, prepared["train"])), lanes=lanes_of(rows, 1), seed=seed)
    source = CachedTokens(list(map(Path, prepared["tokens"])), order)
    shape = RowShape.of(tokenizer, sequence_len=SEQUENCE_LEN, rows_per_step=rows, packing="best_fit")
    return TokenLoader(order, source, range(order.lanes), shape)


def run_one(settings: Settings, arm: str, seed: int) -> None:
    """Train and validate one arm with one seed, and write its result."""
    torch.set_num_threads(settings.threads)
    set_determinism(CPU)
    torch.manual_seed(seed)
    tokenizer = Tokenizer.load(settings.work / "tokenizer")
    trainer = trainer_of(arm)
    model = GPT(model_spec(trainer.arch), tokenizer.vocab_size, blocks=trainer.blocks)
    init_weights(model, seed)
    started = time.perf_counter()
    losses = train(model, trainer, loader_of(settings.work, tokenizer, seed), settings.steps)
    seconds = time.perf_counter() - started
    prepared = read_json(settings.work / "prepared.json")
    rows = validation_rows(
        [Path(prepared["validation"])],
        tokenizer,
        sequence_len=SEQUENCE_LEN,
        max_tokens=VALIDATION_TOKENS,
        packing="best_fit",
    )
    token_bytes = torch.from_numpy(tokenizer.token_bytes())
    bpb = bits_per_byte(model, rows, token_bytes, World(0, 1, CPU), batch_rows=8)
    found = {
        "arm": arm,
        "seed": seed,
        "bpb": bpb if math.isfinite(bpb) else None,
        "train_loss_last": statistics.mean(losses[-LOGGED_STEPS:]),
        "train_losses": [round(loss, 4) for loss in losses],
        "steps": settings.steps,
        "tokens": settings.steps * STEP_TOKENS,
        "validation_tokens": rows[:, 1:].numel(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_per_second": settings.steps * STEP_TOKENS / seconds,
        "threads": settings.threads,
        "recipe": recipe_digest(),
    }
    write_json(settings.result(arm, seed), found)


def train(model: GPT, trainer: Trainer, loader: TokenLoader, steps: int) -> list[float]:
    """Train for `steps` steps; return the loss of each, nats per token. Stops early where it is not finite."""
    step_of = trainer.start(model, steps, STEP_TOKENS)
    losses: list[float] = []
    for step in range(steps):
        rows = torch.from_numpy(loader.rows().astype("int64"))
        loss = loss_sum(model, rows[:, :-1].contiguous(), rows[:, 1:].contiguous()) / rows[:, 1:].numel()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        step_of(step)
    return losses


def recipe_digest() -> str:
    """Return a short name of the code that says what is learned how: runs of two recipes shall not pass for one."""
    code = b"".join((ROOT / "nanochat_core" / name).read_bytes() for name in RECIPE_FILES)
    return hashlib.sha256(code).hexdigest()[:12]


def run_all(settings: Settings, wanted: Sequence[tuple[str, int]], jobs: int) -> None:
    """Make the runs that are not there yet, `jobs` at a time, each in a process of its own."""
    waiting = [run for run in wanted if not settings.result(*run).exists()]
    running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
    settings.runs.mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[run] = _started(settings, *run)
            time.sleep(0.2)
            for run, process in list(running.items()):
                if process.poll() is not None:
                    del running[run]
                    _report(settings, run, process.returncode)
    finally:
        for process in running.values():
            process.terminate()


def _started(settings: Settings, arm: str, seed: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, "--one", f"--arms={arm}", f"--seeds={seed}", f"--steps={settings.steps}"]
    command += [f"--threads={settings.threads}", f"--work={settings.work}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    with open(settings.runs / f"{arm}-{seed}.log", "wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _report(settings: Settings, run: tuple[str, int], code: int) -> None:
    """Say how a run ended; one that failed leaves its log, and is made again the next time."""
    log = settings.runs / f"{run[0]}-{run[1]}.log"
    if code:
        print(f"{run[0]} seed {run[1]} FAILED ({code}):\n{log.read_text()[-2000:]}", file=sys.stderr, flush=True)
        return
    log.unlink(missing_ok=True)
    found = read_json(settings.result(*run))
    speed, clock = found["tokens_per_second"], time.strftime("%H:%M:%S")
    bpb = f"{found['bpb']:.4f} bpb" if found["bpb"] else f"diverged at step {len(found['train_losses'])}"
    print(f"{clock} {run[0]} seed {run[1]}: {bpb}, {speed:,.0f} tok/s", flush=True)


def study(settings: Settings, seeds: Sequence[int], jobs: int) -> None:
    """Make the runs of --full: main arms first, then what each ingredient is worth."""
    main = [(arm, seed) for seed in seeds for arm in ("full", "classic")]
    run_all(settings, main + [(adamw_name(lr), seeds[0]) for lr in ADAMW_LRS], jobs)
    best = best_adamw(finished(settings))
    run_all(settings, [(best, seed) for seed in seeds if best], jobs)
    run_all(settings, [(arm, seed) for seed in seeds[:2] for arm in (SQUARE_ROOT, *ABLATIONS)], jobs)


def finished(settings: Settings) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the results that are there, by arm and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(settings.runs.glob("*.json")):
        result = read_json(path)
        found.setdefault(result["arm"], {})[result["seed"]] = result
    return found


def best_adamw(found: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Return the arm of AdamW alone with the lowest bpb over the seeds that all of them have, or ""."""
    arms = [arm for arm in map(adamw_name, ADAMW_LRS) if arm in found]
    if not arms:
        return ""
    common = set.intersection(*(set(found[arm]) for arm in arms))
    return min(arms, key=lambda arm: mean_bpb({seed: found[arm][seed] for seed in common}))


def bpbs(runs: dict[int, dict[str, Any]]) -> list[float]:
    """Return the bpb of each seed in order, infinite where the run diverged."""
    return [math.inf if runs[seed]["bpb"] is None else runs[seed]["bpb"] for seed in sorted(runs)]


def mean_bpb(runs: dict[int, dict[str, Any]]) -> float:
    return statistics.mean(bpbs(runs)) if runs else math.inf


def spread(*arms: dict[int, dict[str, Any]]) -> float:
    """Return the largest distance between two seeds of one arm; infinite where a run diverged."""
    values = [bpbs(runs) for runs in arms]
    return max(max(arm) - min(arm) if math.isfinite(max(arm)) else math.inf for arm in values)


def finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return round(value, 5) if math.isfinite(value) else None


def gap_bar(found: dict[str, dict[int, dict[str, Any]]], better: str, worse: str) -> dict[str, Any]:
    """Return the bar that `better` is below `worse` by more than their seeds' spread, over the seeds that both have."""
    common = set(found.get(better, {})) & set(found.get(worse, {}))
    if not common:
        return {"value": None, "bar": "> spread of the seeds", "ok": False}
    low, high = ({seed: found[arm][seed] for seed in common} for arm in (better, worse))
    gap, limit = mean_bpb(high) - mean_bpb(low), spread(low, high)
    seeds = f"{len(common)} seeds" if len(common) > 1 else "1 seed, spread unknown"
    return {"value": finite(gap), "bar": f"> {limit:.5f} ({seeds})", "ok": gap > limit}


def summary(found: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Return the numbers of each arm, without the loss curves."""
    rows = {}
    for arm, runs in sorted(found.items(), key=lambda item: mean_bpb(item[1])):
        first = next(iter(runs.values()))
        rows[arm] = {
            "bpb": {str(seed): runs[seed]["bpb"] for seed in sorted(runs)},
            "mean_bpb": finite(mean_bpb(runs)),
            "spread": finite(spread(runs)),
            "parameters": first["parameters"],
            "tokens_per_second": round(statistics.median(run["tokens_per_second"] for run in runs.values())),
        }
        if "full" in found and (common := set(found["full"]) & set(runs)):
            paired = ({seed: found[name][seed] for seed in common} for name in (arm, "full"))
            ours, full = map(mean_bpb, paired)
            rows[arm]["above_full"] = finite(ours - full)
    return rows


def print_table(rows: dict[str, Any], bars: dict[str, Any]) -> None:
    table = Table("arm", "bpb", "spread", "seeds", "above full", "parameters", "tok/s")
    for arm, row in rows.items():
        bpb, width, above = (row.get(name) for name in ("mean_bpb", "spread", "above_full"))
        numbers = [f"{value:.4f}" if value is not None else "diverged" for value in (bpb, width)]
        numbers += [str(len(row["bpb"])), f"{above:+.4f}" if above is not None else ""]
        table.add_row(arm, *numbers, f"{row['parameters']:,}", f"{row['tokens_per_second']:,}")
    Console().print(table)
    for name, bar in bars.items():
        print(f"{name}: {bar['value']} {bar['bar']} {'ok' if bar['ok'] else 'MISSED'}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the study: three seeds, all arms, 300 steps")
    parser.add_argument("--arms", default="", help="only these, comma-separated")
    parser.add_argument("--seeds", default="", help="comma-separated; default 0, with --full 0,1,2")
    parser.add_argument("--steps", type=int, help=f"default {QUICK_STEPS}, with --full {FULL_STEPS}")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    parser.add_argument("--work", type=Path, default=paths.base_dir() / "benchmarks" / "quality", help="keeps the runs")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    chosen = parsed()
    settings = Settings(chosen.work, chosen.steps or (FULL_STEPS if chosen.full else QUICK_STEPS), chosen.threads)
    seeds = [int(seed) for seed in (chosen.seeds or ("0,1,2" if chosen.full else "0")).split(",")]
    arms = [arm for arm in chosen.arms.split(",") if arm]
    if chosen.one:
        return run_one(settings, arms[0], seeds[0])
    for arm in arms:
        trainer_of(arm)  # a wrong name shall say so now
    prepare(settings.work)
    if arms or not chosen.full:
        arms = arms or ["full", "classic", adamw_name(ADAMW_LRS[1])]
        run_all(settings, [(arm, seed) for seed in seeds for arm in arms], chosen.jobs)
    else:
        study(settings, seeds, chosen.jobs)
    found = finished(settings)
    rows = summary(found)
    bars = {
        "full_below_classic": gap_bar(found, "full", "classic"),
        "classic_below_adamw": gap_bar(found, "classic", best_adamw(found)),
    }
    print_table(rows, bars)
    recipes = sorted({run["recipe"] for runs in found.values() for run in runs.values()})
    if len(recipes) > 1:
        print(f"These runs were made by {len(recipes)} versions of the recipe's code: {', '.join(recipes)}.")
    facts = {"steps": settings.steps, "tokens": settings.steps * STEP_TOKENS, "recipes": recipes, "arms": rows}
    print(json.dumps({"benchmark": "quality", "machine": machine(), "results": facts, "bars": bars}))


if __name__ == "__main__":
    main()
