"""The terminal's side of a chat: lines with history and arrow keys, answers that appear as they come. Torch-free."""

import contextlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from nanochat_core.inference.chat.session import ChatEvent, Ended, Note, Said

try:
    import readline
except ImportError:  # a Python without it: lines without history
    readline = None  # type: ignore[assignment]

HISTORY_LINES = 1000
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
STYLES = {"text": "", "python": "cyan", "python_output": "bold green"}
BRACKETS = {  # what goes between a part and the next
    ("text", "python"): " ⟦",
    ("python", "python_output"): " = ",
    ("python", "text"): "⟧ ",
    ("python_output", "text"): "⟧ ",
    ("python_output", "python"): "; ",
    ("text", "python_output"): " ⟦",
}


class LineEditor:
    """Asks for lines; what was typed is kept in a file that only its owner may read."""

    def __init__(self, history: Path, names: Iterable[str]) -> None:
        """`names`: what the Tab key completes at the beginning of a line."""
        self._history, self._names = history, sorted(names)
        shorten_history(history)
        if readline:
            readline.set_auto_history(False)
            readline.set_completer(self._completion)
            readline.set_completer_delims(" ")
            readline.parse_and_bind("tab: complete")
            readline.parse_and_bind(r'"\e\C-m": "\C-v\C-j"')  # Alt-Enter begins another line
            for line in read_history(history):
                readline.add_history(line)

    def _completion(self, text: str, state: int) -> str | None:
        found = [name for name in self._names if text.startswith("/") and name.startswith(text)]
        return found[state] if state < len(found) else None

    def read(self, prompt: str) -> str:
        r"""Return what was typed, its lines joined where \ ended one. Raises EOFError and KeyboardInterrupt."""
        lines = [input(prompt)]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input("… "))
        text = "\n".join(lines).strip()
        if text and readline:
            readline.add_history(text)
            add_to_history(self._history, text)
        return text


def read_history(path: Path) -> list[str]:
    """Return what was typed in earlier chats, the newest last; a file that cannot be read is no history."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[-HISTORY_LINES:]
        return [str(json.loads(line)) for line in lines]
    except (OSError, ValueError):
        return []


def add_to_history(path: Path, text: str) -> None:
    """Append what was typed to the file (mode 0600), a JSON string a line; where it cannot be written, do without."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(descriptor, "a", encoding="utf-8") as file:
            file.write(json.dumps(text) + "\n")


def shorten_history(path: Path) -> None:
    """Keep the newest lines of a file that has twice as many as are read."""
    with contextlib.suppress(OSError, ValueError):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if len(lines) > 2 * HISTORY_LINES:
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.writelines(lines[-HISTORY_LINES:])
            os.replace(temporary, path)


def printable(text: str) -> str:
    """Return text that a terminal shows and does not obey: without control characters but newline and tab.

    >>> printable("a\\x1b[31mb")
    'a�[31mb'
    """
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class AnswerPrinter:
    """Shows one answer as it comes; tool calls stand in brackets."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._kind = "text"

    def show(self, event: ChatEvent) -> None:
        """Print what is new."""
        if isinstance(event, Said):
            self._turn_to(event.kind)
            self._print(printable(event.text), STYLES[event.kind])
        elif isinstance(event, Note):
            self._print(f"({event.text})\n", "dim")
        elif isinstance(event, Ended) and event.reason == "length":
            self._turn_to("text")
            self._print(" … (cut at the longest answer)", "dim")

    def end(self, word: str = "") -> None:
        """End the line, with a word on how it came to its end."""
        self._turn_to("text")
        self._print(f" … ({word})\n" if word else "\n", "dim")

    def _turn_to(self, kind: str) -> None:
        if kind != self._kind:
            self._print(BRACKETS[self._kind, kind], "dim")
            self._kind = kind

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style), end="", soft_wrap=True)
