"""What crosses the pipe arrives as it was, and nothing else arrives."""

import math
from collections import Counter, OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks_eval.sandbox.inside.plain_data import MAX_DEPTH, decode, encode

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_subnormal=False)
    | st.complex_numbers(allow_nan=False, allow_subnormal=False)
    | st.text(st.characters())
    | st.binary()
)
keys = st.recursive(atoms, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
values = st.recursive(
    atoms | st.sets(keys, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(values)
def test_plain_data_arrives_as_it_was_with_its_types(value: Any) -> None:
    arrived = decode(encode(value))
    assert arrived == value and repr(types_of(arrived)) == repr(types_of(value))
    assert "\n" not in encode(value)


def types_of(value: Any) -> Any:
    """Return the types in a value, in its own structure; of sets only their own."""
    if isinstance(value, list | tuple):
        return type(value), [types_of(item) for item in value]
    if isinstance(value, dict):
        return type(value), [(types_of(key), types_of(item)) for key, item in value.items()]
    return type(value)


def test_numbers_that_are_none_and_long_ones_arrive() -> None:
    assert math.isnan(decode(encode(float("nan"))))
    assert decode(encode(-(7**9999))) == -(7**9999)
    assert decode(encode([bytearray(b"a"), "\ud800"])) == [bytearray(b"a"), "\ud800"]


def test_values_of_subclasses_become_their_base() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    arrived = decode(encode([Liar(3), Counter("aab"), OrderedDict(a=1)]))
    assert arrived == [3, {"a": 2, "b": 1}, {"a": 1}] and arrived[0] != 4
    assert [type(item) for item in arrived] == [int, dict, dict]


@pytest.mark.parametrize("value", [object(), range(3), int, len, iter([]), {1: object()}])
def test_what_is_not_plain_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="is not plain data"):
        encode(value)


def test_deep_and_endless_values_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match=f"more than {MAX_DEPTH} deep"):
        encode(endless)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "NaN", "1.5", "[" * 70_000, "[" * 100 + "]" * 100, "{}", '{"a": 1, "b": 2}', '{"os": ["x"]}'),
        *('{"set": [[1]]}', '{"dict": [[1]]}', '{"int": "x"}', '{"int": 3}', '{"float": []}', '{"tuple": 3}'),
        b"\xff",
    ],
)
def test_no_other_text_is_read(text: str | bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(text)
