"""The tokenizer as transformers reads it: tokenizer.json, tokenizer_config.json and the chat template.

Text that spells a special token must stay text, in a chat template too, which writes both into one string. So the
template puts SPLIT inside whatever begins like one, and the exported tokenizer.json takes SPLIT out again, in its
normaliser: that runs after special tokens were looked for, and before the text is cut and encoded. The file also says
that a text begins with BOS; all else in it is as the project keeps it.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from nanochat_core import artifacts
from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.tokenizer.bpe import FILE_NAME

SPLIT = "\ufdd0\ufdd1\ufdd2"  # noncharacters of Unicode: no text that is meant for others has them
BOS = "<|bos|>"
CONFIG_FILE, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"


def chat_template() -> str:
    """Return the template for `apply_chat_template`."""
    text = resources.files(__package__).joinpath(TEMPLATE_FILE).read_text(encoding="utf-8")
    comment, end, code = text.partition("-#}")
    return comment + end + code.replace("SPLIT", SPLIT)


def tokenizer_config(*, sequence_len: int, is_chat: bool) -> dict[str, Any]:
    """Return tokenizer_config.json. A text begins with BOS; what ends it is BOS for a base model."""
    end = "<|assistant_end|>" if is_chat else BOS
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": end,
        "pad_token": BOS,  # never learned in this place: it begins a text
        "additional_special_tokens": [name for name in SPECIAL_TOKENS if name not in (BOS, end)],
        "clean_up_tokenization_spaces": False,
        "model_max_length": sequence_len,
    }


def begins_with_bos(bos: int) -> dict[str, Any]:
    """Return the part of tokenizer.json that puts BOS before a text, unless `add_special_tokens=False`."""
    special = {"SpecialToken": {"id": BOS, "type_id": 0}}
    single = [special, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [bos], "tokens": [BOS]}},
    }


def write_tokenizer(folder: Path, tokenizer_folder: Path, *, sequence_len: int, is_chat: bool) -> None:
    """Write the three files of the tokenizer in `tokenizer_folder` into `folder`."""
    value = artifacts.read_json(tokenizer_folder / FILE_NAME)
    bos = next(token["id"] for token in value["added_tokens"] if token["content"] == BOS)
    value["normalizer"] = {"type": "Replace", "pattern": {"String": SPLIT}, "content": ""}
    value["post_processor"] = begins_with_bos(bos)
    (folder / FILE_NAME).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    artifacts.write_json(folder / CONFIG_FILE, tokenizer_config(sequence_len=sequence_len, is_chat=is_chat))
    (folder / TEMPLATE_FILE).write_text(chat_template(), encoding="utf-8")
