"""How long an RL step takes, beside sampling question by question in plain PyTorch.

    .venv/bin/python benchmarks/rl.py [--full]

Both contenders start from the same weights (random, away from zero; the shape is that of the demo), ask the same
questions (beginnings of lines of the documentation), draw by the same random numbers and so get the same answers,
reward them alike, learn from them and update with the same optimizer; they take turns. The head is turned so that
answers end sooner or later, as those of a trained model do. Where all questions teach, the reward says something about
each; where half of them do, every second one has all its answers rewarded alike, as have 45 to 64 % of the demo's sums
and words, on average (none under a reward model): plain PyTorch learns from these too, for nothing, and we do not.
Python's garbage collector rests, as it does while a stage trains. Steps of many short answers, as the demo's, are
measured too. Prints tables, and as its last line one JSON object.
"""

import argparse
import copy
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._bars import print_bars
from benchmarks._machine import machine
from benchmarks.baselines.plain_rollouts import Row, add_gradients, sample_question
from nanochat_core.distributed import World
from nanochat_core.inference.interface import Completion
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.specs import ConversationsSpec, MixtureItem, ModelSpec, RLSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt
from nanochat_core.training.loop import LoopSettings, TrainState, scheduled_rates, update
from nanochat_core.training.reinforce import reinforce_steps
from nanochat_core.training.rollouts import Question, QuestionLoader, Sampler, rollout_engine

PROJECT = Path(__file__).parent.parent
SPEED_BAR, SAMPLES_BAR, LOSS_BAR = 4.0, 0.98, 1e-2
VOCAB_SIZE = 2048
WORLD = World(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Step:
    """What one step of a contender took, drew and lost. `answers`: of each question, ids of each sample."""

    seconds: float
    sampling_seconds: float
    answers: list[list[tuple[int, ...]]]
    loss: float


@dataclass(frozen=True)
class Workload:
    """What both contenders are given."""

    model: GPT
    tokenizer: Tokenizer
    questions: list[Question]
    spec: RLSpec
    do_all_teach: bool = True  # else every second one has its answers rewarded alike

    def state(self) -> TrainState:
        """Return a fresh state: its model is a copy, and its loader begins with the first step."""
        model = copy.deepcopy(self.model)
        loader = QuestionLoader(self.questions, per_step=self.spec.questions_per_step, seed=1, world=WORLD)
        return TrainState(model, MuonAdamW(model, WORLD), loader)

    def settings(self) -> LoopSettings:
        return LoopSettings(steps=1, optimizer=self.spec.optimizer, micro_rows=32)


def workload(questions: int, samples: int, new_tokens: int, *, do_all_teach: bool = True) -> Workload:
    texts = [path.read_text(encoding="utf-8") for path in sorted((PROJECT / "docs").rglob("*.md"))]
    tokenizer = Tokenizer.train(texts, VOCAB_SIZE)
    spec = ModelSpec(depth=4, n_embd=128, n_head=2, n_kv_head=2, sequence_len=256)
    model = GPT(spec, tokenizer.vocab_size)
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        make_it_end(model, tokenizer, mean_tokens=new_tokens / 3)
    lines = [line[:40] for text in texts for line in text.splitlines() if len(line) > 60]
    asked = [
        {"messages": [{"role": "user", "content": line}], "source": "docs", "meta": {"number": number}}
        for number, line in enumerate(lines)
    ]
    rl = RLSpec(
        conversations=ConversationsSpec(mixture=(MixtureItem(task="docs"),)),
        questions_per_step=questions,
        samples_per_question=samples,
        max_new_tokens=new_tokens,
        top_k=None,
        refill_rounds=0,
    )
    return Workload(model, tokenizer, asked[: 4 * questions], rl, do_all_teach)


def make_it_end(model: GPT, tokenizer: Tokenizer, mean_tokens: float) -> None:
    """Turn the head so that an answer ends after about so many tokens, sooner or later, as those of a trained model."""
    idx = torch.randint(9, tokenizer.vocab_size, (16, 64), generator=torch.Generator().manual_seed(2))
    states = model.hidden(idx).flatten(0, 1)  # (n, C)
    direction = states.mean(dim=0)
    logit = float(model.logits(states).logsumexp(dim=-1).mean()) - math.log(mean_tokens)
    model.lm_head.weight[tokenizer.special("<|assistant_end|>")] = direction * (logit / direction.square().sum())


def reward_of(work: Workload, question: Question, ids: Sequence[int]) -> float:
    """Return something that differs between the answers to a question, of those that teach."""
    return sum(ids) % 7 / 7 if work.do_all_teach or question["meta"]["number"] % 2 else 0.0


def plain_step(work: Workload) -> Step:
    """Do a step question by question."""
    state, spec = work.state(), work.spec
    ends = [work.tokenizer.special("<|assistant_end|>"), work.tokenizer.bos]
    started = time.perf_counter()
    questions, seeds = state.loader.next_questions()
    prompts = [render_prompt(work.tokenizer, question) for question in questions]
    answers = [
        sample_question(state.model, prompt, spec.samples_per_question, spec.max_new_tokens, ends, seed)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    sampled = time.perf_counter() - started
    rows: list[Row] = []
    for question, prompt, samples in zip(questions, prompts, answers, strict=True):
        rewards = [reward_of(work, question, ids) for ids in samples]
        mean = sum(rewards) / len(rewards)
        rows += [([*prompt, *ids], len(prompt), reward - mean) for ids, reward in zip(samples, rewards, strict=True)]
    loss = add_gradients(state.model, rows)
    update(state, WORLD, loss, scheduled_rates(state, work.settings())[0], grad_clip=None)
    return Step(time.perf_counter() - started, sampled, [[tuple(ids) for ids in samples] for samples in answers], loss)


def our_step(work: Workload) -> Step:
    """Do a step as the stage does."""
    state, drawn = work.state(), []

    def reward(question: Question, completion: Completion) -> float:
        drawn.append(completion.ids)
        return reward_of(work, question, completion.ids)

    engine = rollout_engine(state.model, work.tokenizer, work.spec, WORLD, tool=None)
    steps = reinforce_steps(Sampler(engine, work.tokenizer, work.spec, reward), work.spec, 32)
    started = time.perf_counter()
    (info,) = steps(state, WORLD, work.settings(), lambda: False)
    seconds = time.perf_counter() - started
    count = work.spec.samples_per_question
    answers = [drawn[first : first + count] for first in range(0, len(drawn), count)]
    return Step(seconds, seconds * info.extra["rl/sampling_share"], answers, info.loss)


def equal_share(one: Step, other: Step) -> float:
    """Return the share of samples that are the same ids in both."""
    pairs = [
        a == b for mine, yours in zip(one.answers, other.answers, strict=True) for a, b in zip(mine, yours, strict=True)
    ]
    return sum(pairs) / len(pairs)


def median_of(steps: Sequence[Step], value: Callable[[Step], float]) -> float:
    return round(statistics.median(value(step) for step in steps), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more rounds")
    parser.add_argument("--threads", type=int, default=1, help="of both contenders")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    gc.disable()
    console = Console()
    rounds = 9 if chosen.full else 3
    workloads = {
        "all questions teach": workload(16, 16, 128),
        "half of the questions teach": workload(16, 16, 128, do_all_teach=False),
        "half of the questions teach, short answers": workload(32, 8, 48, do_all_teach=False),
    }
    results: dict[str, Any] = {"threads": chosen.threads}
    bars: dict[str, Any] = {}
    for name, work in workloads.items():
        results[name], found = compared(work, rounds, console, name)
        bars |= {f"{name}: {what}": bar for what, bar in found.items()}
    print_bars(bars, console)
    print(json.dumps({"benchmark": "rl", "machine": machine(), "results": results, "bars": bars}))


def compared(work: Workload, rounds: int, console: Console, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Have both contenders take turns, and show how long they took; return the results and their bars."""
    plain, ours = [], []
    for _ in range(rounds):
        plain.append(plain_step(work))
        ours.append(our_step(work))
        gc.collect()
    spec = work.spec
    size = f"{spec.questions_per_step} questions, {spec.samples_per_question} samples, {spec.max_new_tokens} tokens"
    table = Table("one step", "seconds", "of which sampling", title=f"{name}: {size}")
    seconds = {}
    for who, steps in (("question by question", plain), ("ours", ours)):
        seconds[who] = median_of(steps, lambda step: step.seconds)
        table.add_row(who, f"{seconds[who]}", f"{median_of(steps, lambda step: step.sampling_seconds)}")
    console.print(table)
    ratio = round(seconds["question by question"] / seconds["ours"], 2)
    equal, apart = equal_share(plain[0], ours[0]), abs(plain[0].loss - ours[0].loss)
    results = {
        "seconds": seconds,
        "times_as_fast": ratio,
        "questions": spec.questions_per_step,
        "samples": spec.samples_per_question,
        "new_tokens": spec.max_new_tokens,
        "mean_tokens": round(statistics.mean(len(ids) for samples in ours[0].answers for ids in samples), 1),
    }
    bars = {
        "step, times as fast": {"value": ratio, "bar": f">= {SPEED_BAR:g}", "ok": ratio >= SPEED_BAR},
        "samples that are the same": {"value": equal, "bar": f">= {SAMPLES_BAR:g}", "ok": equal >= SAMPLES_BAR},
        "loss apart": {"value": apart, "bar": f"< {LOSS_BAR:g}", "ok": apart < LOSS_BAR},
    }
    return results, bars


if __name__ == "__main__":
    main()
