import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from nanochat_core.artifacts import sha256_of, write_json
from nanochat_core.data.shards import write_shard
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.comparison import sample_text
from tests.hub_miniature import sentence


def run_stage(base: Path, **params: Any) -> subprocess.CompletedProcess[str]:
    folder = base / "artifacts" / "tokenizer" / "x"
    folder.mkdir(parents=True, exist_ok=True)
    request = {
        "stage": "tokenizer",
        "version": 1,
        "fingerprint": "x",
        "params": params,
        "inputs": {"text": "download/x"},
    }
    write_json(folder / "spec.json", request)
    command = [sys.executable, "-m", "nanochat_core.stages.tokenizer", str(folder / "spec.json")]
    environment = os.environ | {"TIKTOKEN_CACHE_DIR": str(base / "no-vocabularies")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def write_text(base: Path) -> None:
    rng = random.Random(0)
    folder = base / "artifacts" / "download" / "x"
    folder.mkdir(parents=True)
    texts = [" ".join(sentence(rng) for _ in range(20)) for _ in range(60)]
    write_shard(folder / "train.parquet", texts[:50])
    write_shard(folder / "validation.parquet", texts[50:])
    characters = {"train": sum(map(len, texts[:50])), "validation": sum(map(len, texts[50:]))}
    names = {"train": ["train.parquet"], "validation": "validation.parquet"}
    sha256 = {name: sha256_of(folder / name) for name in ("train.parquet", "validation.parquet")}
    write_json(folder / "index.json", names | {"characters": characters, "sha256": sha256})


def test_the_stage_learns_the_vocabulary_and_measures_it_on_held_out_text(tmp_path: Path) -> None:
    write_text(tmp_path)
    ran = run_stage(tmp_path, vocab_size=400)
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / "artifacts" / "tokenizer" / "x"
    result = json.loads((folder / "result.json").read_text())
    tokenizer = Tokenizer.load(folder)
    assert result["outputs"] == ["tokenizer.json"]
    assert result["metrics"]["vocab_size"] == tokenizer.vocab_size == 400
    assert result["metrics"]["train_documents"] == 50
    assert 3 < result["metrics"]["bytes_per_token"] < 8
    assert result["details"]["sha256"] == tokenizer.hash
    check_comparison(result, tokenizer)


def check_comparison(result: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Each sample and the held-out text are there, with the table's numbers beside our own on the samples."""
    comparison = result["details"]["comparison"]
    assert comparison["from_table"] == ["gpt2", "cl100k_base"]
    *samples, held_out = comparison["texts"]
    for row in samples:
        own = len(tokenizer.encode(sample_text(row["name"])))
        assert row["tokens"]["own"] == own
        assert set(row["tokens"]) == set(comparison["vocabularies"]) == {"own", "gpt2", "cl100k_base"}
        assert result["metrics"][f"bytes_per_token_{row['name']}"] == round(row["bytes"] / own, 4)
    assert held_out["tokens"] == {"own": result["metrics"]["held_out_tokens"]}


def test_a_vocabulary_that_the_text_does_not_support_ends_in_one_line(tmp_path: Path) -> None:
    write_text(tmp_path)
    ran = run_stage(tmp_path, vocab_size=65_536)
    assert ran.returncode == 2
    assert len(ran.stderr.strip().splitlines()) == 1 and "set tokenizer.vocab_size to" in ran.stderr
    folder = tmp_path / "artifacts" / "tokenizer" / "x"
    assert not (folder / "tokenizer.json").exists() and not (folder / "result.json").exists()


def test_the_spec_limits_the_text(tmp_path: Path) -> None:
    write_text(tmp_path)
    ran = run_stage(tmp_path, vocab_size=300, max_characters=1200, document_characters=500)
    assert ran.returncode == 0, ran.stderr
    metrics = json.loads((tmp_path / "artifacts/tokenizer/x/result.json").read_text())["metrics"]
    assert (metrics["train_documents"], metrics["train_characters"]) == (3, 1500)
