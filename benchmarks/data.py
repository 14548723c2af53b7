"""Speed of the data path beside the public packages that it uses: vocabulary, ids, rows, batches.

    .venv/bin/python benchmarks/data.py [--full]

- training a 32,768 vocabulary: `rustbpe` and `tokenizers` as they come, against ours (rustbpe, a plainer split rule);
- encoding: tiktoken's `encode_ordinary_batch` on texts in memory, against ours from a parquet shard to a uint16 shard;
- packing at T = 2,048: a linear scan over 1,000 documents, against ours; and how many tokens each throws away;
- the whole loader, 8 rows of 2,048: `baselines/plain_loader.py`, against ours on the fly and from tokenised shards.

The text is the mirror that NANOCHAT_TEST_HUB points at (default ../shared/hub), else the built-in text of the demo.
Prints a table, and as its last line one JSON object.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import rustbpe
import tiktoken
import torch
from rich.console import Console
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as JsonTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._bars import print_bars
from benchmarks._machine import machine
from benchmarks.baselines import plain_loader
from benchmarks.baselines.linear_packer import ArrayPacker, ListPacker
from nanochat_core.artifacts import sha256_of
from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.data import local_corpus
from nanochat_core.data.document_order import DocumentOrder
from nanochat_core.data.encoding_worker import EncodingWorkers
from nanochat_core.data.loader import RowShape, TokenLoader
from nanochat_core.data.packing import BUFFER_DOCUMENTS, BestFitPacker, Piece
from nanochat_core.data.shards import write_shard
from nanochat_core.data.token_shards import TokenShard, ensure_token_shard
from nanochat_core.data.token_source import CachedTokens, EncodedTokens, TokenSource
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.split_rule import SPLIT_PATTERN
from nanochat_core.training.feed import Feed

VOCAB_SIZE, MERGED = 32_768, 32_768 - len(SPECIAL_TOKENS)
ROWS, SEQUENCE_LEN = 8, 2048
THREADS = os.cpu_count() or 1
TRAINED_SHARDS = 3  # 30 MB of the mirror
BYTES_PER_TOKEN_BAR = 0.002


def shards(folder: Path) -> tuple[list[Path], Path]:
    """Return training shards and the held-out one: of the mirror, or written from the built-in text."""
    mirror = Path(os.environ.get("NANOCHAT_TEST_HUB", Path(__file__).parents[2] / "shared" / "hub"))
    found = sorted((mirror / "datasets/karpathy/fineweb-edu-100b-shuffle").glob("*.parquet"))
    if not found:
        *_, corpus = local_corpus.collect(12_000_000, 0)
        for index in range(4):
            found.append(folder / f"shard_{index:05d}.parquet")
            write_shard(found[-1], corpus.documents[index::4])
    return found[:-1], found[-1]


def read(paths: list[Path]) -> list[str]:
    return [text for path in paths for text in pq.read_table(path).column("text").to_pylist()]


def megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(rounds: int, **works: Callable[[], Any]) -> dict[str, list[float]]:
    """Return the seconds of each piece of work, done A B A B …"""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return taken


def ratio(taken: dict[str, list[float]], slow: str, fast: str) -> float:
    """Return how many times faster `fast` is, by the median over the rounds."""
    return statistics.median(a / b for a, b in zip(taken[slow], taken[fast], strict=True))


def by_rustbpe(texts: list[str]) -> dict[bytes, int]:
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), MERGED, pattern=SPLIT_PATTERN)
    return {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}


def by_tokenizers(texts: list[str]) -> JsonTokenizer:
    tokenizer = JsonTokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=MERGED, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def training(texts: list[str], held_out: list[str], rounds: int) -> tuple[dict[str, Any], Tokenizer]:
    """Time the trainers, and compare what their vocabularies make of text that they have not seen."""
    taken = in_turns(rounds, rustbpe=lambda: by_rustbpe(texts), ours=lambda: Tokenizer.train(texts, VOCAB_SIZE))
    tokenizer, size = Tokenizer.train(texts, VOCAB_SIZE), megabytes(texts)
    started = time.perf_counter()
    slower = by_tokenizers(texts)
    speed = {name: size / statistics.median(runs) for name, runs in taken.items()}
    speed["tokenizers"] = size / (time.perf_counter() - started)
    public = tiktoken.Encoding("rustbpe", pat_str=SPLIT_PATTERN, mergeable_ranks=by_rustbpe(texts), special_tokens={})
    bytes_held_out = sum(len(text.encode()) for text in held_out)
    per_token = {
        "rustbpe": bytes_held_out / sum(map(len, public.encode_ordinary_batch(held_out))),
        "tokenizers": bytes_held_out / sum(len(one.ids) for one in slower.encode_batch_fast(held_out)),
        "ours": bytes_held_out / len(tokenizer.encode_flat(held_out)[0]),
    }
    found = {
        "megabytes": size,
        "megabytes_per_second": speed,
        "bytes_per_token": per_token,
        "speed_over_rustbpe": ratio(taken, "rustbpe", "ours"),
    }
    return found, tokenizer


def tiktoken_of(tokenizer: Tokenizer) -> tiktoken.Encoding:
    ranks = {tokenizer.decode_bytes([index]): index for index in range(MERGED)}
    return tiktoken.Encoding("tiktoken", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})


def encoding(paths: list[Path], tokenizer: Tokenizer, folder: Path, rounds: int) -> dict[str, Any]:
    """Time tiktoken on texts in memory, and our way from parquet shards to uint16 shards on disk."""
    public, texts = tiktoken_of(tokenizer), read(paths)
    tokenizer.encode_flat(texts[:1])  # builds its tables
    sums = [sha256_of(path) for path in paths]

    def build() -> None:
        shutil.rmtree(folder / "tokens", ignore_errors=True)
        for path, sha256 in zip(paths, sums, strict=True):
            ensure_token_shard(path, sha256, tokenizer, folder / "tokens")

    def as_arrays() -> list[np.ndarray]:
        return [public.encode_to_numpy(text, disallowed_special=()) for text in texts]

    taken = in_turns(
        rounds,
        tiktoken=lambda: public.encode_ordinary_batch(texts, num_threads=THREADS),
        ours_to_disk=build,
        ours_in_memory=lambda: tokenizer.encode_flat(texts),
        tiktoken_one_thread=lambda: public.encode_ordinary_batch(texts, num_threads=1),
        tiktoken_to_numpy_one_thread=as_arrays,
    )
    size = megabytes(texts)
    return {
        "threads": THREADS,
        "megabytes_per_second": {name: size / statistics.median(runs) for name, runs in taken.items()},
        "speed_over_tiktoken": ratio(taken, "tiktoken", "ours_to_disk"),
    }


def packing(tokens: list[Path], tokenizer: Tokenizer, rounds: int) -> dict[str, Any]:
    """Time best-fit packing of the same documents, and count the tokens that are thrown away."""
    documents = [shard.document(index) for shard in map(TokenShard.open, tokens) for index in range(len(shard))]
    lists = [document.tolist() for document in documents]
    counts: dict[str, Any] = {}
    scanned, filled = 1000, 10_000  # rows

    def scan_lists() -> None:
        packer = ListPacker(itertools.cycle(lists), tokenizer.bos, SEQUENCE_LEN + 1)
        for _ in range(scanned):
            packer.row()

    def scan_arrays() -> None:
        packer = counts["linear"] = ArrayPacker(itertools.cycle(documents), tokenizer.bos, SEQUENCE_LEN + 1)
        for _ in range(filled):
            packer.row()

    def ours() -> None:
        pieces = (Piece(tokens, 0, index, 0) for index, tokens in enumerate(itertools.cycle(documents)))
        packer = BestFitPacker(
            tokenizer.bos, SEQUENCE_LEN, lambda: list(itertools.islice(pieces, 16)), buffer_documents=BUFFER_DOCUMENTS
        )
        row = np.empty(SEQUENCE_LEN + 1, tokenizer.token_dtype)
        for _ in range(filled):
            packer.fill(row)
        counts["ours"] = packer.counts

    taken = in_turns(rounds, lists=scan_lists, arrays=scan_arrays, ours=ours)
    rows = {"lists": scanned, "arrays": filled, "ours": filled}
    taken = {name: [run / rows[name] for run in runs] for name, runs in taken.items()}
    linear, own = counts["linear"], counts["ours"]
    return {
        "tokens_per_second": {name: SEQUENCE_LEN / statistics.median(runs) for name, runs in taken.items()},
        "speed_over_scan": ratio(taken, "lists", "ours"),
        "speed_over_tuned_scan": ratio(taken, "arrays", "ours"),
        "waste_of_scan": (linear.read - linear.placed - linear.waiting) / linear.read,
        "waste": own.wasted / own.read,
        "cut_documents_per_row": own.cut / own.rows,
        "utilisation": own.placed / (own.rows * (SEQUENCE_LEN + 1)),
    }


@contextlib.contextmanager
def our_steps(paths: list[Path], tokens: list[Path] | None, folder: Path, tokenizer: Tokenizer) -> Iterator[Feed]:
    """Give the loader of one rank on the fly, or from tokenised shards."""
    order = DocumentOrder(paths, lanes=ROWS, seed=0)
    source: TokenSource
    if tokens is None:
        source = EncodedTokens(EncodingWorkers(tokenizer, folder, THREADS), order, range(ROWS), ahead=2 * THREADS)
    else:
        source = CachedTokens(tokens, order)
    shape = RowShape.of(tokenizer, sequence_len=SEQUENCE_LEN, rows_per_step=ROWS, packing="best_fit")
    with contextlib.closing(Feed(TokenLoader(order, source, range(ROWS), shape), torch.device("cpu"))) as feed:
        yield feed


def loader(paths: list[Path], tokens: list[Path], tokenizer: Tokenizer, folder: Path, rounds: int) -> dict[str, Any]:
    """Time whole loaders after their first steps, which fill buffers and start processes."""
    tokenizer.save(folder)
    public = tiktoken_of(tokenizer)
    speed: dict[str, list[float]] = {"plain": [], "on_the_fly": [], "tokenised": []}

    def timed(take: Callable[[], Any], first: int, steps: int) -> float:
        for _ in range(first):
            take()
        return steps * ROWS * SEQUENCE_LEN / seconds(lambda: [take() for _ in range(steps)])

    for _ in range(rounds):
        plain = plain_loader.steps(
            paths, public, bos=tokenizer.bos, rows=ROWS, sequence_len=SEQUENCE_LEN, num_threads=THREADS
        )
        speed["plain"].append(timed(lambda plain=plain: next(plain), 80, 400))
        with our_steps(paths, None, folder, tokenizer) as feed:
            speed["on_the_fly"].append(timed(feed.batch, 400, 1600))
        with our_steps(paths, tokens, folder, tokenizer) as feed:
            speed["tokenised"].append(timed(feed.batch, 400, 4000))
    return {
        "tokens_per_second": {name: statistics.median(runs) for name, runs in speed.items()},
        "on_the_fly_over_plain": statistics.median(
            ours / plain for ours, plain in zip(speed["on_the_fly"], speed["plain"], strict=True)
        ),
    }


def at_least(value: float, limit: float) -> dict[str, Any]:
    return {"value": round(value, 4), "bar": f">= {limit:g}", "ok": value >= limit}


def below(value: float, limit: float) -> dict[str, Any]:
    return {"value": round(value, 6), "bar": f"<= {limit:.4g}", "ok": value <= limit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more text and more rounds")
    is_full = parser.parse_args().full
    rounds = 7 if is_full else 3
    with tempfile.TemporaryDirectory(prefix="nanochat-data-") as name:
        folder = Path(name)
        paths, held_out = shards(folder)
        used = paths if is_full else paths[:TRAINED_SHARDS]
        trained, tokenizer = training(read(used), read([held_out]), rounds)
        encoded = encoding(used, tokenizer, folder, rounds)
        tokens = [ensure_token_shard(path, sha256_of(path), tokenizer, folder / "tokens") for path in paths]
        packed = packing(tokens, tokenizer, rounds)
        loaded = loader(paths, tokens, tokenizer, folder, rounds)
    per_token = trained["bytes_per_token"]
    fastest = max(("rustbpe", "tokenizers"), key=trained["megabytes_per_second"].__getitem__)
    bars = {
        "training speed over the fastest public trainer": at_least(trained["speed_over_rustbpe"], 1.0),
        "bytes per token missing against it": below(1 - per_token["ours"] / per_token[fastest], BYTES_PER_TOKEN_BAR),
        "encoding to uint16 shards over tiktoken": at_least(encoded["speed_over_tiktoken"], 1.0),
        "packing over a linear scan": at_least(packed["speed_over_scan"], 20),
        "share of tokens that packing throws away": below(packed["waste"], packed["waste_of_scan"]),
        "loader on the fly over a plain one": at_least(loaded["on_the_fly_over_plain"], 1.8),
        "million tokens a second from tokenised shards": at_least(loaded["tokens_per_second"]["tokenised"] / 1e6, 20),
    }
    print_bars(bars, Console())
    results = {"training": trained, "encoding": encoded, "packing": packed, "loader": loaded}
    print(json.dumps({"benchmark": "data", "machine": machine(), "results": results, "bars": bars}))


if __name__ == "__main__":
    main()
