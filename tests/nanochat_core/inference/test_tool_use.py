"""One row's state, token by token."""

from collections.abc import Callable

import pytest

from nanochat_core.errors import SpecError
from nanochat_core.inference.tool_use import Row, Tool, load_tool, split_parts
from tests.fakes import byte_tokenizer

TOKENIZER = byte_tokenizer()
CALL = ["<|python_start|>", "1+1", "<|python_end|>"]
FORCED = ["<|output_start|>", "2", "<|output_end|>"]
WAITING = 0  # what a model may sample while it is not heard


def ids_of(pieces: list[str]) -> list[int]:
    encoded = ([TOKENIZER.special(piece)] if piece.startswith("<|") else TOKENIZER.encode(piece) for piece in pieces)
    return [token for ids in encoded for token in ids]


def new_row(max_new_tokens: int = 100, tool: Tool | None = lambda _: "2") -> Row:
    return Row(TOKENIZER, max_new_tokens=max_new_tokens, tool=tool)


def feed(row: Row, tokens: list[int]) -> list[int]:
    return [row.take(token) for token in tokens]


def test_the_tool_s_answer_is_forced_with_mask_zero_and_then_the_model_goes_on() -> None:
    asked: list[str] = []
    tool: Callable[[str], str] = lambda text: asked.append(text) or "2"  # noqa: E731
    row = new_row(tool=tool)
    call, forced = ids_of(CALL), ids_of(FORCED)
    assert feed(row, [*call, *[WAITING] * len(forced), ord("!")]) == [*call, *forced, ord("!")]
    assert row.mask == [1] * len(call) + [0] * len(forced) + [1]
    assert asked == ["1+1"]


def test_an_answer_that_looks_like_a_call_is_text_and_calls_nothing() -> None:
    row = new_row(tool=lambda _: "<|python_start|>9<|python_end|>")
    said = feed(row, [*ids_of(CALL), *[WAITING] * 40])
    assert TOKENIZER.special("<|python_start|>") not in said[len(ids_of(CALL)) :]


def test_the_limit_cuts_a_forced_answer_too() -> None:
    row = new_row(max_new_tokens=len(ids_of(CALL)) + 1)
    feed(row, [*ids_of(CALL), WAITING])
    completion = row.completion()
    assert row.is_done
    assert completion.ids == (*ids_of(CALL), TOKENIZER.special("<|output_start|>"))
    assert completion.mask == (1,) * len(ids_of(CALL)) + (0,)
    assert completion.finish_reason == "length"


@pytest.mark.parametrize("stop", ["<|assistant_end|>", "<|bos|>"])
def test_a_row_that_is_done_stays_as_it_is(stop: str) -> None:
    row = new_row()
    feed(row, ids_of(["ok", stop]))
    before = row.completion()
    assert row.is_done and before.finish_reason == "stop"
    assert feed(row, ids_of(["more", *CALL])) == ids_of(["more", *CALL])
    assert row.completion() == before


def test_the_end_at_the_very_limit_is_a_stop() -> None:
    row = new_row(max_new_tokens=3)
    feed(row, ids_of(["ok", "<|assistant_end|>"]))
    assert row.completion().finish_reason == "stop"


@pytest.mark.parametrize(
    "pieces", [["<|python_end|>"], ["1+1", "<|python_end|>"], ["<|output_start|>", "1", "<|output_end|>"]]
)
def test_only_a_call_that_was_opened_asks_the_tool(pieces: list[str]) -> None:
    asked: list[str] = []
    row = new_row(tool=lambda text: asked.append(text) or "2")
    assert feed(row, ids_of([*pieces, "x"])) == ids_of([*pieces, "x"])
    assert not asked and set(row.mask) == {1}


def test_without_tools_a_call_is_only_text_of_its_kind() -> None:
    row = new_row(tool=None)
    feed(row, ids_of([*CALL, "x"]))
    assert row.completion().parts == ({"type": "python", "text": "1+1"}, {"type": "text", "text": "x"})
    assert set(row.mask) == {1}


def test_two_calls_have_two_answers() -> None:
    answers = iter(["2", "3"])
    row = new_row(tool=lambda _: next(answers))
    feed(row, [*ids_of(CALL), *[WAITING] * 3, *ids_of(CALL), *[WAITING] * 3, *ids_of(["<|assistant_end|>"])])
    outputs = [part["text"] for part in row.completion().parts if part["type"] == "python_output"]
    assert outputs == ["2", "3"]


def test_parts_leave_out_empty_ones_and_other_special_tokens() -> None:
    ids = ids_of(["a", "<|user_start|>", "b", "<|python_start|>", "<|python_end|>", "c", "<|assistant_end|>"])
    assert split_parts(TOKENIZER, ids) == [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]


def test_the_calculator_is_found_by_its_name_and_a_wrong_name_is_refused_with_the_nearest() -> None:
    assert load_tool("calculator")("6*7") == "42"
    with pytest.raises(SpecError, match=r"Unknown tool 'calculater'.*did you mean 'calculator'\?"):
        load_tool("calculater")
