import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.inference.calculator import calculate

numbers = st.integers(0, 999)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction]:
    """An expression of + - * and parentheses, and its exact value."""
    if depth == 0 or draw(st.booleans()):
        number = draw(numbers)
        return str(number), Fraction(number)
    (left, a), (right, b) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    operator = draw(st.sampled_from("+-*"))
    return f"({left}{operator}{right})", {"+": a + b, "-": a - b, "*": a * b}[operator]


@given(expressions())
def test_sums_and_products_are_exact(case: tuple[str, Fraction]) -> None:
    text, value = case
    if len(text) <= 200 and abs(value) <= 10**15:
        answer = calculate(text)
        assert answer is None or Fraction(answer) == value


@given(st.integers(-(10**6), 10**6), st.integers(-(10**4), 10**4))
def test_divisions_are_python_s_own(a: int, b: int) -> None:
    for sign, value in (("//", lambda: a // b), ("%", lambda: a % b), ("/", lambda: a / b)):
        answer = calculate(f"{a}{sign}{b}")
        if b == 0:
            assert answer is None
        else:
            assert float(answer) == pytest.approx(value(), abs=1e-10)


@given(st.integers(0, 10**14))
def test_thousands_may_be_set_off_by_commas(number: int) -> None:
    assert calculate(f"{number:,}+1") == str(number + 1)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*7", "84"),
        ("48/2", "24"),
        ("1/4", "0.25"),
        ("7//2", "3"),
        ("7%4", "3"),
        ("-3+-4", "-7"),
        ("1,200*2", "2400"),
        (" 2+2 ", "4"),
        ("'strawberry'.count('r')", "3"),
        ('"s,t,r".count("s")', "1"),
        ("(11/18)*162", "99"),
    ],
)
def test_what_it_knows(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1/0",
        "2**9",
        "9" * 30,
        "10**15*10",
        "__import__('os')",
        "(1).__class__",
        "open('x')",
        "'a'.upper()",
        "'a'.count('a', 0)",
        "[1]*9",
        "'a'*9",
        "True+1",
        "x+1",
        "lambda: 1",
        "(" * 150 + "1",
        "1" + "+1" * 150,
        "1 if 1 else 2",
    ],
)
def test_what_it_refuses(expression: str) -> None:
    assert calculate(expression) is None


@given(st.text(max_size=300) | st.text("0123456789+-*/%().,'\"ecount jx", max_size=300))
def test_no_text_breaks_it(expression: str) -> None:
    answer = calculate(expression)
    assert answer is None or len(answer) < 25


def test_the_longest_expressions_take_milliseconds_in_many_threads_at_once() -> None:
    """No signal, no shared state: the server calls it from threads of its own."""
    longest = ["-" * 199 + "1", "9" * 199 + "%7", "1" + "*9" * 14, "1/3" + "/3" * 90, "'" + "a" * 180 + "'.count('a')"]
    alone = [calculate(expression) for expression in longest]
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(calculate, longest * 50))
    assert together == alone * 50
    assert (time.monotonic() - started) / 250 < 0.02
