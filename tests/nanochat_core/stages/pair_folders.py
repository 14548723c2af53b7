"""Pairs of answers for the stages that learn from them: sums that are right, and sums that are not."""

import random
from pathlib import Path
from typing import Any

from nanochat_core.artifacts import read_json
from nanochat_core.data.own.preference_files import pair_of
from nanochat_core.data.preference_pairs import TRAIN, VALIDATION, write_pairs
from nanochat_core.preference_specs import DPOSpec, PairTrainingSpec, RewardModelSpec
from nanochat_core.specs import OptimizerSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.training.pair_training import with_prepared_pairs
from tests.nanochat_core.stages.stage_folders import Workbench, runtime

KINDS: dict[str, type[PairTrainingSpec]] = {"dpo": DPOSpec, "reward_model": RewardModelSpec}


def sums(count: int, seed: int) -> list[dict[str, Any]]:
    """Return pairs of a polite answer and one that is not, to sums."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        rows.append({"prompt": f"{a}+{b}?", "chosen": f"it is {a + b}", "rejected": f"{a + b} you fool"})
    return rows


def write_preferences(
    bench: Workbench, name: str, train: list[dict[str, Any]], validation: list[dict[str, Any]]
) -> str:
    """Write what the preferences stage would, and return the input that names it."""
    folder = bench.root / "preferences" / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(bench.root / "tokenizer" / "t")
    for file, rows in ((TRAIN, train), (VALIDATION, validation)):
        write_pairs(folder / file, tokenizer, list(map(pair_of, rows)))
    return f"preferences/{name}"


def pair_params(stage: str, **changes: Any) -> dict[str, Any]:
    """Return the params of a short stage on pairs."""
    defaults = {
        "optimizer": OptimizerSpec(lr_scale=0.05, warmdown_ratio=0.5),
        "batch_pairs": 8,
        "steps": 12,
        "validation_every": 6,
        "runtime": runtime(checkpoint_every=2),
    }
    spec = KINDS[stage].model_validate(with_prepared_pairs({})).model_copy(update=defaults | changes)
    params = spec.model_dump(mode="json")
    del params["preferences"]
    return params


def request(bench: Workbench, stage: str, name: str, preferences: str = "preferences/p", **changes: Any) -> Path:
    """Write the spec.json of a stage on pairs that begins with the bench's base model, and return its folder."""
    return bench.request(stage, name, pair_params(stage, **changes), preferences=preferences, model="pretrain/whole")


def measured(folder: Path) -> dict[str, float]:
    """Return the metrics of a finished stage."""
    return read_json(folder / "result.json")["metrics"]
