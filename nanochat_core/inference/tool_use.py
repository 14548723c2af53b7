"""Tools that a chat model may call: named in the entry-point group `nanochat.tools`, where users register their own.

The model writes <|python_start|>expression<|python_end|>; the engine puts the tool's answer behind it. A tool may have
a method `prepare()`, which raises a NanochatError where it cannot work on this machine.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points

from nanochat_core.errors import SpecError, did_you_mean

Tool = Callable[[str], str | None]  # an expression to its value, None where it is none


@cache
def load_tool(name: str) -> Tool:
    """Return the tool registered as `name`, ready to be called.

    Raises SpecError for a name that nobody registered, NanochatError for a tool that cannot work here.
    """
    tools = {entry.name: entry for entry in entry_points(group="nanochat.tools")}
    if name not in tools:
        raise SpecError(f"Unknown tool {name!r}{did_you_mean(name, tools)}.")
    tool = tools[name].load()
    if prepare := getattr(tool, "prepare", None):
        prepare()
    return tool
