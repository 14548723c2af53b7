"""The tokenizer stage: learns a vocabulary from the training shards. Torch-free; `python -m … FOLDER/spec.json`.

In: params TokenizerSpec, input `text`. Out: tokenizer.json, and in result.json how well it compresses held-out text and
the sample texts, beside GPT-2's and GPT-4's vocabularies.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

from nanochat_core import artifacts
from nanochat_core.artifacts import StageFolder, run_stage
from nanochat_core.data.shards import INDEX_NAME, TextShards, documents
from nanochat_core.metrics import MetricsWriter
from nanochat_core.specs import TokenizerSpec, parse_params
from nanochat_core.tokenizer.bpe import FILE_NAME, Tokenizer
from nanochat_core.tokenizer.comparison import OWN, ComparedText, compare_held_out, compare_samples
from nanochat_core.tokenizer.compression import Compression, measure
from nanochat_core.tokenizer.public_vocabularies import VOCABULARIES, public_encodings

HELD_OUT_CHARACTERS = 10_000_000  # of the validation shard, for the compression
CHECKED_DOCUMENTS = 32  # encoded by tokenizer.json and by tiktoken, to see that the two agree
LONGEST_SHOWN = 20
CHARACTERS_PER_LINE = 1_000_000  # training text between two lines of metrics.jsonl


@dataclass
class TextCounter:
    """Counts what passes through, cuts it to the spec's size, and reports progress."""

    spec: TokenizerSpec
    metrics: MetricsWriter
    total_characters: int
    documents: int = 0
    characters: int = 0

    def limited(self, texts: Iterable[str]) -> Iterator[str]:
        """Yield documents, each cut to `document_characters`, until `max_characters` have passed."""
        for text in texts:
            cut = text[: self.spec.document_characters]
            self.documents += 1
            before, self.characters = self.characters, self.characters + len(cut)
            yield cut
            if self.characters // CHARACTERS_PER_LINE > before // CHARACTERS_PER_LINE:
                self.metrics.write(self.characters, total_steps=self.total_characters, progress="characters read")
            if self.characters >= self.spec.max_characters:
                return


def work(folder: StageFolder) -> None:
    """Train, check, measure, and write the result. Raises DataError where the text is too small for the vocabulary."""
    spec = parse_params(TokenizerSpec, folder.request.params)
    shards = TextShards.open(folder.input("text"))
    available = artifacts.read_json(folder.input("text") / INDEX_NAME)["characters"]["train"]
    with contextlib.closing(MetricsWriter(folder.path / "metrics.jsonl")) as metrics:
        counter = TextCounter(spec, metrics, min(spec.max_characters, available))
        tokenizer = Tokenizer.train(counter.limited(documents(shards.train)), spec.vocab_size)
    _check_against_file(tokenizer, list(itertools.islice(documents([shards.validation]), CHECKED_DOCUMENTS)))
    held_out = measure(tokenizer, _first_characters(shards))
    references = public_encodings(fetch=spec.fetch_references)
    compared = compare_samples(tokenizer, references)
    metrics = _metrics(tokenizer, counter, held_out) | _sample_metrics(compared)
    compared.append(compare_held_out(held_out, references, partial(_first_characters, shards)))
    tokenizer.save(folder.path)
    folder.write_result(
        metrics, [FILE_NAME], _details(tokenizer) | {"comparison": _comparison(tokenizer, references, compared)}
    )


def _check_against_file(tokenizer: Tokenizer, texts: list[str]) -> None:
    """tokenizer.json, read by the `tokenizers` library, must encode as we do: others will load that file."""
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.encode_with_file(text) == ids, (
            f"tokenizer.json encodes {text[:80]!r}… in another way than tiktoken"
        )


def _first_characters(shards: TextShards) -> Iterator[str]:
    """Yield the first documents of the validation shard, HELD_OUT_CHARACTERS of them."""
    seen = 0
    for text in documents([shards.validation]):
        yield text
        seen += len(text)
        if seen >= HELD_OUT_CHARACTERS:
            return


def _metrics(tokenizer: Tokenizer, counter: TextCounter, held_out: Compression) -> dict[str, float | int]:
    return {
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": round(held_out.bytes_per_token, 4),
        "tokens_per_document": round(held_out.tokens / max(1, held_out.documents), 1),
        "held_out_bytes": held_out.bytes,
        "held_out_tokens": held_out.tokens,
        "train_documents": counter.documents,
        "train_characters": counter.characters,
    }


def _sample_metrics(samples: list[ComparedText]) -> dict[str, float | int]:
    return {f"bytes_per_token_{sample.name}": round(sample.bytes_per_token(OWN), 4) for sample in samples}


def _comparison(tokenizer: Tokenizer, measured: Iterable[str], texts: list[ComparedText]) -> dict[str, object]:
    """For the report: what each vocabulary makes of each text, and of which vocabularies a table says so."""
    vocabularies: dict[str, dict[str, object]] = {OWN: {"title": "ours", "size": tokenizer.vocab_size}}
    vocabularies |= {name: {"title": known.title, "size": known.size} for name, known in VOCABULARIES.items()}
    return {
        "vocabularies": vocabularies,
        "from_table": [name for name in VOCABULARIES if name not in set(measured)],
        "texts": [asdict(text) for text in texts],
    }


def _details(tokenizer: Tokenizer) -> dict[str, object]:
    """For the report: the vocabulary in figures, and its longest tokens."""
    lengths = tokenizer.token_bytes()
    longest = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))[:LONGEST_SHOWN]
    learned = lengths[lengths > 0]
    return {
        "sha256": tokenizer.hash,
        "special_tokens": len(tokenizer.special_ids),
        "mean_token_bytes": round(float(learned.mean()), 3),
        "longest_tokens": [tokenizer.decode([index]) for index in longest],
    }


if __name__ == "__main__":
    run_stage(work)
