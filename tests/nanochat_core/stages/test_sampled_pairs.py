"""The stage that samples pairs: no prompt is in both files, a kill changes no byte, and no pair at all is refused."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.data.own.preference_files import preference_files, read_preferences
from nanochat_core.distributed import World
from nanochat_core.errors import ArtifactError, DataError
from nanochat_core.preference_specs import SampledPairsSpec
from nanochat_core.stages import sampled_pairs
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.training.finetune import rendered
from nanochat_core.training.rollouts import read_questions
from tests.fakes import byte_tokenizer
from tests.nanochat_core.inference.test_engine import random_model
from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench, conversations, write_conversations
from tests.nanochat_core.stages.test_kill import kill_at

STAGE = "sampled_pairs"
CPU = World(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A random model of bytes, and sums for it; some of those to train on are held out, too."""
    bench = Workbench(tmp_path_factory.mktemp("pairs") / "artifacts")
    tokenizer, model = byte_tokenizer(), random_model()
    for name in ("tokenizer/t", "conversations/c"):
        (bench.root / name).mkdir(parents=True)
    tokenizer.save(bench.root / "tokenizer/t")
    meta = CheckpointMeta(
        stage="sft",
        step=1,
        tokens=0,
        optimizer_steps=0,
        model=model.spec,
        vocab_size=model.vocab_size,
        precision="fp32",
        tokenizer_hash=Tokenizer.load(bench.root / "tokenizer/t").hash,
        data_digest="",
    )
    found = Checkpoint(meta=meta, model=model.state_dict(), optimizer={}, loader={})
    checkpoint.save(bench.root / "sft/m/checkpoints", found, CPU, keep=1)
    for split, count, seed in (("train", 24, 1), ("validation", 8, 2)):
        write_conversations(bench.root / f"conversations/c/{split}.parquet", tokenizer, conversations(count, seed))
    return bench


def folder_of(bench: Workbench, name: str, **changes: Any) -> Path:
    """Write the spec.json of a stage that asks the model 32 questions, and return its folder."""
    short = {"samples_per_question": 8, "max_new_tokens": 40, "top_k": None} | changes
    params = SampledPairsSpec.model_validate(rendered(short)).model_dump(mode="json", exclude={"conversations"})
    return bench.request(STAGE, name, params, model="sft/m")


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("train.jsonl", "test.jsonl", "result.json")}


def has_pieces(folder: Path, count: int) -> bool:
    return len(list((folder / "pieces").glob("[0-9]*"))) >= count


def test_the_model_s_wrong_answers_become_pairs_and_no_prompt_is_in_both_files(
    asked: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_pairs, "ANSWERS", 128)
    whole, stopped = folder_of(asked, "whole"), folder_of(asked, "stopped", pairs_per_question=2)
    sampled_pairs.sample_pairs(StageFolder(whole))
    metrics = json.loads((whole / "result.json").read_text())["metrics"]
    pairs = {split: read_preferences(path) for split, path in preference_files(whole).items()}
    prompts = {split: [pair.prompt_key for pair in found] for split, found in pairs.items()}
    assert metrics["prompts_on_both_sides"] > 0 and not set(prompts["train"]) & set(prompts["test"])
    assert (len(pairs["train"]), len(pairs["test"])) == (metrics["train_pairs"], metrics["test_pairs"])
    assert len(prompts["test"]) == len(set(prompts["test"])) <= 8 and metrics["mean_reward"] < 0.5
    assert metrics["questions"] == 32 - metrics["prompts_on_both_sides"]
    assert metrics["wrong_answers"] > metrics["unreadable_answers"] > 0
    assert not (whole / "pieces").exists()
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == json.loads(lines[-1])["total_steps"] == metrics["questions"]

    sampled_pairs.sample_pairs(StageFolder(stopped))
    more = {split: read_preferences(path) for split, path in preference_files(stopped).items()}
    assert len(more["train"]) > len(pairs["train"]), "two different wrong answers to a question are two pairs"


def test_a_stage_that_was_stopped_between_two_pieces_ends_with_the_same_bytes(
    asked: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_pairs, "ANSWERS", 96)
    whole, stopped = folder_of(asked, "in-one-go"), folder_of(asked, "in-two")
    sampled_pairs.sample_pairs(StageFolder(whole))
    ask, calls = sampled_pairs.ask, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ask(*arguments)

    monkeypatch.setattr(sampled_pairs, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sampled_pairs.sample_pairs(StageFolder(stopped))
    assert len(list((stopped / "pieces").glob("*.jsonl"))) == 1
    sampled_pairs.sample_pairs(StageFolder(stopped))
    assert files_of(stopped) == files_of(whole)
    assert len(calls) == 4, "pieces that were there are not asked again"


def test_where_there_is_no_pair_it_is_said_why(asked: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    short = folder_of(asked, "short", max_new_tokens=1, samples_per_question=2, top_k=1)
    with pytest.raises(DataError, match=r"no pair to train on: .* none of these is a whole .* Raise .*max_new_tokens"):
        sampled_pairs.sample_pairs(StageFolder(short))
    monkeypatch.setattr("nanochat_core.training.rollouts.load_reward", lambda name: lambda question, completion: 1.0)
    right = folder_of(asked, "right", max_new_tokens=1, samples_per_question=2)
    with pytest.raises(DataError, match=r"are right\. Ask harder questions .* or name a file of pairs"):
        sampled_pairs.sample_pairs(StageFolder(right))
    monkeypatch.setattr(
        sampled_pairs, "read_questions", lambda path: read_questions(path.with_name("validation.parquet"))
    )
    with pytest.raises(DataError, match=r"all questions of the mixture are held out, too\. Name a task with more"):
        sampled_pairs.sample_pairs(StageFolder(folder_of(asked, "held_out")))


def test_a_reward_with_a_model_of_its_own_asks_for_that_model(asked: Workbench) -> None:
    pleasing = folder_of(asked, "pleasing", reward="preference")
    with pytest.raises(ArtifactError, match="names no input 'reward_model'"):
        sampled_pairs.sample_pairs(StageFolder(pleasing))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_and_another_number_of_ranks_change_nothing(asked: Workbench) -> None:
    many = {"samples_per_question": 128, "max_new_tokens": 12}
    whole, killed, shared = (folder_of(asked, name, **many) for name in ("process", "killed", "two-ranks"))
    stage_folders.run(whole)
    for count in (1, 3):
        assert kill_at(killed, partial(has_pieces, killed, count))
    stage_folders.run(killed)
    stage_folders.run(shared, ranks=2)
    assert files_of(killed) == files_of(shared) == files_of(whole)
