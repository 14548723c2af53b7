"""The preferences stage: no prompt on both sides, and masks that are 1 on the last answer alone."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.data.own.file_splits import WHOLE
from nanochat_core.data.own.preference_files import Pair, state_of_preferences
from nanochat_core.data.preference_pairs import render_pair, split_pairs, work
from nanochat_core.errors import DataError
from nanochat_core.preference_specs import PreferencesSpec
from nanochat_core.tokenizer.render import render_conversation
from tests.fakes import byte_tokenizer

TOKENIZER = byte_tokenizer()
SPEC = PreferencesSpec(path="pairs.jsonl")


def pair(prompt: str, chosen: str = "yes", rejected: str = "no") -> Pair:
    return Pair([{"role": "user", "content": prompt}], chosen, rejected)


def folder_of(root: Path, rows: list[dict[str, Any]], **changes: Any) -> StageFolder:
    """Return the folder of a preferences stage that is asked for these rows."""
    (root / "tokenizer").mkdir(parents=True)
    TOKENIZER.save(root / "tokenizer")
    path, folder = root / "pairs.jsonl", root / "preferences" / "p"
    path.write_text("\n".join(map(json.dumps, rows)))
    folder.mkdir(parents=True)
    request = StageRequest(
        stage="preferences",
        version=1,
        fingerprint="p",
        params={"path": str(path)} | changes,
        inputs={"tokenizer": "tokenizer"},
    )
    (folder / "spec.json").write_text(request.model_dump_json())
    return StageFolder(folder)


def test_the_mask_is_one_on_the_last_answer_and_its_end_and_nowhere_else() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    row = render_pair(TOKENIZER, Pair(messages, "de", ""))
    special = TOKENIZER.special
    prompt = [TOKENIZER.bos]
    for name, text in (("user", "a"), ("assistant", "b"), ("user", "c")):
        prompt += [special(f"<|{name}_start|>"), ord(text), special(f"<|{name}_end|>")]
    prompt.append(special("<|assistant_start|>"))
    end = special("<|assistant_end|>")
    assert row["chosen_ids"] == [*prompt, ord("d"), ord("e"), end]
    assert row["chosen_mask"] == [0] * len(prompt) + [1, 1, 1]
    assert (row["rejected_ids"], row["rejected_mask"]) == ([*prompt, end], [0] * len(prompt) + [1])


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
PARTS = st.lists(
    st.builds(
        lambda kind, text: {"type": kind, "text": text}, st.sampled_from(["text", "python", "python_output"]), TEXTS
    ),
    max_size=3,
)


@given(st.lists(TEXTS, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2), st.one_of(TEXTS, PARTS), TEXTS)
def test_an_answer_is_learned_as_sft_learns_it_and_the_prompt_never(
    turns: list[str], chosen: Any, rejected: str
) -> None:
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
    found = render_pair(TOKENIZER, Pair(messages, chosen, rejected))
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        ids, mask = render_conversation(TOKENIZER, {"messages": [*messages, {"role": "assistant", "content": answer}]})
        assert found[f"{side}_ids"] == ids and len(found[f"{side}_mask"]) == len(ids)
        start = found[f"{side}_mask"].index(1)
        assert found[f"{side}_mask"][start:] == mask[start:]
        assert sum(mask[start:]) == sum(found[f"{side}_mask"])
        assert TOKENIZER.special("<|user_end|>") not in ids[start:]


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda asked: len(set(asked)) > 1), st.integers(0, 9)
)
def test_no_prompt_is_on_both_sides_and_no_pair_is_lost(asked: list[int], seed: int) -> None:
    pairs = [pair(str(number), f"{place}") for place, number in enumerate(asked)]
    train, held_out = split_pairs({WHOLE: pairs}, SPEC.model_copy(update={"seed": seed}))
    assert train and held_out
    assert not {one.prompt_key for one in train} & {one.prompt_key for one in held_out}
    assert sorted(one.chosen for one in train + held_out) == sorted(one.chosen for one in pairs)
    assert (train, held_out) == split_pairs({WHOLE: pairs}, SPEC.model_copy(update={"seed": seed}))


def test_the_prompts_of_a_test_file_are_not_trained_on() -> None:
    train, held_out = split_pairs({"train": [pair("a"), pair("b")], "test": [pair("b"), pair("c")]}, SPEC)
    assert train == [pair("a")] and held_out == [pair("b"), pair("c")]


def test_the_stage_writes_what_it_read_and_counts_what_it_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number}?", "chosen": "yes", "rejected": "no"} for number in range(20)]
    folder = folder_of(tmp_path, [*rows, {"prompt": "x", "chosen": "same", "rejected": "same"}])
    work(folder)
    assert folder.read_result()["metrics"] == {
        "train_rows": 18,
        "validation_rows": 2,
        "equal_answers": 1,
        "prompts_on_both_sides": 0,
    }
    table = pq.read_table(folder.path / "train.parquet").to_pylist()
    assert json.loads(table[0]["chosen"]) == "yes" and len(table[0]["rejected_ids"]) == len(table[0]["rejected_mask"])
    first = {name: (folder.path / name).read_bytes() for name in ("train.parquet", "validation.parquet")}
    work(folder)
    assert first == {name: (folder.path / name).read_bytes() for name in first}


@pytest.mark.parametrize("rows", [1, 3])
def test_pairs_that_cannot_be_split_are_refused(tmp_path: Path, rows: int) -> None:
    folder = folder_of(tmp_path, [{"prompt": "a", "chosen": f"{n}", "rejected": "no"} for n in range(rows)])
    with pytest.raises(DataError, match="expected two prompts or more"):
        work(folder)


def test_half_a_character_ends_no_stage(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number}\ud800", "chosen": "\udfff", "rejected": "b"} for number in range(10)]
    folder = folder_of(tmp_path, rows)
    work(folder)
    written = pq.read_table(folder.path / "train.parquet").to_pylist()
    assert {json.loads(row["chosen"]) for row in written} == {"?"}


def test_a_file_that_has_changed_since_it_was_fingerprinted_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [{"prompt": f"{number}", "chosen": "a", "rejected": "b"} for number in range(10)])
    path = tmp_path / "pairs.jsonl"
    folder.request.params["pairs"] = state_of_preferences(path)
    work(folder)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl has changed since this run began\. Run it again"):
        work(folder)
