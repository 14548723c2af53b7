"""Calculations marked in the data become calls of the calculator."""

from hypothesis import given
from hypothesis import strategies as st

from tasks_eval.tasks.gsm8k import answer_parts

TEXT = st.text("abc 12=+.\n", max_size=10)
CALLS = st.tuples(st.text("0123456789+-*/=", min_size=1, max_size=8), st.text("0123456789", min_size=1, max_size=4))


@given(TEXT, st.lists(st.tuples(CALLS, TEXT), max_size=4))
def test_the_parts_joined_again_are_the_answer(beginning: str, rest: list[tuple[tuple[str, str], str]]) -> None:
    answer = beginning + "".join(f"<<{call}={result}>>{text}" for (call, result), text in rest)
    parts = answer_parts(answer)
    joined = {"text": "{}", "python": "<<{}", "python_output": "={}>>"}
    assert "".join(joined[part["type"]].format(part["text"]) for part in parts) == answer
    assert sum(part["type"] == "python" for part in parts) == len(rest)
    assert all(part["text"] for part in parts if part["type"] == "text")
