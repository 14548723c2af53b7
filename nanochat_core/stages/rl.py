"""Reinforcement learning: `torchrun -m nanochat_core.stages.rl <folder>/spec.json`.

Before and after, the same held-out questions are answered with the same seeds; the gain is the mean of the paired
differences of the questions' mean rewards, with its 95 % interval.
"""

import json
import math
from pathlib import Path
from typing import Any

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder, run_stage, write_bytes
from nanochat_core.distributed import World, joined_world, rank_from_environment
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.tool_use import load_tool
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.specs import RLSpec, parse_params
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.training.evaluators import Evaluations
from nanochat_core.training.finetune import meta_of_stage, rendered
from nanochat_core.training.loop import LoopSettings, TrainState
from nanochat_core.training.reinforce import reinforce_steps
from nanochat_core.training.rollouts import (
    Answered,
    Question,
    QuestionLoader,
    Sampler,
    fitting_questions,
    read_questions,
    reward_of_stage,
    rollout_engine,
)
from nanochat_core.training.run import TrainingRun, final_outputs, micro_rows, series, train

BEFORE, AFTER = "records/before.jsonl", "records/after.jsonl"


def reinforce(folder: StageFolder) -> None:
    """Improve the input model on the questions' reward and write checkpoints, records and result."""
    spec = parse_params(RLSpec, rendered(folder.request.params))
    with joined_world() as world:
        tokenizer = Tokenizer.load(folder.input("tokenizer"))
        model, meta = checkpoint.load_model(folder.input("model"), tokenizer_hash=tokenizer.hash, device=world.device)
        engine = rollout_engine(model, tokenizer, spec, world, tool=load_tool("calculator"))
        reward = reward_of_stage(spec.reward, folder, world.device)
        sampler = Sampler(engine, tokenizer, spec, reward)
        held_out = _questions(folder, "validation", spec, sampler, engine, world)[: spec.eval_questions]
        loader = QuestionLoader(
            _questions(folder, "train", spec, sampler, engine, world),
            per_step=spec.questions_per_step,
            seed=spec.seed,
            world=world,
        )
        run = _make_run(
            folder,
            spec,
            world,
            sampler,
            held_out,
            TrainState(model, MuonAdamW(model, world), loader),
            meta,
        )
        lines = train(run)
        if world.is_main:
            _write_result(folder, run, lines)


def _questions(
    folder: StageFolder, split: str, spec: RLSpec, sampler: Sampler, engine: Engine, world: World
) -> list[Question]:
    """Return the questions of a split that fit into the context beside an answer; say how many do not."""
    questions = read_questions(folder.input("conversations") / f"{split}.parquet")
    kept = fitting_questions(questions, sampler.tokenizer, spec, engine.max_length)
    if world.is_main and len(kept) < len(questions):
        print(
            f"{split}: {len(questions) - len(kept)} of {len(questions)} questions are too long and left out", flush=True
        )
    return kept


def _make_run(
    folder: StageFolder,
    spec: RLSpec,
    world: World,
    sampler: Sampler,
    held_out: list[Question],
    state: TrainState,
    meta: checkpoint.CheckpointMeta,
) -> TrainingRun:
    def validate() -> dict[str, float]:
        if state.step == 0:
            return curves(_examine(folder, spec, world, sampler, held_out, BEFORE))
        if state.step == steps:
            return {}  # examined once, after the last checkpoint
        return curves(_answer_held_out(spec, world, sampler, held_out))

    steps = spec.steps or state.loader.steps_per_epoch
    own_meta = meta_of_stage(folder, meta)
    own_rows = spec.questions_per_step // world.size * spec.samples_per_question
    rows = micro_rows(spec.runtime, own_meta, own_rows, world)
    return TrainingRun(
        folder=folder,
        world=world,
        state=state,
        settings=LoopSettings(steps=steps, optimizer=spec.optimizer, micro_rows=rows),
        runtime=spec.runtime,
        meta=own_meta,
        validate=validate,
        validate_every=spec.eval_every,
        evaluations=Evaluations.of(folder, spec.evaluators, state.model, sampler.tokenizer, world),
        measure_last=lambda: curves(_examine(folder, spec, world, sampler, held_out, AFTER)),
        steps=reinforce_steps(sampler, spec, rows),
    )


def _answer_held_out(spec: RLSpec, world: World, sampler: Sampler, held_out: list[Question]) -> list[dict[str, Any]]:
    """Answer the held-out questions, shared by the ranks; return a record for each, in order, on every rank."""
    numbers = list(range(world.rank, len(held_out), world.size))
    seeds = [spec.seed * 7_919 + number for number in numbers]
    answered = sampler.answer([held_out[number] for number in numbers], seeds, spec.eval_samples)
    own = [_record(number, item) for number, item in zip(numbers, answered, strict=True)]
    lines = b"".join(world.gather_bytes("".join(json.dumps(record) + "\n" for record in own).encode()))
    return sorted((json.loads(line) for line in lines.splitlines()), key=lambda record: record["index"])


def _record(number: int, item: Answered) -> dict[str, Any]:
    return {
        "index": number,
        "source": item.question["source"],
        "rewards": item.rewards,
        "answers": [completion.text for completion in item.completions],
    }


def _mean(records: list[dict[str, Any]]) -> float:
    return sum(sum(record["rewards"]) / len(record["rewards"]) for record in records) / len(records)


def curves(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean reward of the held-out questions and, where a reward says right or wrong, their pass@k.

    >>> curves([{"rewards": [1.0, 0.0, 0.0, 0.0]}, {"rewards": [0.0, 0.0, 0.0, 0.0]}])
    {'rl/held_out_reward': 0.125, 'rl/pass_at_1': 0.125, 'rl/pass_at_2': 0.25, 'rl/pass_at_4': 0.5}
    """
    values = {"rl/held_out_reward": _mean(records)}
    if any(reward not in (0, 1) for record in records for reward in record["rewards"]):
        return values
    samples = len(records[0]["rewards"])
    for k in counts_up_to(samples):
        passed = sum(pass_at_k(samples, int(sum(record["rewards"])), k) for record in records)
        values[f"rl/pass_at_{k}"] = passed / len(records)
    return values


def _passed(records: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """Return the largest pass@k of the records, by its name; nothing where the reward is another kind of number."""
    return [item for item in curves(records).items() if "pass_at" in item[0]][-1:]


def counts_up_to(samples: int) -> list[int]:
    """Return the k of a pass@k curve: 1, 2, 4, … and the number of samples.

    >>> counts_up_to(6), counts_up_to(8)
    ([1, 2, 4, 6], [1, 2, 4, 8])
    """
    return sorted({*(2**power for power in range(samples.bit_length())), samples})


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the chance that one of k answers, drawn from the samples, is correct: 1 - C(n-c, k) / C(n, k).

    An unbiased estimate for any n >= k (Chen et al. 2021, arXiv:2107.03374).

    >>> pass_at_k(4, 1, 2), pass_at_k(4, 3, 2), pass_at_k(4, 0, 4)
    (0.5, 1.0, 0.0)
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def _examine(
    folder: StageFolder, spec: RLSpec, world: World, sampler: Sampler, held_out: list[Question], name: str
) -> list[dict[str, Any]]:
    """Answer the held-out questions, keep a record of each answer in the file `name`, and return the records."""
    records = _answer_held_out(spec, world, sampler, held_out)
    if world.is_main:
        (folder.path / "records").mkdir(exist_ok=True)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_bytes(folder.path / name, text.encode())
    return records


def paired_gain(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Return the mean of the paired differences of the questions' mean rewards, and its 95 % interval (normal)."""
    differences = [
        sum(new["rewards"]) / len(new["rewards"]) - sum(old["rewards"]) / len(old["rewards"])
        for old, new in zip(before, after, strict=True)
    ]
    count = len(differences)
    mean = sum(differences) / count
    variance = sum((difference - mean) ** 2 for difference in differences) / max(1, count - 1)
    half = 1.96 * math.sqrt(variance / count)
    return mean, mean - half, mean + half


def _read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_result(folder: StageFolder, run: TrainingRun, lines: list[dict[str, float]]) -> None:
    before, after = _read_records(folder.path / BEFORE), _read_records(folder.path / AFTER)
    gain, low, high = paired_gain(before, after)
    folder.write_result(
        metrics={
            "reward_before": _mean(before),
            "reward_after": _mean(after),
            "reward_gain": gain,
            "reward_gain_low": low,
            "reward_gain_high": high,
            "held_out_questions": len(after),
            **{f"{name.removeprefix('rl/')}_before": value for name, value in _passed(before)},
            **{f"{name.removeprefix('rl/')}_after": value for name, value in _passed(after)},
            "train_reward_last": series(lines, "rl/reward")[-1][1],
            "steps": run.settings.steps,
            "tokens": run.state.tokens,
        },
        outputs=[*final_outputs(run.settings.steps), BEFORE, AFTER],
    )


if __name__ == "__main__":
    run_stage(reinforce, is_main=rank_from_environment() == 0)
