from nanochat_core.tokenizer.compression import Compression, measure
from tests.parity.golden_tokenizer import golden_tokenizer

TOKENIZER = golden_tokenizer()


def test_sizes_are_counted_over_all_texts() -> None:
    texts = ["The river is wide.", "Größe", ""] * 200
    found = measure(TOKENIZER, texts)
    assert found.documents == 600
    assert found.characters == sum(map(len, texts))
    assert found.bytes == sum(len(text.encode()) for text in texts)
    assert found.tokens == sum(len(TOKENIZER.encode(text)) for text in texts)
    assert found.bytes_per_token == found.bytes / found.tokens


def test_no_text_is_no_compression() -> None:
    assert measure(TOKENIZER, []) == Compression(documents=0, characters=0, bytes=0, tokens=0)
    assert measure(TOKENIZER, []).bytes_per_token == 0
