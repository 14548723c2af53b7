"""How fast the engine answers: tok/s, time to first token and memory, beside generation as people write it.

    .venv/bin/python benchmarks/serve.py [--part cpu|cuda] [--full] [--models d4-classic,…]

- CPU: d4 and d8 of both block sets (V = 32,768, random weights, fp32, two threads) in turns with
  `baselines/plain_generate.py` and, for `classic`, with `generate` of transformers, each of which answers one request
  after another. All requests of a workload come at once, every prompt is new, every answer is greedy and of full
  length;
- CUDA: our engine alone, `full` in bf16, decoding at 1, 32 and 128 rows, beside the bound that the GPU's bandwidth and
  peak set. Where there is no NVIDIA GPU it says that this part was not run.

Each contender is a process of its own (`_generators.py`) with the same weights (`_served_model.py`). One request after
another has a rate that does not depend on how many wait: of 16, the baselines answer `BASELINE_REQUESTS` in each turn
(`--full`: all), and the times to the first token of those behind are counted up from the times that these took. Prints
tables, and as its last line one JSON object.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._bars import print_bars
from benchmarks._generators import Setup
from benchmarks._machine import machine
from benchmarks._process import ContenderProcess
from benchmarks._served_model import write_model
from nanochat_core.gpus import find_gpu
from nanochat_core.model.accounting import attention_windows, derive_shape, kv_width, parameter_counts
from nanochat_core.specs import ModelSpec

VOCAB_SIZE, SEQUENCE_LEN = 32_768, 2048
SPEED_BAR, SINGLE_BAR, BOUND_BAR = 4.0, 1.0, 0.7
BASELINE_REQUESTS = 4
ROUNDS, FULL_ROUNDS = 3, 5
CUDA_MODELS = {"d20-full": 20, "d24-full": 24}
CUDA_BATCHES, CUDA_PROMPT, CUDA_NEW = (1, 32, 128), 768, 512  # so that decoding sees 1,024 tokens on average


@dataclass(frozen=True)
class Workload:
    """`requests` that come at once, with prompts of between `shortest` and `longest` tokens."""

    name: str
    requests: int
    shortest: int
    longest: int
    new_tokens: int

    def prompts(self, seed: int, vocab_size: int, requests: int | None = None) -> list[list[int]]:
        """Return prompts that no other seed has; the first are the same for any number of requests."""
        drawn = random.Random(f"{self.name} {seed}")
        lengths = [drawn.randint(self.shortest, self.longest) for _ in range(self.requests)]
        rows = [[drawn.randrange(256, vocab_size - 16) for _ in range(length)] for length in lengths]
        return rows[: requests or self.requests]


CHATS, PROMPTS = Workload("16 chats", 16, 150, 250, 128), Workload("16 prompts of 512", 16, 512, 512, 128)
CHAT, PROMPT = Workload("1 chat", 1, 200, 200, 128), Workload("1 prompt of 512", 1, 512, 512, 128)
PREFILL = Workload("8 prompts of 512, one token each", 8, 512, 512, 1)
COMPARED = (CHATS, PROMPTS, CHAT, PROMPT, PREFILL)
OURS_ALONE = (Workload("8 prompts of 512", 8, 512, 512, 128), Workload("32 prompts of 512", 32, 512, 512, 128))
FEW_BITS = ("int8", "int4")
LOAD, LOAD_TURNS = Workload("16 clients of 3 chats each", 48, 150, 250, 128), 3
MODELS = {f"d{depth}-{arch}": (depth, arch) for depth in (4, 8) for arch in ("classic", "full")}


class Contender(ContenderProcess):
    """A process of `_generators.py`."""

    def __init__(self, setup: Setup) -> None:
        super().__init__("_generators.py", setup, threads=setup.threads)

    def do(self, command: str, **values: Any) -> dict[str, Any]:
        return self.ask(json.dumps({"do": command} | values))


@contextlib.contextmanager
def contenders(folder: str, who: list[str], threads: int) -> Iterator[dict[str, Contender]]:
    """Start the contenders, and let each read its model and answer something short."""
    with contextlib.ExitStack() as stack:
        found = {name: stack.enter_context(Contender(Setup(who=name, folder=folder, threads=threads))) for name in who}
        for contender in found.values():
            contender.do("prepare")
            contender.do("answer", prompts=[[1, 2, 3]] * 2, new_tokens=4)
        yield found


def cpu_model(depth: int, arch: str, *, threads: int, is_full: bool) -> dict[str, Any]:
    """Let all contenders answer the workloads with one model, A B C A B C …"""
    who = ["ours", "plain", *(["transformers"] if arch == "classic" else [])]
    taken = {name: None if name == "ours" or is_full else BASELINE_REQUESTS for name in who}
    turns: dict[str, list[dict[str, Any]]] = {workload.name: [] for workload in COMPARED}
    with tempfile.TemporaryDirectory(prefix="nanochat-serve-") as folder:
        write_model(Path(folder), ModelSpec(arch=arch, depth=depth, sequence_len=SEQUENCE_LEN), VOCAB_SIZE, "fp32")
        with contenders(folder, who, threads) as found:
            for seed in range(FULL_ROUNDS if is_full else ROUNDS):
                for workload in COMPARED:
                    turn = {}
                    for name, contender in found.items():
                        prompts = workload.prompts(seed, VOCAB_SIZE, taken[name])
                        answer = contender.do("answer", prompts=prompts, new_tokens=workload.new_tokens)
                        turn[name] = answer | {"prompt_tokens": sum(map(len, prompts))}
                    turns[workload.name].append(turn)
            memory = {name: contender.do("memory") for name, contender in found.items()}
            alone = {workload.name: [_ask_ours(found["ours"], workload)] for workload in OURS_ALONE}
            load = _ask_ours(found["ours"], LOAD, turns=LOAD_TURNS)
        few_bits = {precision: _with_few_bits(folder, precision, threads) for precision in FEW_BITS}
    return {
        "workloads": {name: _summary(own) for name, own in (turns | alone).items()},
        "under_load": _load_summary(load["ours"]),
        "few_bits": few_bits,
        "peak_mb_beyond_imports": {name: round(sizes["peak"] / 1e6) for name, sizes in memory.items()},
    }


def _ask_ours(ours: Contender, workload: Workload, **values: Any) -> dict[str, Any]:
    prompts = workload.prompts(0, VOCAB_SIZE)
    answer = ours.do("load" if values else "answer", prompts=prompts, new_tokens=workload.new_tokens, **values)
    return {"ours": answer | {"prompt_tokens": sum(map(len, prompts))}}


def _with_few_bits(folder: str, precision: str, threads: int) -> dict[str, Any]:
    """Return our tok/s and memory with weights of few bits, in a process of its own."""
    with Contender(Setup(who="ours", folder=folder, precision=precision, threads=threads)) as ours:
        ours.do("prepare")
        ours.do("answer", prompts=[[1, 2, 3]] * 2, new_tokens=4)
        rates = {workload.name: generated_rate(_ask_ours(ours, workload)["ours"]) for workload in (CHAT, CHATS)}
        return {"tokens_per_second": rates, "peak_mb_beyond_imports": round(ours.do("memory")["peak"] / 1e6)}


def _summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the turns of one workload, and the ratios of turns that stood next to each other."""
    rates = {who: [generated_rate(turn[who]) for turn in turns] for who in turns[0]}
    prefill = {who: [turn[who]["prompt_tokens"] / turn[who]["seconds"] for turn in turns] for who in turns[0]}
    return {
        "tokens_per_second": {who: statistics.median(values) for who, values in rates.items()},
        "prompt_tokens_per_second": {who: statistics.median(values) for who, values in prefill.items()},
        "over": {
            who: statistics.median(a / b for a, b in zip(rates["ours"], rates[who], strict=True))
            for who in rates
            if who != "ours"
        },
        "first_token_seconds": {who: _first_tokens([turn[who] for turn in turns], turns[0]) for who in turns[0]},
        "same_tokens": {who: same_tokens(turns, who) for who in rates if who != "ours"},
    }


def generated_rate(answer: dict[str, Any]) -> float:
    return sum(map(len, answer["ids"])) / answer["seconds"]


def _first_tokens(answers: list[dict[str, Any]], turn: dict[str, Any]) -> dict[str, float] | None:
    """Return median and 95th percentile of the seconds to the first token, the requests behind counted up."""
    requests = max(len(answer["ids"]) for answer in turn.values())
    seconds = [moment for answer in answers if answer["first"] for moment in queued(answer, requests)]
    return percentiles(seconds) if seconds else None


def percentiles(seconds: list[float]) -> dict[str, float]:
    return {"median": float(np.median(seconds)), "p95": float(np.percentile(seconds, 95))}


def queued(answer: dict[str, Any], requests: int) -> list[float]:
    """Return when each of `requests` gets its first token, where those beyond the answered take as long as these did.

    >>> queued({"first": [1.0, 4.0], "last": [3.0, 5.0]}, 4)
    [1.0, 4.0, 6.0, 9.0]
    """
    moments = list(answer["first"])
    while len(moments) < requests:
        round_, place = divmod(len(moments), len(answer["first"]))
        moments.append(round_ * answer["last"][-1] + answer["first"][place])
    return moments


def same_tokens(turns: list[dict[str, Any]], who: str) -> float:
    """Return the share of a baseline's tokens that are ours too, up to where an answer first differs.

    Rounding decides between tokens that are all but equally likely; from there on two answers are two answers.
    """
    shared, total = 0, 0
    for turn in turns:
        for ours, theirs in zip(turn["ours"]["ids"], turn[who]["ids"], strict=False):
            differs = [place for place, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
            shared += differs[0] if differs else len(ours)
            total += len(ours)
    return shared / total


def _load_summary(answer: dict[str, Any]) -> dict[str, Any]:
    return {"tokens_per_second": generated_rate(answer), "first_token_seconds": percentiles(answer["first"])}


def cuda_results() -> dict[str, Any]:
    """Decode with d20 and d24 on one GPU; each in a process of its own."""
    name = torch.cuda.get_device_name()
    found: dict[str, Any] = {"gpu": name}
    for label, depth in CUDA_MODELS.items():
        spec = ModelSpec(arch="full", depth=depth, sequence_len=SEQUENCE_LEN)
        with tempfile.TemporaryDirectory(prefix="nanochat-serve-") as folder:
            write_model(Path(folder), spec, VOCAB_SIZE, "bf16")
            found[label] = {str(batch): _cuda_run(folder, spec, batch, name) for batch in CUDA_BATCHES}
    return found


def _cuda_run(folder: str, spec: ModelSpec, batch: int, gpu: str) -> dict[str, Any]:
    workload = Workload("decode", batch, CUDA_PROMPT, CUDA_PROMPT, CUDA_NEW)
    try:
        with Contender(Setup(who="ours", folder=folder, precision="bf16", max_batch=batch)) as ours:
            answers = [
                ours.do("answer", prompts=workload.prompts(seed, VOCAB_SIZE), new_tokens=workload.new_tokens)
                for seed in range(4)
            ][1:]
    except RuntimeError as error:
        return {"error": str(error)}
    decoding = statistics.median(answer["decoding"] for answer in answers)
    bound = decoding_bound(spec, VOCAB_SIZE, batch, CUDA_PROMPT + CUDA_NEW // 2, gpu)
    return {
        "decoding_tokens_per_second": decoding,
        "bound": bound,
        "share_of_bound": decoding / bound if bound else None,
        "tokens_per_second": statistics.median(map(generated_rate, answers)),
        "first_token_seconds": percentiles([moment for answer in answers for moment in answer["first"]]),
    }


def decoding_bound(spec: ModelSpec, vocab_size: int, batch: int, context: int, gpu: str) -> float | None:
    """Return the most tokens per second that a GPU can decode in bf16, None for a GPU that we do not know.

    A step reads every matrix once, 2 bytes a weight, and for each row the keys and values that its layers see; it does
    2 FLOPs for each weight and row, and 4·C for each key. It takes as long as the slower of the two.

    >>> round(decoding_bound(ModelSpec(arch="full", depth=20, sequence_len=2048), 32_768, 1, 1024, "H100"), -1)
    3580.0
    >>> round(decoding_bound(ModelSpec(arch="full", depth=24, sequence_len=2048), 32_768, 32, 1024, "H200"), -2)
    34300.0
    """
    known = find_gpu(gpu)
    if known is None or known.bf16_flops is None:
        return None
    shape = derive_shape(spec)
    counts = parameter_counts(spec, vocab_size)
    weights = counts["matrices"] + counts["head"]
    seen = sum(min(context, window) for window in attention_windows(shape))
    moved = 2 * weights + batch * seen * 2 * kv_width(shape) * 2
    flops = batch * (2 * weights + 4 * shape.n_embd * seen)
    return batch / max(moved / known.bandwidth, flops / known.bf16_flops)


def cpu_bars(results: dict[str, Any]) -> dict[str, Any]:
    """Return the bars of the CPU part: of the workloads of one size, the worse."""
    bars = {}
    for model, found in results.items():
        for count, workloads, bar in ((16, (CHATS, PROMPTS), SPEED_BAR), (1, (CHAT, PROMPT), SINGLE_BAR)):
            ratios = [found["workloads"][workload.name]["over"] for workload in workloads]
            for who in ratios[0]:
                value = min(ratio[who] for ratio in ratios)
                bars[f"{model} tok/s over {who} at {count}"] = at_least(value, bar)
    return bars


def cuda_bars(results: dict[str, Any]) -> dict[str, Any]:
    """Return the bars of the CUDA part; where it was not run, they are not reached."""
    bars = {}
    for model in CUDA_MODELS:
        value = results.get(model, {}).get("1", {}).get("share_of_bound")
        missing = {"value": None, "bar": f">= {BOUND_BAR:g}", "ok": False, "note": "not run"}
        bars[f"{model} share of the bandwidth bound at 1"] = at_least(value, BOUND_BAR) if value else missing
    return bars


def at_least(value: float, limit: float) -> dict[str, Any]:
    return {"value": round(value, 3), "bar": f">= {limit:g}", "ok": value >= limit}


def print_tables(results: dict[str, Any], bars: dict[str, Any]) -> None:
    console = Console()
    for model, found in results.get("cpu", {}).items():
        table = Table("requests", "who", "tok/s", "ours over", "first token s", "p95", "prompt tok/s", title=model)
        for name, summary in found["workloads"].items():
            for who, rate in summary["tokens_per_second"].items():
                first, over = summary["first_token_seconds"][who], summary["over"].get(who)
                times = [f"{first['median']:.2f}", f"{first['p95']:.2f}"] if first else ["", ""]
                prefill = f"{summary['prompt_tokens_per_second'][who]:,.0f}" if name == PREFILL.name else ""
                table.add_row(name, who, f"{rate:,.1f}", f"{over:.2f}" if over else "", *times, prefill)
        load = found["under_load"]
        times = [f"{load['first_token_seconds'][name]:.2f}" for name in ("median", "p95")]
        table.add_row(LOAD.name, "ours", f"{load['tokens_per_second']:,.1f}", "", *times, "")
        for precision, own in found["few_bits"].items():
            for name, rate in own["tokens_per_second"].items():
                table.add_row(name, f"ours, {precision}", f"{rate:,.1f}", "", "", "", "")
        console.print(table)
        sizes = found["peak_mb_beyond_imports"] | {
            precision: own["peak_mb_beyond_imports"] for precision, own in found["few_bits"].items()
        }
        console.print("memory beyond the imports: " + ", ".join(f"{who} {size:,} MB" for who, size in sizes.items()))
    gpu = Table("model", "rows", "decoding tok/s", "of the bound", "tok/s with prompts", title="CUDA")
    for model in CUDA_MODELS:
        for batch, found in results.get("cuda", {}).get(model, {}).items():
            if "error" not in found:
                share = f"{found['share_of_bound']:.0%}" if found["share_of_bound"] else "?"
                rates = [f"{found[name]:,.0f}" for name in ("decoding_tokens_per_second", "tokens_per_second")]
                gpu.add_row(model, batch, rates[0], share, rates[1])
    if gpu.row_count:
        console.print(gpu)
    print_bars(bars, console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("cpu", "cuda"), help="default: both, where there is an NVIDIA GPU")
    parser.add_argument("--full", action="store_true", help="more rounds; the baselines answer every request")
    parser.add_argument("--models", default=",".join(MODELS), help="of the CPU part, with commas")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of each contender on the CPU")
    chosen = parser.parse_args()
    results: dict[str, Any] = {"threads": chosen.threads}
    if chosen.part != "cuda":
        results["cpu"] = {
            name: cpu_model(*MODELS[name], threads=chosen.threads, is_full=chosen.full)
            for name in chosen.models.split(",")
        }
    if chosen.part != "cpu":
        results["cuda"] = cuda_results() if torch.cuda.is_available() else {}
    bars = cpu_bars(results.get("cpu", {})) | cuda_bars(results.get("cuda", {}))
    print_tables(results, bars)
    if not results.get("cuda"):
        print("The CUDA part was not run" + ("." if chosen.part == "cpu" else ": there is no NVIDIA GPU here."))
    print(json.dumps({"benchmark": "serve", "machine": machine(), "results": results, "bars": bars}))


if __name__ == "__main__":
    main()
