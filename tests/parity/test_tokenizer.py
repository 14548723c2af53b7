"""Our tokenizer, split rule and renderer against what the reference computed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import regex
from tokenizers import Regex, pre_tokenizers

from nanochat_core.data.shards import documents
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_conversation, render_prompt
from nanochat_core.tokenizer.split_rule import PLAIN_PATTERN, SPLIT_PATTERN, UNPOSSESSIVE_PATTERN, cut_blank_runs
from tests.parity.golden_tokenizer import golden_conversations, golden_json, golden_tokenizer

PRETOKENS = golden_json("pretokens.json")
ENCODINGS = golden_json("encodings.json")
CONVERSATIONS = golden_conversations()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return golden_tokenizer()


def test_the_trainer_cuts_text_as_the_reference_does() -> None:
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    for example in PRETOKENS:
        assert [piece for piece, _ in split.pre_tokenize_str(example["text"])] == example["pieces"]


def test_the_split_rule_is_the_same_in_another_engine() -> None:
    for example in PRETOKENS:
        assert regex.findall(SPLIT_PATTERN, example["text"]) == example["pieces"]


def test_the_other_spellings_of_the_split_rule_cut_as_the_reference_does() -> None:
    for example in PRETOKENS:
        assert regex.findall(UNPOSSESSIVE_PATTERN, example["text"]) == example["pieces"]
        cut = [piece for part in cut_blank_runs(example["text"]) for piece in regex.findall(PLAIN_PATTERN, part)]
        assert cut == example["pieces"]


def test_texts_have_the_ids_of_the_reference(tokenizer: Tokenizer) -> None:
    texts = [example["text"] for example in ENCODINGS]
    assert [tokenizer.encode(text) for text in texts] == [example["ids"] for example in ENCODINGS]
    assert tokenizer.encode_batch(texts) == [example["ids"] for example in ENCODINGS]


def test_the_file_encodes_as_the_reference_does(tokenizer: Tokenizer) -> None:
    for example in ENCODINGS:
        assert tokenizer.encode_with_file(example["text"]) == example["ids"]


def test_conversations_have_the_ids_and_mask_of_the_reference(tokenizer: Tokenizer) -> None:
    for example in CONVERSATIONS:
        assert render_conversation(tokenizer, example["conversation"]) == (example["ids"], example["mask"])


def test_prompts_have_the_ids_of_the_reference(tokenizer: Tokenizer) -> None:
    prompted = [example for example in CONVERSATIONS if "completion_prompt_ids" in example]
    assert len(prompted) > 50
    for example in prompted:
        assert render_prompt(tokenizer, example["conversation"]) == example["completion_prompt_ids"]


@pytest.mark.hub
@pytest.mark.slow
def test_our_trainer_learns_the_tokens_of_the_reference(tokenizer: Tokenizer, hub_mirror: Path) -> None:
    shards = sorted((hub_mirror / "datasets" / "karpathy" / "fineweb-edu-100b-shuffle").glob("*.parquet"))
    ours = Tokenizer.train(_first_characters(shards[:-1], 30_000_000), tokenizer.vocab_size)
    assert ours.hash == tokenizer.hash


def _first_characters(shards: list[Path], characters: int) -> Iterator[str]:
    """Yield documents, cut to 10,000 characters, until more than `characters` have passed."""
    seen = 0
    for text in documents(shards):
        yield text[:10_000]
        seen += len(text[:10_000])
        if seen > characters:
            return
