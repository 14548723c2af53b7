"""Slash commands of the chat in the terminal: they change the session and return what to say. Torch-free."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.inference.chat.session import ChatSession


@dataclass(frozen=True)
class Outcome:
    """What the terminal does after a command."""

    say: str = ""
    clears_screen: bool = False
    answers_again: bool = False
    leaves: bool = False


Run = Callable[[ChatSession, str], Outcome]


@dataclass(frozen=True)
class Command:
    """One command: what goes behind its name, and what it does with that."""

    argument: str
    help: str
    run: Run


def is_command(line: str) -> bool:
    """Tell whether a line is a command; two slashes begin a message with one.

    >>> is_command("/help"), is_command("//help"), is_command("/ 2 = ?")
    (True, False, False)
    """
    return line.startswith("/") and line[1:2].isalpha()


def message_of(line: str) -> str:
    """Return what a line that is no command says.

    >>> message_of("//help")
    '/help'
    """
    return line[1:] if line.startswith("//") else line


def run_command(session: ChatSession, line: str) -> Outcome:
    """Do what the line says. Raises SpecError for an unknown command or a value that it cannot have."""
    name, _, argument = line.partition(" ")
    if name not in COMMANDS:
        raise SpecError(f"Unknown command {name}{did_you_mean(name, COMMANDS)}; // begins a message with a slash.")
    return COMMANDS[name].run(session, argument.strip())


def _new(session: ChatSession, argument: str) -> Outcome:
    session.forget()
    return Outcome("A new conversation.")


def _clear(session: ChatSession, argument: str) -> Outcome:
    session.forget()
    return Outcome("A new conversation.", clears_screen=True)


def _system(session: ChatSession, argument: str) -> Outcome:
    if argument:
        session.settings = session.settings.changed(system="" if argument == "-" else argument)
    text = session.settings.system
    return Outcome(f"System message: {text}" if text else "There is no system message.")


def _setting(name: str, convert: Callable[[str], Any], empty: str | None = None) -> Run:
    """Return a command that sets a number, or shows it; the word `empty` takes it away."""

    def run(session: ChatSession, argument: str) -> Outcome:
        if argument:
            session.settings = session.settings.changed(**{name: _value(name, convert, argument, empty)})
        value = getattr(session.settings, name)
        return Outcome(f"{name} = {empty if value is None else value}")

    return run


def _value(name: str, convert: Callable[[str], Any], argument: str, empty: str | None) -> Any:
    if argument == empty:
        return None
    try:
        return convert(argument)
    except ValueError:
        expected = f"a number{f', or {empty}' if empty else ''}"
        raise SpecError(f"{name}: {argument!r} is none of what it can be; expected {expected}.") from None


def _save(session: ChatSession, argument: str) -> Outcome:
    path = _path(argument, "/save")
    session.save(path)
    return Outcome(f"Saved {len(session.messages)} messages to {path}.")


def _load(session: ChatSession, argument: str) -> Outcome:
    path = _path(argument, "/load")
    session.load(path)
    return Outcome(f"Loaded {len(session.messages)} messages from {path}.")


def _path(argument: str, name: str) -> Path:
    if not argument:
        raise SpecError(f"{name} which file? For example: {name} chat.json")
    return Path(argument).expanduser()


def _retry(session: ChatSession, argument: str) -> Outcome:
    return Outcome(answers_again=True)


def _help(session: ChatSession, argument: str) -> Outcome:
    width = max(len(f"{name} {command.argument}") for name, command in COMMANDS.items())
    lines = [f"{f'{name} {command.argument}':<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return Outcome("\n".join([*lines, "", KEYS]))


def _quit(session: ChatSession, argument: str) -> Outcome:
    return Outcome(leaves=True)


KEYS = (
    "Enter sends; Alt-Enter, or \\ at the end of a line, begins another one. Arrow keys bring back what was typed, "
    "Ctrl-C stops the answer, Ctrl-D leaves."
)
COMMANDS: dict[str, Command] = {
    "/new": Command("", "begin a new conversation", _new),
    "/clear": Command("", "the same, on an empty screen", _clear),
    "/retry": Command("", "answer the last message again", _retry),
    "/system": Command("TEXT", "instructions before the first message; -: none", _system),
    "/temperature": Command("X", "0: always the likeliest token", _setting("temperature", float)),
    "/top-k": Command("N", "sample among the likeliest N tokens, or all", _setting("top_k", int, "all")),
    "/top-p": Command("X", "sample among the likeliest with this share", _setting("top_p", float)),
    "/min-p": Command("X", "leave out tokens below this share of the best", _setting("min_p", float)),
    "/max-tokens": Command("N", "longest answer", _setting("max_tokens", int)),
    "/seed": Command("N", "equal seeds give equal answers, or any", _setting("seed", int, "any")),
    "/save": Command("FILE", "write the conversation as JSON", _save),
    "/load": Command("FILE", "go on with a saved conversation", _load),
    "/help": Command("", "this list", _help),
    "/quit": Command("", "leave", _quit),
}
