"""How fast tasks are scored: examples a second, beside scoring one example at a time.

    .venv/bin/python benchmarks/eval.py [--full] [--models d4-classic,d4-full]

The tasks are real (CORE's bundle, MMLU): prompts of ten examples, prompts of none, and letters of chat questions; they
come from $NANOCHAT_TEST_HUB (default ../shared/hub, in the Hub's layout). The models are a d4 of each block set with a
vocabulary of 32,768 trained on the text there, random weights, float32. Both contenders get the same token ids and give
the same losses; `baselines/plain_scorer.py` scores a part of the examples only, and they take turns. Prints a table,
and as its last line one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._bars import print_bars
from benchmarks._machine import machine
from benchmarks.baselines.plain_scorer import option_losses
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.interface import LoglikelihoodRequest
from nanochat_core.inference.load import EngineModel
from nanochat_core.model.accounting import derive_shape
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import Arch, ModelSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt
from tasks_eval.chat import prompt_of
from tasks_eval.core.bundle import read_bundle
from tasks_eval.core.prompts import render_prompts
from tasks_eval.core.score import make_requests
from tasks_eval.multiple_choice import choice_example

VOCAB_SIZE, SEQUENCE_LEN, TEXT_SHARDS = 32_768, 2048, 6
SPEED_BAR, AGREEMENT_BAR = 5.0, 1e-4
TEN_SHOT = ("arc_easy", "arc_challenge", "piqa", "commonsense_qa", "hellaswag", "boolq")
ZERO_SHOT = ("hellaswag_zeroshot", "copa", "openbook_qa", "winograd", "winogrande")
MMLU = "MMLU, letters"
REFERENCE = {"arc_easy": 0.45, "piqa": 0.64}  # examples/s of the reference with a d4 on 2 cores: a task at 10 shots
ROUNDS, EXAMPLES, BASELINE_EXAMPLES = 3, 48, 6
FULL_ROUNDS, FULL_EXAMPLES = 5, 192
MODELS: dict[str, Arch] = {"d4-classic": "classic", "d4-full": "full"}

Example = list[LoglikelihoodRequest]  # a request for each of its options


def hub() -> Path:
    root = Path(os.environ.get("NANOCHAT_TEST_HUB") or Path(__file__).parent.parent.parent / "shared" / "hub")
    if not (root / "eval_bundle").is_dir():
        sys.exit(f"There is no data in the Hub's layout at {root}: set NANOCHAT_TEST_HUB.")
    return root


def trained_tokenizer(root: Path) -> Tokenizer:
    """Return a tokenizer of the text in the mirror: prompts have the lengths that real ones have."""
    shards = sorted(root.glob("datasets/*/fineweb-edu-100b-shuffle/*.parquet"))[:TEXT_SHARDS]
    return Tokenizer.train((text for shard in shards for text in pq.read_table(shard)["text"].to_pylist()), VOCAB_SIZE)


def random_model(arch: Arch, tokenizer: Tokenizer) -> GPT:
    """Return a d4 whose weights are away from zero, so that no part of it is without effect."""
    model = GPT(derive_shape(ModelSpec(depth=4, arch=arch, sequence_len=SEQUENCE_LEN)), tokenizer.vocab_size)
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


def core_examples(root: Path, model: EngineModel, label: str, count: int) -> list[Example]:
    """Return the requests of the first items of a CORE task."""
    task = next(task for task in read_bundle(root / "eval_bundle") if task.label == label)
    items = task.items()
    return [
        make_requests(model.bos, task, model.encode_batch(render_prompts(task, items, index)))
        for index in range(min(count, len(items)))
    ]


def mmlu_examples(root: Path, tokenizer: Tokenizer, count: int) -> list[Example]:
    """Return MMLU's questions with each letter behind them: what the letters' logits tell, as log-likelihoods."""
    rows = pq.read_table(next(root.glob("datasets/cais/mmlu/all/test-*.parquet"))).slice(0, count).to_pylist()
    letters = "ABCD"
    examples = []
    for row in rows:
        example = choice_example(row["question"], row["choices"], letters, letters[row["answer"]])
        ids = render_prompt(tokenizer, prompt_of(example))
        examples.append([LoglikelihoodRequest((*ids, *tokenizer.encode(letter)), len(ids)) for letter in letters])
    return examples


@dataclass(frozen=True)
class Measured:
    """Examples a second of both, in turns, and how far apart their log-likelihoods are at most."""

    plain: float
    ours: float
    apart: float

    @property
    def ratio(self) -> float:
        return self.ours / self.plain


def compare(gpt: GPT, model: EngineModel, examples: Sequence[Example], rounds: int) -> Measured:
    """Score the examples by both in turns; the medians of their rates count."""
    few = examples[:: max(1, len(examples) // BASELINE_EXAMPLES)][:BASELINE_EXAMPLES]
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    apart = 0.0
    for _ in range(rounds):
        rate, plain = timed(lambda: plain_scores(gpt, few), len(few))
        rates["plain"].append(rate)
        rate, ours = timed(lambda: our_scores(model, examples), len(examples))
        rates["ours"].append(rate)
        apart = max(apart, *(abs(ours[key] - value) for key, value in plain.items()))
    return Measured(statistics.median(rates["plain"]), statistics.median(rates["ours"]), apart)


def timed(score: Callable[[], dict[tuple[int, ...], float]], count: int) -> tuple[float, dict[tuple[int, ...], float]]:
    started = time.perf_counter()
    scores = score()
    return count / (time.perf_counter() - started), scores


def plain_scores(gpt: GPT, examples: Sequence[Example]) -> dict[tuple[int, ...], float]:
    scores = {}
    for example in examples:
        losses = option_losses(gpt, [request.ids for request in example], [request.start for request in example])
        scores |= {request.ids: -float(own.double().sum()) for request, own in zip(example, losses, strict=True)}
    return scores


def our_scores(model: EngineModel, examples: Sequence[Example]) -> dict[tuple[int, ...], float]:
    requests = [request for example in examples for request in example]
    answers = model.loglikelihood(requests)
    return {request.ids: answer.logprob_sum for request, answer in zip(requests, answers, strict=True)}


def measure(root: Path, tokenizer: Tokenizer, arch: Arch, *, is_full: bool) -> Iterator[tuple[str, Measured]]:
    gpt = random_model(arch, tokenizer)
    model = EngineModel(Engine(gpt, tokenizer))
    rounds, count = (FULL_ROUNDS, FULL_EXAMPLES) if is_full else (ROUNDS, EXAMPLES)
    for label in (*TEN_SHOT, *ZERO_SHOT):
        yield label, compare(gpt, model, core_examples(root, model, label, count), rounds)
    yield MMLU, compare(gpt, model, mmlu_examples(root, tokenizer, count), rounds)


def together(tasks: Sequence[Measured]) -> float:
    """Return the ratio of the times that both take for as many examples of each task."""
    return sum(1 / task.plain for task in tasks) / sum(1 / task.ours for task in tasks)


def bars_of(results: dict[str, dict[str, Measured]]) -> dict[str, Any]:
    bars = {}
    for name, tasks in results.items():
        ratio, apart = together([tasks[label] for label in TEN_SHOT]), max(task.apart for task in tasks.values())
        bars[f"{name}: 10-shot multiple choice, times one at a time"] = bar(round(ratio, 2), f">= {SPEED_BAR:g}")
        least = min(tasks[label].ratio for label in TEN_SHOT)
        bars[f"{name}: the least of these tasks"] = bar(round(least, 2), f">= {SPEED_BAR:g}")
        bars[f"{name}: log-likelihoods apart, nats"] = bar(float(f"{apart:.1e}"), f"<= {AGREEMENT_BAR:g}")
    return bars


def bar(value: float, limit: str) -> dict[str, Any]:
    sign, _, number = limit.partition(" ")
    return {"value": value, "bar": limit, "ok": value >= float(number) if sign == ">=" else value <= float(number)}


def table_of(name: str, tasks: dict[str, Measured]) -> Table:
    table = Table("task", "one at a time, examples/s", "ours", "times", "the reference's", title=name)
    for label, task in tasks.items():
        orientation = f"{REFERENCE[label]:g}" if label in REFERENCE else ""
        table.add_row(label, f"{task.plain:.2f}", f"{task.ours:.1f}", f"{task.ratio:.1f}", orientation)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more examples and rounds")
    parser.add_argument("--models", default=",".join(MODELS), help="which models, with commas")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of both contenders")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    root, console = hub(), Console()
    tokenizer = trained_tokenizer(root)
    results: dict[str, dict[str, Measured]] = {}
    for name in chosen.models.split(","):
        results[name] = dict(measure(root, tokenizer, MODELS[name], is_full=chosen.full))
        console.print(table_of(name, results[name]))
    bars = bars_of(results)
    print_bars(bars, console)
    plain: dict[str, Any] = {
        name: {
            label: {"one_at_a_time": task.plain, "ours": task.ours, "ratio": task.ratio}
            for label, task in tasks.items()
        }
        for name, tasks in results.items()
    }
    plain["threads"] = chosen.threads
    print(json.dumps({"benchmark": "eval", "machine": machine(), "results": plain, "bars": bars}))


if __name__ == "__main__":
    main()
