"""Calls of tools in other formats, as the text of a call in ours. Torch-free.

Our models know one tool, which takes one text: an expression for the calculator, or a program. A call of another tool
can be learned where it has one argument that is a text; with any other there is nothing that it could be.
"""

import json
from typing import Any

from nanochat_core.errors import DataError


def called(name: str, arguments: Any) -> str:
    """Return the text that the tool `name` is called with. `arguments` is an object, the JSON of one, or the text.

    Raises DataError where it has more arguments than one, or one that is no text.

    >>> called("calculator", '{"expression": "12*7"}'), called("python", "print(1)")
    ('12*7', 'print(1)')
    """
    value = arguments
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments)
        except ValueError:
            return arguments  # a program, as it is
        if not isinstance(value, dict):
            return arguments
    if isinstance(value, dict) and len(value) == 1 and isinstance(text := next(iter(value.values())), str):
        return text
    raise DataError(
        f"the tool {name!r} is called with {json.dumps(value, ensure_ascii=False)[:80]}: only a call with one text (an "
        "expression, a program) can be learned"
    )
