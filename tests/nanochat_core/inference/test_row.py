"""One row's state, token by token: tool calls, ends, stop strings, and what may be shown when."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.errors import SpecError
from nanochat_core.inference.requests import Request, Sampling, ScoredToken, Update
from nanochat_core.inference.row import Row
from nanochat_core.inference.text_stream import TextStream, Vocabulary
from nanochat_core.inference.tool_use import Tool, load_tool
from tests.fakes import byte_tokenizer

TOKENIZER = byte_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER)
CALL = ["<|python_start|>", "1+1", "<|python_end|>"]
FORCED = ["<|output_start|>", "2", "<|output_end|>"]


def ids_of(pieces: Sequence[str]) -> list[int]:
    encoded = ([TOKENIZER.special(piece)] if piece.startswith("<|") else TOKENIZER.encode(piece) for piece in pieces)
    return [token for ids in encoded for token in ids]


def new_row(tool: Tool | None = lambda _: "2", **sampling: object) -> Row:
    return Row(Request((TOKENIZER.bos,), Sampling(**{"max_new_tokens": 100} | sampling)), 0, VOCABULARY, tool)  # type: ignore[arg-type]


def feed(row: Row, pieces: Sequence[str]) -> list[Update]:
    """Have the row take the tokens, and the tool's answers whenever it calls."""
    updates = []
    for token in ids_of(pieces):
        updates += row.take(ScoredToken(token))
        if row.call is not None:
            updates += row.answer(row.run_tool())
    return updates


def test_the_tool_s_answer_is_put_behind_its_call_with_mask_zero_and_the_model_goes_on() -> None:
    asked: list[str] = []
    tool: Callable[[str], str] = lambda text: asked.append(text) or "2"  # noqa: E731
    row = new_row(tool)
    updates = feed(row, [*CALL, "!"])
    found = row.completion()
    assert list(found.ids) == ids_of([*CALL, *FORCED, "!"])
    assert found.mask == (1,) * len(ids_of(CALL)) + (0,) * len(ids_of(FORCED)) + (1,)
    assert asked == ["1+1"]
    assert [(u.kind, u.text) for u in updates if u.text] == [
        *[("python", character) for character in "1+1"],
        ("python_output", "2"),
        ("text", "!"),
    ]
    assert [token.is_forced for u in updates for token in u.tokens] == [not is_own for is_own in found.mask]


def test_an_answer_that_looks_like_a_call_is_text_and_calls_nothing() -> None:
    row = new_row(lambda _: "<|python_start|>9<|python_end|>")
    feed(row, [*CALL])
    assert row.call is None
    assert TOKENIZER.special("<|python_start|>") not in row.completion().ids[len(ids_of(CALL)) :]


def test_the_limit_cuts_a_forced_answer_too() -> None:
    row = new_row(max_new_tokens=len(ids_of(CALL)) + 1)
    feed(row, CALL)
    found = row.completion()
    assert row.is_done
    assert found.ids == (*ids_of(CALL), TOKENIZER.special("<|output_start|>"))
    assert (found.mask, found.finish_reason) == ((1,) * len(ids_of(CALL)) + (0,), "length")


@pytest.mark.parametrize("stop", ["<|assistant_end|>", "<|bos|>"])
def test_the_model_s_own_ends_end_a_row_unless_they_are_ignored(stop: str) -> None:
    row, deaf = new_row(), new_row(ignore_eos=True)
    assert feed(row, ["ok", stop])[-1].finish_reason == "stop"
    assert row.completion().text == "ok" and row.completion().ids[-1] == TOKENIZER.special(stop)
    feed(deaf, ["ok", stop, "!"])
    assert not deaf.is_done and deaf.completion().text == "ok!"


def test_the_end_at_the_very_limit_is_a_stop() -> None:
    row = new_row(max_new_tokens=3)
    feed(row, ["ok", "<|assistant_end|>"])
    assert row.completion().finish_reason == "stop"


def test_ids_of_the_caller_s_end_a_row_too() -> None:
    row = new_row(stop_ids=(ord("k"),), ignore_eos=True)
    feed(row, ["ok"])
    assert (row.finish_reason, row.completion().text) == ("stop", "o")


@pytest.mark.parametrize(
    "pieces", [["<|python_end|>"], ["1+1", "<|python_end|>"], ["<|output_start|>", "1", "<|output_end|>"]]
)
def test_only_a_call_that_was_opened_asks_the_tool(pieces: list[str]) -> None:
    row = new_row(lambda _: pytest.fail("nobody called"))
    feed(row, [*pieces, "x"])
    assert list(row.completion().ids) == ids_of([*pieces, "x"])


def test_without_tools_a_call_is_only_text_of_its_kind() -> None:
    for row in (new_row(None), new_row(use_tools=False)):
        feed(row, [*CALL, "x"])
        assert row.completion().parts == ({"type": "python", "text": "1+1"}, {"type": "text", "text": "x"})


def test_two_calls_have_two_answers_and_two_parts() -> None:
    answers = iter(["2", None, "3"])
    row = new_row(lambda _: next(answers))
    feed(row, [*CALL, *CALL, *CALL, "<|assistant_end|>"])
    kinds = [part["type"] for part in row.completion().parts]
    assert kinds == ["python", "python_output", "python", "python", "python_output"]


def test_other_special_tokens_are_left_out_of_the_text() -> None:
    row = new_row()
    feed(row, ["a", "<|user_start|>", "b", "<|python_start|>", "<|python_end|>", "c", "<|assistant_end|>"])
    texts = [part["text"] for part in row.completion().parts if part["type"] == "text"]
    assert texts == ["ab", "c"] and row.completion().text == "abc"


@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3))
def test_streamed_text_ends_before_the_first_stop_string_and_is_never_taken_back(text: str, stops: list[str]) -> None:
    stream, shown = TextStream(VOCABULARY, stops), ""
    ended = False
    for token in TOKENIZER.encode(text):
        shown += "".join(piece for _, piece in stream.push(token))
        ended = stream.stop_text is not None
        if ended:
            break
    if not ended:
        shown += "".join(piece for _, piece in stream.flush())
    whole = TOKENIZER.decode(TOKENIZER.encode(text))
    places = [whole.index(stop) for stop in stops if stop in whole]
    assert ended == bool(places)
    first_end = min((whole.index(stop) + len(stop) for stop in stops if stop in whole), default=0)
    assert shown == (whole[: whole.index(stream.stop_text)] if stream.stop_text else whole)
    assert not ended or whole.index(stream.stop_text or "") + len(stream.stop_text or "") == first_end


def test_half_a_character_is_held_back_and_a_broken_one_replaced() -> None:
    stream = TextStream(VOCABULARY)
    euro = TOKENIZER.encode("€")
    assert [stream.push(token) for token in euro] == [[], [], [("text", "€")]]
    assert stream.push(euro[0]) == [] and stream.flush() == [("text", "\ufffd")]


def test_a_stop_string_that_is_only_begun_is_shown_at_the_end() -> None:
    row = new_row(stop=("END",), max_new_tokens=3)
    updates = feed(row, ["aEN"])
    assert [u.text for u in updates] == ["a", "", "EN"]
    assert (updates[-1].finish_reason, updates[-1].stop_text) == ("length", None)


def test_the_calculator_is_found_by_its_name_and_a_wrong_name_is_refused_with_the_nearest() -> None:
    assert load_tool("calculator")("6*7") == "42"
    with pytest.raises(SpecError, match=r"Unknown tool 'calculater'.*did you mean 'calculator'\?"):
        load_tool("calculater")
