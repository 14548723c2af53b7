"""Duplicates: what says the same, or less, goes; what says something else stays."""

from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.chat_format import document_of
from nanochat_core.inference.interface import Conversation
from tasks_eval.curation.duplicates import beginnings, duplicates
from tests.tasks_eval.curation.made import chat, picks_of

TEXT = st.text(alphabet="aB ", max_size=4)


def left_out(train: list[Conversation], held_out: list[Conversation]) -> tuple[list[int], list[int]]:
    leaked, repeated = duplicates(picks_of(train), picks_of(held_out, "Test"))
    return [pick.index for pick in leaked], [pick.index for pick in repeated]


def test_of_those_that_say_the_same_the_first_stays() -> None:
    train = [
        chat("What is  2+2?", "Four"),
        chat("what is 2+2?", "four\n"),
        chat("What is 2+2?", "4"),
        chat("x", "four"),
    ]
    assert left_out(train, []) == ([], [1])


def test_the_beginning_of_another_conversation_goes_wherever_it_stands() -> None:
    short, long = chat("Hi", "Hello!"), chat("hi", "hello!", "And?", "Yes.")
    assert left_out([short, long], []) == ([], [0])
    assert left_out([long, short], []) == ([], [1])
    assert left_out([chat("Hi", "Hello!", "And?", "Yes."), chat("And?", "Yes.")], []) == ([], [])


def test_what_says_what_is_held_out_or_begins_like_it_goes() -> None:
    train = [chat("Hi", "Hello!"), chat("a", "b"), chat("q", "r", "s", "t"), chat("q", "other")]
    assert left_out(train, [chat("a", "B"), chat("q", "r"), chat("HI", "Hello!", "x", "y")]) == ([0, 1, 2], [])


def test_what_begins_a_conversation_that_is_left_out_itself_may_stay() -> None:
    assert left_out([chat("q", "r"), chat("q", "r", "s", "t")], [chat("q", "r", "s", "t")]) == ([0, 1], [])
    assert left_out([chat("q", "r"), chat("q", "r", "s", "t")], [chat("u", "v")]) == ([], [0])


def test_a_tool_call_is_not_the_text_that_it_looks_like_and_documents_count_too() -> None:
    call = {"role": "assistant", "content": [{"type": "python", "text": "4"}]}
    called = {"messages": [{"role": "user", "content": "2+2?"}, call]}
    documents = [document_of("Once upon"), document_of("once  UPON")]
    assert left_out([chat("2+2?", "4"), called, *documents], []) == ([], [3])


@given(st.lists(st.lists(TEXT, min_size=1, max_size=4).map(lambda contents: chat(*contents)), max_size=12))
def test_what_stays_is_distinct_and_says_all_that_was_said(train: list[Conversation]) -> None:
    gone = set(left_out(train, [])[1])
    kept = [beginnings(example) for index, example in enumerate(train) if index not in gone]
    assert len({found[-1] for found in kept}) == len(kept)
    assert {found[-1] for found in map(beginnings, train)} <= {digest for found in kept for digest in found}
