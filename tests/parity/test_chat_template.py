"""The chat template of an export, applied by transformers, gives our ids and mask on 500 real conversations."""

from collections import Counter
from pathlib import Path

import pytest

from nanochat_core.conversion.tokenizer_files import write_tokenizer
from nanochat_core.tokenizer.render import render_conversation, render_prompt
from tasks_eval.task import make_task
from tests.parity.golden_tokenizer import golden_tokenizer
from tests.task_data import mirror_task_data

transformers = pytest.importorskip("transformers")
ROWS = {  # of each task; 500 in all
    "SmolTalk": 200,
    "GSM8K": 100,
    "MMLU": 50,
    "ARC-Easy": 25,
    "ARC-Challenge": 25,
    "SimpleSpelling": 25,
    "SpellingBee": 75,
}


@pytest.mark.hub
@pytest.mark.slow
def test_real_conversations_have_our_ids_and_masks(hub_mirror: Path, tmp_path: Path) -> None:
    ours = golden_tokenizer()
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours.save(tmp_path / "ours")
    write_tokenizer(tmp_path / "theirs", tmp_path / "ours", sequence_len=2048, is_chat=True)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    data = mirror_task_data(hub_mirror)
    seen: Counter[str] = Counter()
    for name, rows in ROWS.items():
        task = make_task(name, data, "train")
        for index in range(rows):
            messages = task[index]["messages"]
            found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
            assert (found["input_ids"], found["assistant_masks"]) == render_conversation(ours, task[index])
            if index % 5 == 0:
                prompt = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
                assert prompt["input_ids"] == render_prompt(ours, task[index])
            seen["turns"] += len(messages)
            seen["calls"] += sum(not isinstance(message["content"], str) for message in messages)
            seen["learned"] += sum(found["assistant_masks"])
    assert sum(ROWS.values()) == 500
    assert seen["turns"] > 1200 and seen["calls"] > 100 and seen["learned"] > 30_000
