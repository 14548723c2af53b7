"""Computes `reference_tokens.json`: `python -m nanochat_core.tokenizer.reference_table`, after a sample has changed.

It needs the ranks of GPT-2 and GPT-4: tiktoken downloads them, or finds them in the folder $TIKTOKEN_CACHE_DIR.
"""

import hashlib
from pathlib import Path
from typing import Any

from nanochat_core import artifacts
from nanochat_core.errors import DataError
from nanochat_core.tokenizer.comparison import SAMPLES, TABLE, count_reference_tokens, sample_text
from nanochat_core.tokenizer.public_vocabularies import VOCABULARIES, public_encodings

NOTE = (
    "Tokens of the texts in samples/ by the vocabularies of GPT-2 and GPT-4, for machines that do not have them. "
    "Counted by tiktoken with OpenAI's own rank files, told by their sha256 (public_vocabularies.py)."
)


def reference_table() -> dict[str, Any]:
    """Return the table's content; raises DataError where a vocabulary can not be had."""
    encodings = public_encodings(fetch=True)
    if missing := sorted(set(VOCABULARIES) - set(encodings)):
        raise DataError(f"The ranks of {', '.join(missing)} are not to be had: put them into $TIKTOKEN_CACHE_DIR.")
    rows = {}
    for name in SAMPLES:
        text = sample_text(name)
        size = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
        rows[name] = size | {key: count_reference_tokens(encoding, [text]) for key, encoding in encodings.items()}
    return {"note": NOTE, "samples": rows}


def write(path: Path = TABLE) -> None:
    """Write the table, and print it."""
    table = reference_table()
    artifacts.write_json(path, table)
    for name, row in table["samples"].items():
        print(name, row["bytes"], *(f"{key} {row[key]} ({row['bytes'] / row[key]:.2f})" for key in VOCABULARIES))


if __name__ == "__main__":
    write()
