"""Conversations of every length and mask, in every batching: trained, with losses that are numbers, or refused."""

import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder, read_json
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.data.conversations import Batching
from nanochat_core.distributed import World
from nanochat_core.errors import CheckpointError, DataError
from nanochat_core.metrics import read_metrics
from nanochat_core.model.accounting import derive_shape
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import Arch
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.training.finetune import finetune
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import (
    VOCAB_SIZE,
    Workbench,
    conversations,
    finetune_params,
    runtime,
    tiny_model,
    write_conversations,
)

ALL = ["padded", "packed", *[pytest.param(name, marks=pytest.mark.slow) for name in ("stream", "bucketed")]]
LONG = "water " * 3400  # a token for each letter or two: 10,000 and more
Made = list[dict[str, Any]]


def chat(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[turn % 2], "content": content} for turn, content in enumerate(contents)]
    return {"messages": messages, "answer": ""}


SUMS = conversations(12, 1)
HARD: dict[str, tuple[Made, str | None]] = {  # name -> conversations; with the assistant's mask, why they are refused
    "a conversation of 10,000 tokens": ([chat("Hi", LONG), *SUMS], None),
    "a question of 10,000 tokens": ([chat(LONG, "yes"), *SUMS], None),
    "questions of 10,000 tokens only": ([chat(LONG, "yes")] * 4, "nothing to learn in rows of 128 tokens"),
    "ten thousand tokens in many turns": ([chat(*["a mat", "red birds"] * 900), *SUMS], None),
    "empty messages": ([chat("", ""), chat("Hi", ""), chat("", "deep water"), *SUMS], None),
    "questions without an answer": ([chat("Hi"), chat("red birds"), *SUMS], None),
    "nothing but questions without an answer": ([chat("Hi")] * 40, "nothing to learn in rows of 128 tokens"),
    "one row": ([SUMS[0]], None),
}


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A stage in this process takes SIGTERM for itself: give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def fresh_model(bench: Workbench, arch: Arch = "classic") -> str:
    """Write a model of random weights for rows of 128 tokens, without an optimizer; return its place."""
    place = f"pretrain/fresh-{arch}"
    if not (bench.root / place).exists():
        meta = CheckpointMeta(
            stage="pretrain",
            step=1,
            tokens=1,
            optimizer_steps=1,
            model=derive_shape(tiny_model(arch=arch, sequence_len=128)),
            vocab_size=VOCAB_SIZE,
            precision="fp32",
            tokenizer_hash=Tokenizer.load(bench.root / "tokenizer" / "t").hash,
            data_digest="",
        )
        model = GPT(meta.model, VOCAB_SIZE)
        init_weights(model, 0)
        whole = Checkpoint(meta=meta, model=model.state_dict(), optimizer={}, loader={})
        checkpoint.save(bench.root / place / "checkpoints", whole, World(0, 1, torch.device("cpu")), keep=1)
    return place


def request(bench: Workbench, name: str, train: Made, *, model: str = "", stage: str = "sft", **changes: Any) -> Path:
    """Write a fine-tuning stage on these conversations."""
    folder = bench.root / "conversations" / name
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        made = train if split == "train" else SUMS
        write_conversations(folder / f"{split}.parquet", Tokenizer.load(bench.root / "tokenizer" / "t"), made)
    params = finetune_params(
        **{"batch_rows": 1, "steps": 3, "validation_every": 3, "runtime": runtime(checkpoint_every=1000)} | changes
    )
    return bench.request(
        stage, name, params, model=model or fresh_model(bench), conversations=f"conversations/{folder.name}"
    )


def result_of(folder: Path) -> dict[str, Any]:
    """Run the stage in this process; return its metrics, of which every number and those of its steps are finite."""
    finetune(StageFolder(folder))
    metrics: dict[str, Any] = read_json(folder / "result.json")["metrics"]
    lines = read_metrics(folder / "metrics.jsonl")
    assert all(
        math.isfinite(value) for line in [*lines, metrics] for value in line.values() if not isinstance(value, str)
    )
    last = checkpoint.latest(folder / "checkpoints")
    assert last is not None
    weights = checkpoint.load_weights(
        last, tokenizer_hash=checkpoint.read_meta(last).tokenizer_hash, device=torch.device("cpu")
    )[1]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    return metrics


@pytest.mark.parametrize("batching", ALL)
@pytest.mark.parametrize("mask", ["assistant", pytest.param("none", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", HARD)
def test_hard_conversations_are_trained_on_or_refused_in_a_line(
    case: str, mask: str, batching: Batching, bench: Workbench
) -> None:
    train, refused = HARD[case]
    stage = "sft" if mask == "assistant" else "midtrain"
    name = f"{list(HARD).index(case)}-{mask}-{batching}"
    folder = request(bench, name, train, stage=stage, batching=batching, mask=mask)
    is_stream = batching == "stream"  # which cuts nothing
    if case == "one row" and is_stream:
        refused = "1 conversations do not fill one step of 1 rows of 128 tokens"
    elif mask == "none" or (is_stream and "10,000" in case):
        refused = None
    if refused:
        with pytest.raises(DataError, match=refused):
            finetune(StageFolder(folder))
    else:
        result_of(folder)


@pytest.mark.parametrize("arch", ["classic", "full"])
def test_steps_of_rows_with_nothing_to_learn_are_no_harm_for_either_architecture(arch: Arch, bench: Workbench) -> None:
    train = [chat("red birds")] * 7 + [SUMS[0]]
    folder = request(bench, f"masked-{arch}", train, model=fresh_model(bench, arch), batching="padded", steps=8)
    metrics = result_of(folder)
    losses = [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]
    assert sorted(losses)[:7] == [0.0] * 7 and max(losses) > 1
    assert metrics["unlearned_conversations"] == 7


@pytest.mark.parametrize("batching", ["padded", "packed", "bucketed"])
def test_a_long_conversation_is_cut_between_messages_and_counted(batching: Batching, bench: Workbench) -> None:
    train = [chat("Hi", "red birds", "and", "water " * 500), chat("Hi", "water " * 500), chat(LONG, "yes"), *SUMS]
    metrics = result_of(request(bench, f"cut-{batching}", train, batching=batching))
    names = ("cut_conversations", "cut_messages", "unlearned_conversations")
    assert [metrics[name] for name in names] == [3, 2, 1]


def test_training_goes_on_with_the_momentum_of_the_earlier_model_where_that_is_asked_for(
    bench: Workbench, base_model: Path
) -> None:
    fresh, kept = (
        request(bench, f"momentum-{keep}", SUMS, model="pretrain/whole", keep_optimizer=keep, steps=1)
        for keep in (False, True)
    )
    for folder in (fresh, kept):
        result_of(folder)
    (before, steps), (after, steps_after), (of_fresh, fresh_steps) = (
        checkpoint.load_optimizer(folder, device=torch.device("cpu")) for folder in (base_model, kept, fresh)
    )
    assert (steps_after, fresh_steps) == (steps + 1, 1)
    for name in (name for name in before if name.endswith("/momentum@0")):  # .85 of it, and .15 of the gradient
        assert torch.allclose(after[name] - 0.85 * before[name], of_fresh[name], rtol=1e-3, atol=1e-7), name


def test_a_model_without_an_optimizer_s_state_cannot_give_it(bench: Workbench) -> None:
    folder = request(bench, "no-momentum", SUMS, keep_optimizer=True)
    with pytest.raises(CheckpointError, match=r"holds no state of an optimizer.*Set keep_optimizer to false"):
        finetune(StageFolder(folder))


@pytest.mark.slow
def test_training_with_kept_momentum_that_is_killed_ends_with_the_same_bytes(
    bench: Workbench, base_model: Path
) -> None:
    changes = {"model": "pretrain/whole", "keep_optimizer": True, "steps": 6, "runtime": runtime(checkpoint_every=2)}
    whole, stopped = (request(bench, f"kept-{name}", SUMS, **changes) for name in ("whole", "stopped"))
    stage_folders.run(whole)
    process = stage_folders.start(stopped)
    while process.poll() is None and not (stopped / "checkpoints" / "step_00000002").exists():
        time.sleep(0.002)
    process.kill()
    process.communicate()
    stage_folders.run(stopped)
    ours, theirs = map(stage_folders.final_bytes, (stopped, whole))
    names = {name for name in theirs if name.endswith(".safetensors")}  # meta.json names the data, in two folders
    assert len(names) == 3 and all(ours[name] == theirs[name] for name in names)


@pytest.mark.slow
def test_two_ranks_of_which_one_has_nothing_to_learn_give_the_losses_of_one(bench: Workbench) -> None:
    pairs = [conversation for learned in conversations(6, 3) for conversation in (learned, chat("red birds"))]
    folders = [request(bench, f"half-masked-{ranks}", pairs, batch_rows=2, steps=6) for ranks in (1, 2)]
    for folder in folders:  # in order, so that rank 1 gets the questions without an answer
        for split in ("train", "validation"):
            path = bench.root / "conversations" / folder.name / f"{split}.parquet"
            in_order: pa.Table = pq.read_table(path).replace_schema_metadata({b"nanochat.order": b"sequence"})
            pq.write_table(in_order, path)
    results = [result_of(folders[0]), stage_folders.run(folders[1], ranks=2)["metrics"]]
    losses = [
        [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]
        for folder in folders
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and min(losses[0]) > 0
    assert results[1]["val_loss_last"] == pytest.approx(results[0]["val_loss_last"], rel=1e-3)
