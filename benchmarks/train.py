"""How fast training is, and in how much memory: tok/s, MFU, peak memory, and where the time of a step goes.

    .venv/bin/python benchmarks/train.py [--part cpu|cuda] [--full]

- CPU: `arch: full`, d4 (C = 256, V = 32,768), T = 512, 2,048 tokens a step, in turns with `baselines/plain_gpt.py`, the
  same model in plain PyTorch under AdamW: eager and compiled, fp32, and bf16 where the CPU computes in it;
- CUDA: d12 and d24 with the recipe's batch, compiled, in bf16 and FP8; attention with and without a window; the kernels
  of one step. Where there is no NVIDIA GPU it says that this part was not run.

Each contender is a process of its own (`_contenders.py`) that is told to do some steps at a time, so that compiling
happens once; memory is measured in fresh ones, beyond what their imports took. The baseline's batches are there
already: only ours has a loader to pay for. MFU is against the matrix rate that torch reaches on this machine. Prints
tables, and as its last line one JSON object.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._bars import print_bars
from benchmarks._contenders import Setup
from benchmarks._machine import machine
from benchmarks._process import ContenderProcess

CPU = Setup(who="ours", mode="eager", precision="fp32", depth=4, sequence_len=512, rows=4, step_tokens=2048)
CUDA = {
    12: Setup("ours", "compiled", "bf16", depth=12, sequence_len=2048, rows=32, step_tokens=2**19, device="cuda"),
    24: Setup("ours", "compiled", "bf16", depth=24, sequence_len=2048, rows=16, step_tokens=2**20, device="cuda"),
}
SPEED_BAR, MEMORY_BAR = 1.5, 0.5
CUDA_BARS = {(12, "bf16"): 535_000, (24, "fp8"): 125_000}  # tok/s on one H200: the reference's own rates per GPU
TURN_SECONDS = 8.0
CPU_INFO = Path("/proc/cpuinfo")
PARTS = ("forward", "backward", "optimizer", "loader", "other")


class Contender(ContenderProcess):
    """A process of `_contenders.py`."""

    def __init__(self, setup: Setup) -> None:
        super().__init__("_contenders.py", setup, threads=setup.threads)
        self.setup = setup

    def do(self, command: str, count: int) -> dict[str, Any]:
        return self.ask(f"{command} {count}")

    def tokens_per_second(self, steps: int) -> float:
        """Do some steps; return the median of their rates."""
        seconds = self.do("steps", steps)["seconds"]
        return self.setup.step_tokens / statistics.median(seconds)


def matrix_rate(size: int, device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the best FLOP/s of a product of two square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return _best_rate(lambda: torch.mm(a, b), size, device, repeats)


def fp8_matrix_rate(size: int, device: str, repeats: int = 5) -> float:
    """Return the same in FP8 with one scale for each matrix, as the training does it."""
    a, b = (torch.randn(size, size, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=device)
    options: dict[str, Any] = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True}
    return _best_rate(lambda: torch._scaled_mm(a, b.T, **options), size, device, repeats)


def _best_rate(product: Callable[[], object], size: int, device: str, repeats: int) -> float:
    calls = 20 if device == "cuda" else 1
    best = float("inf")
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for _ in range(calls):
            product()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return calls * 2 * size**3 / best


def cpu_precisions() -> list[str]:
    """Return fp32, and bf16 where the CPU has instructions for it."""
    flags = CPU_INFO.read_text().split() if CPU_INFO.exists() else []
    return ["fp32", "bf16"] if {"avx512_bf16", "amx_bf16"} & set(flags) else ["fp32"]


def cpu_speed(threads: int, rounds: int) -> dict[str, Any]:
    """Time ours and the baseline in turns, in each mode and precision."""
    found: dict[str, Any] = {}
    for precision in cpu_precisions():
        for mode in ("eager", "compiled"):
            setup = dataclasses.replace(CPU, mode=mode, precision=precision, threads=threads)
            with Contender(setup) as ours, Contender(dataclasses.replace(setup, who="plain")) as plain:
                found[f"{precision} {mode}"] = _in_turns(ours, plain, rounds)
    return found


def _in_turns(ours: Contender, plain: Contender, rounds: int) -> dict[str, Any]:
    """Return tok/s, their ratio, and the parts of a step, of two contenders that work A B A B …"""
    compiling = {"ours": sum(ours.do("steps", 2)["seconds"]), "plain": sum(plain.do("steps", 2)["seconds"])}
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    steps, matrix = {"ours": 3, "plain": 3}, []
    for _ in range(rounds):
        for name, contender in (("ours", ours), ("plain", plain)):
            rates[name].append(contender.tokens_per_second(steps[name]))
            steps[name] = max(2, min(20, round(TURN_SECONDS * rates[name][-1] / CPU.step_tokens)))
        matrix.append(matrix_rate(2048, "cpu", torch.float32, repeats=3))
    flops = ours.setup.flops_per_token
    speed = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "tokens_per_second": speed,
        "ratio": statistics.median(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)),
        "mfu": {name: value * flops / max(matrix) for name, value in speed.items()},
        "matrix_flops_per_second": max(matrix),
        "first_two_steps_seconds": compiling,
        "parts_seconds": {"ours": ours.do("parts", 5), "plain": plain.do("parts", 5)},
    }


def cpu_memory(threads: int) -> dict[str, Any]:
    """Return the megabytes beyond the imports of both contenders, each in a fresh process."""
    found: dict[str, Any] = {}
    for mode in ("eager", "compiled"):
        for who in ("ours", "plain"):
            with Contender(dataclasses.replace(CPU, who=who, mode=mode, threads=threads)) as contender:
                sizes = contender.do("memory", 4)
            found[f"{mode} {who}"] = {name: round(size / 1e6) for name, size in sizes.items()}
    return found


def cuda_results(steps: int) -> dict[str, Any]:
    """Train d12 and d24 on one GPU; each in a process of its own, so that it begins with all of the memory."""
    rates = {
        "bf16": matrix_rate(8192, "cuda", torch.bfloat16),
        "fp8": fp8_matrix_rate(8192, "cuda") if torch.cuda.get_device_capability() >= (8, 9) else None,
    }
    found: dict[str, Any] = {"matrix_flops_per_second": rates, "gpu": torch.cuda.get_device_name()}
    setups = [dataclasses.replace(CUDA[depth], precision=kind) for depth in CUDA for kind in rates if rates[kind]]
    setups.append(dataclasses.replace(CUDA[12], who="plain", rows=16))
    for setup in setups:
        name = f"d{setup.depth} {setup.precision} {setup.who}"
        try:
            found[name] = _cuda_run(setup, steps, rates)
        except RuntimeError as error:
            found[name] = {"error": str(error)}
    return found


def _cuda_run(setup: Setup, steps: int, rates: dict[str, float | None]) -> dict[str, Any]:
    with Contender(setup) as contender:
        first = contender.do("memory", 2)
        speed = contender.tokens_per_second(steps)
        flops = speed * setup.flops_per_token
        found = {
            "tokens_per_second": speed,
            "mfu": {kind: flops / rate for kind, rate in rates.items() if rate},
            "rows": setup.rows,
            "peak_gb": first["later_peak"] / 1e9,
            "parts_seconds": contender.do("parts", 3),
        }
        if setup.who == "ours":
            found |= contender.do("profile", 25) | contender.do("attention", 20)
    return found


def cpu_bars(results: dict[str, Any]) -> dict[str, Any]:
    """Return the bars of the CPU part."""
    speed, memory = results["cpu"], results["cpu_memory_mb"]
    bars = {f"{kind} tok/s over the baseline": at_least(found["ratio"], SPEED_BAR) for kind, found in speed.items()}
    for mode in ("eager", "compiled"):
        share = memory[f"{mode} ours"]["peak"] / memory[f"{mode} plain"]["peak"]
        ok = share <= MEMORY_BAR
        bars[f"{mode} memory of the baseline's"] = {"value": round(share, 3), "bar": f"<= {MEMORY_BAR}", "ok": ok}
    return bars


def cuda_bars(results: dict[str, Any]) -> dict[str, Any]:
    """Return the bars of the CUDA part; where it was not run, they are not reached."""
    bars = {}
    for (depth, precision), bar in CUDA_BARS.items():
        value = results.get("cuda", {}).get(f"d{depth} {precision} ours", {}).get("tokens_per_second")
        name = f"d{depth} {precision} tok/s on one H200"
        bars[name] = (
            at_least(value, bar) if value else {"value": None, "bar": f">= {bar}", "ok": False, "note": "not run"}
        )
    return bars


def at_least(value: float, limit: float) -> dict[str, Any]:
    return {"value": round(value, 3), "bar": f">= {limit:g}", "ok": value >= limit}


def print_tables(results: dict[str, Any], bars: dict[str, Any]) -> None:
    console = Console()
    speeds = Table("CPU", "who", "tok/s", "MFU", *(f"{part} ms" for part in PARTS), title="a step of 2,048 tokens")
    for kind, found in results.get("cpu", {}).items():
        for who, speed in found["tokens_per_second"].items():
            parts = [f"{found['parts_seconds'][who][part] * 1e3:,.1f}" for part in PARTS]
            speeds.add_row(kind, who, f"{speed:,.0f}", f"{found['mfu'][who]:.0%}", *parts)
    memory = Table("memory beyond the imports, MB", "whole run", "later steps")
    for kind, sizes in results.get("cpu_memory_mb", {}).items():
        memory.add_row(kind, f"{sizes['peak']:,}", f"{sizes['later_peak']:,}")
    gpu = Table("CUDA", "tok/s", "MFU of bf16", "GB", *(f"{part} ms" for part in PARTS))
    for kind, found in results.get("cuda", {}).items():
        if isinstance(found, dict) and "parts_seconds" in found:
            parts = [f"{found['parts_seconds'][part] * 1e3:,.1f}" for part in PARTS]
            gpu.add_row(
                kind,
                f"{found['tokens_per_second']:,.0f}",
                f"{found['mfu']['bf16']:.0%}",
                f"{found['peak_gb']:.1f}",
                *parts,
            )
    for table in (speeds, memory, gpu):
        if table.row_count:
            console.print(table)
    print_bars(bars, console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("cpu", "cuda"), help="default: both, where there is an NVIDIA GPU")
    parser.add_argument("--full", action="store_true", help="more rounds and steps")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each contender on the CPU")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    results: dict[str, Any] = {"threads": chosen.threads}
    if chosen.part != "cuda":
        results["cpu"] = cpu_speed(chosen.threads, rounds=9 if chosen.full else 5)
        results["cpu_memory_mb"] = cpu_memory(chosen.threads)
        if "bf16" not in cpu_precisions():
            results["cpu_bf16"] = "not run: this CPU has no instructions for bf16 (avx512_bf16, amx_bf16)"
    if chosen.part != "cpu":
        results["cuda"] = cuda_results(30 if chosen.full else 8) if torch.cuda.is_available() else {}
    bars = (cpu_bars(results) if "cpu" in results else {}) | cuda_bars(results)
    print_tables(results, bars)
    for note in [results["cpu_bf16"]] if "cpu_bf16" in results else []:
        print(f"CPU in bf16: {note}")
    if not results.get("cuda"):
        print("The CUDA part was not run" + ("." if chosen.part == "cpu" else ": there is no NVIDIA GPU here."))
    print(json.dumps({"benchmark": "train", "machine": machine(), "results": results, "bars": bars}))


if __name__ == "__main__":
    main()
