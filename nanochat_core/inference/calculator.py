"""The calculator tool: arithmetic and counting letters, by walking a syntax tree over a list of what is allowed.

>>> calculate("12*7"), calculate("'banana'.count('a')"), calculate("2**999"), calculate("__import__('os')")
('84', '3', None, None)
"""

import ast
import operator
from collections.abc import Callable

MAX_CHARACTERS = 200
MAX_MAGNITUDE = 1e15

Number = int | float
_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def calculate(expression: str) -> str | None:
    """Return the value of `expression` as text, or None where it is not one that the calculator knows.

    Known: numbers, + - * / // %, signs, parentheses, commas as thousands separators, and 'text'.count('part'). Whole
    results of a division are written without a fraction. No value may exceed 1e15.
    """
    text = expression.strip().replace(",", "") if "count" not in expression else expression.strip()
    if len(text) > MAX_CHARACTERS:
        return None
    try:
        value = _evaluate(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, ArithmeticError, RecursionError, MemoryError):
        return None
    if isinstance(value, float):
        value = round(value, 10)
        value = int(value) if value.is_integer() else value
    return str(value)


def _evaluate(node: ast.expr) -> Number:
    """Return the value of an allowed node; raises ValueError for any other."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _evaluate(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_evaluate(left), _evaluate(right)))
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str() as text), attr="count"),
            args=[ast.Constant(value=str() as part)],
            keywords=[],
        ):
            return text.count(part)
    raise ValueError("not an expression that the calculator knows")


def _bounded(value: Number) -> Number:
    if abs(value) > MAX_MAGNITUDE:
        raise ValueError("too large")
    return value
