"""Plain data as JSON with the types of Python kept, so that no side of a pipe need trust the other.

Decoding builds numbers, strings and collections and nothing else: what arrives may be wrong, but is never an object
with methods of its own. Values of subclasses become their base: an int that claims to equal everything arrives as a
plain int.

>>> decode(encode([(1, 2.5), {"a": None}, {3}, float("inf")]))
[(1, 2.5), {'a': None}, {3}, inf]
"""

import json
from typing import Any

MAX_DEPTH = 64
PLAIN_INT = 1 << 62  # a larger one is written in hexadecimal digits, of which any number can be read


def encode(value: object) -> str:
    """Return one line of text; raises TypeError for what is not plain data, ValueError where it is nested too deep."""
    return json.dumps(_packed(value, 0))


def decode(text: str | bytes) -> Any:
    """Return the value of a line; raises ValueError or TypeError where it is none that `encode` makes."""
    try:
        return _unpacked(json.loads(text, parse_constant=_refuse, parse_float=_refuse), 0)
    except (RecursionError, KeyError) as error:
        raise ValueError(f"not plain data: {error}") from None


def _packed(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    deeper = depth + 1
    match value:
        case None | True | False:
            return value
        case str():
            return str.__str__(value)
        case int():
            number = int.__index__(value)
            return number if abs(number) < PLAIN_INT else {"int": hex(number)}
        case float():
            return {"float": float.hex(value)}
        case complex():
            return {"complex": [float.hex(value.real), float.hex(value.imag)]}
        case bytes():
            return {"bytes": bytes.hex(value)}
        case bytearray():
            return {"bytearray": bytearray.hex(value)}
        case list():
            return [_packed(item, deeper) for item in list.__iter__(value)]
        case tuple():
            return {"tuple": [_packed(item, deeper) for item in tuple.__iter__(value)]}
        case set():
            return {"set": [_packed(item, deeper) for item in set.__iter__(value)]}
        case frozenset():
            return {"frozenset": [_packed(item, deeper) for item in frozenset.__iter__(value)]}
        case dict():
            return {"dict": [[_packed(key, deeper), _packed(item, deeper)] for key, item in dict.items(value)]}
    raise TypeError(f"{type(value).__name__} is not plain data")


def _unpacked(node: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(node, list):
        return [_unpacked(item, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    match kind:
        case "int":
            return int(content, 16)
        case "float":
            return float.fromhex(content)
        case "complex":
            return complex(*map(float.fromhex, content))
        case "bytes":
            return bytes.fromhex(content)
        case "bytearray":
            return bytearray.fromhex(content)
    items = [_unpacked(item, depth + 1) for item in content]
    return {"tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}[kind](items)


def _refuse(text: str) -> None:
    raise ValueError(f"not plain data: {text}")
