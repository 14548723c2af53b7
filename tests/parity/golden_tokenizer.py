"""The vocabulary of 8,192 tokens that the reference trained, and the files that go with it."""

import base64
import json
from pathlib import Path
from typing import Any

from nanochat_core.tokenizer.bpe import Tokenizer

GOLDEN = Path(__file__).parent / "golden"


def golden_tokenizer() -> Tokenizer:
    value = json.loads((GOLDEN / "tokenizer_8192.json").read_text())
    ranks = {base64.b64decode(token): rank for rank, token in enumerate(value["ranks_base64"])}
    return Tokenizer.from_ranks(ranks, value["special"])


def golden_json(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def golden_conversations() -> list[dict[str, Any]]:
    lines = (GOLDEN / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
