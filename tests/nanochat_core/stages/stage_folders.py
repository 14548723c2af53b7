"""Tiny but real inputs for the training stages, and the stages as real processes, one rank or more."""

import json
import os
import random
import re
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.artifacts import StageRequest, read_json, sha256_of
from nanochat_core.data.shards import write_shard
from nanochat_core.specs import FinetuneSpec, ModelSpec, OptimizerSpec, PretrainRuntime, PretrainSpec, RLSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_conversation
from nanochat_core.training.finetune import rendered

PROJECT = Path(__file__).parents[3]
VOCAB_SIZE = 320
STEPS = 50
WORDS = re.findall("[a-z]+", "the cat saw two red birds fly over our old house and rain fell into deep water on a mat")


def documents(count: int, seed: int) -> list[str]:
    """Return made-up sentences, 20 to 60 words each."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(20, 60))) + "." for _ in range(count)]


def conversations(count: int, seed: int) -> list[dict[str, Any]]:
    """Return sums through the calculator."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        parts = [
            {"type": "python", "text": f"{a}+{b}"},
            {"type": "python_output", "text": str(a + b)},
            {"type": "text", "text": str(a + b)},
        ]
        messages = [{"role": "user", "content": f"{a}+{b}?"}, {"role": "assistant", "content": parts}]
        made.append({"messages": messages, "answer": str(a + b)})
    return made


@dataclass
class Workbench:
    """A base folder with inputs for every training stage; `request` writes a spec.json, `run` starts the process."""

    root: Path
    inputs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def build(cls, base: Path) -> "Workbench":
        bench = cls(base / "artifacts")
        bench._write_text()
        bench._write_tokenizer()
        bench._write_conversations()
        return bench

    def _write_text(self) -> None:
        folder = self.root / "download" / "text"
        (folder / "shards").mkdir(parents=True)
        write_shard(folder / "shards" / "shard_00000.parquet", documents(600, 1))
        write_shard(folder / "shards" / "shard_00001.parquet", documents(40, 2))
        names = ["shards/shard_00000.parquet", "shards/shard_00001.parquet"]
        sha256 = {name: sha256_of(folder / name) for name in names}
        index = {"train": names[:1], "validation": names[1], "sha256": sha256}
        (folder / "index.json").write_text(json.dumps(index))

    def _write_tokenizer(self) -> None:
        folder = self.root / "tokenizer" / "t"
        folder.mkdir(parents=True)
        Tokenizer.train(documents(600, 1), VOCAB_SIZE).save(folder)

    def _write_conversations(self) -> None:
        tokenizer = Tokenizer.load(self.root / "tokenizer" / "t")
        folder = self.root / "conversations" / "c"
        folder.mkdir(parents=True)
        for split, count, seed in (("train", 200, 1), ("validation", 24, 2)):
            write_conversations(folder / f"{split}.parquet", tokenizer, conversations(count, seed))

    def request(self, stage: str, name: str, params: dict[str, Any], **inputs: str) -> Path:
        """Write a stage's spec.json and return its folder; inputs default to the shared ones."""
        known = {"text": "download/text", "tokenizer": "tokenizer/t", "conversations": "conversations/c"} | inputs
        folder = self.root / stage / name
        folder.mkdir(parents=True, exist_ok=True)
        digests = {key: f"digest of {value}" for key, value in known.items()}
        request = StageRequest(
            stage=stage, version=1, fingerprint=name, params=params, inputs=known, input_digests=digests
        )
        (folder / "spec.json").write_text(request.model_dump_json())
        return folder

    def pretrain(self, name: str, **changes: Any) -> Path:
        return self.request("pretrain", name, pretrain_params(**changes))


def write_conversations(path: Path, tokenizer: Tokenizer, made: list[dict[str, Any]]) -> None:
    """Write conversations as `tasks_eval.build_conversations` does."""
    pairs = [render_conversation(tokenizer, conversation) for conversation in made]
    table = pa.table(
        {
            "messages": [json.dumps(conversation["messages"]) for conversation in made],
            "source": ["Sums"] * len(made),
            "ids": pa.array([ids for ids, _ in pairs], pa.list_(pa.int32())),
            "mask": pa.array([mask for _, mask in pairs], pa.list_(pa.int8())),
            "meta": [
                json.dumps({"task": "Sums", "grading": "final_number", "answer": conversation["answer"]})
                for conversation in made
            ],
        }
    )
    pq.write_table(table, path)


def runtime(**changes: Any) -> PretrainRuntime:
    return PretrainRuntime(use_compile=False, log_every=1, checkpoint_every=5, keep_checkpoints=2).model_copy(
        update=changes
    )


def tiny_model(**changes: Any) -> ModelSpec:
    """Return the shape of a model of 40,000 parameters."""
    return ModelSpec(depth=1, n_embd=32, n_head=2, n_kv_head=2, sequence_len=32).model_copy(update=changes)


def pretrain_params(
    *, steps: int = STEPS, runtime_changes: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return the params of a model of 40,000 parameters."""
    spec = PretrainSpec(
        model=tiny_model(),
        precision="fp32",
        steps=steps,
        total_batch_tokens=256,
        packing="stream",
        validation_every=25,
        validation_tokens=1024,
        sample_every=1000,
        runtime=runtime(**(runtime_changes or {})),
    )
    return spec.model_copy(update=changes).model_dump(mode="json")


def finetune_params(**changes: Any) -> dict[str, Any]:
    defaults = {"batch_rows": 8, "steps": 20, "validation_every": 10, "runtime": runtime()}
    spec = FinetuneSpec.model_validate(rendered({})).model_copy(update=defaults | changes)
    return without_conversations(spec)


def rl_params(**changes: Any) -> dict[str, Any]:
    defaults = {
        "optimizer": OptimizerSpec(lr_scale=0.1),
        "questions_per_step": 4,
        "samples_per_question": 4,
        "max_new_tokens": 12,
        "steps": 8,
        "eval_questions": 8,
        "eval_samples": 2,
        "eval_every": 8,
        "runtime": runtime(checkpoint_every=2),
    }
    return without_conversations(RLSpec.model_validate(rendered({})).model_copy(update=defaults | changes))


def without_conversations(spec: FinetuneSpec | RLSpec) -> dict[str, Any]:
    params = spec.model_dump(mode="json")
    del params["conversations"]
    return params


def command(folder: Path, ranks: int = 1) -> list[str]:
    """Return how the stage of a folder is started."""
    module = f"nanochat_core.stages.{json.loads((folder / 'spec.json').read_text())['stage']}"
    stage = ["-m", module, str(folder / "spec.json")]
    if ranks == 1:
        return [sys.executable, *stage]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *stage]


def start(folder: Path, ranks: int = 1, largest_file: int | None = None) -> "subprocess.Popen[str]":
    """Start a stage's process; with `largest_file`, each file that it writes is full after so many bytes."""

    def limit() -> None:
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "NANOCHAT_DEVICE": "cpu"}
    return subprocess.Popen(
        command(folder, ranks),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        preexec_fn=limit,
    )


def run(folder: Path, ranks: int = 1) -> dict[str, Any]:
    """Run a stage to its end and return its result; fails with its output where it fails."""
    process = start(folder, ranks)
    output, errors = process.communicate(timeout=150)
    assert process.returncode == 0, f"{folder} ended with {process.returncode}:\n{output}\n{errors}"
    return read_json(folder / "result.json")


def final_bytes(folder: Path) -> dict[str, bytes]:
    """Return every file of the last checkpoint."""
    last = max((folder / "checkpoints").glob("step_*"))
    return {path.name: path.read_bytes() for path in sorted(last.iterdir())}


def refusal(folder: Path, largest_file: int | None = None) -> str:
    """Run a stage that must refuse its input; return the one line that it prints."""
    process = start(folder, largest_file=largest_file)
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 2, f"ended with {process.returncode}: {errors}"
    assert "Traceback" not in errors
    assert read_json(folder / "exit.json")["code"] == 2
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    return lines[0]
