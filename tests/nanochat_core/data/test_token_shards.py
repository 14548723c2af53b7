"""Tokenised shards: what tiktoken gives, named by content, whole or made again."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nanochat_core.artifacts import sha256_of
from nanochat_core.data.shards import ROWS_PER_GROUP, write_shard
from nanochat_core.data.token_shards import TokenShard, build_token_shard, is_whole
from nanochat_core.errors import ArtifactError, DataError
from nanochat_core.tokenizer import bpe
from nanochat_core.tokenizer.bpe import Tokenizer
from tests.fakes import byte_tokenizer
from tests.parity.golden_tokenizer import golden_tokenizer

TEXTS = ["first document", "", "zweites Dokument, größer", "<|bos|> stays text", *(f"number {i}" for i in range(400))]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    golden_tokenizer().save(tmp_path)
    write_shard(tmp_path / "shard.parquet", TEXTS)
    assert len(TEXTS) > ROWS_PER_GROUP  # more than one row group
    return tmp_path / "shard.parquet"


def build(shard: Path) -> Path:
    return build_token_shard(shard, sha256_of(shard), shard.parent, shard.parent / "tokens")


def test_each_document_has_the_ids_that_tiktoken_gives(shard: Path) -> None:
    tokens, tokenizer = TokenShard.open(build(shard)), golden_tokenizer()
    assert len(tokens) == len(TEXTS)
    for index, text in enumerate(TEXTS):
        assert tokens.document(index).tolist() == tokenizer.encode(text)
    stored = load_file(build(shard))
    assert stored["ids"].dtype == np.uint16 and stored["offsets"].dtype == np.int64


def test_a_shard_is_tokenised_once_and_again_for_other_text_or_another_tokenizer(shard: Path) -> None:
    path = build(shard)
    written = path.stat().st_mtime_ns
    assert build(shard) == path and path.stat().st_mtime_ns == written
    write_shard(shard, [*TEXTS, "one more"])
    assert build(shard) != path
    byte_tokenizer().save(shard.parent)
    assert build(shard).parent != path.parent


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_file_that_is_not_whole_is_never_read_and_made_again(shard: Path, kept: int) -> None:
    path = build(shard)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert not is_whole(path)
    with pytest.raises(ArtifactError, match="no whole file of tokens"):
        TokenShard.open(path)
    assert build(shard).read_bytes() == whole


def test_a_corrupt_shard_is_named_and_leaves_nothing_behind(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[40:200] = bytes(160)
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"shard\.parquet is corrupt"):
        build(shard)
    assert not [path for path in (shard.parent / "tokens").rglob("*") if path.is_file()]


def test_a_fast_encoder_that_errs_is_noticed(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Tokenizer.encode_flat

    def wrong(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = encode(tokenizer, texts)
        return ids + 1, offsets

    monkeypatch.setattr(bpe.Tokenizer, "encode_flat", wrong)
    with pytest.raises(AssertionError, match="unlike tiktoken"):
        build(shard)
