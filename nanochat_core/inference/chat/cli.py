"""Talk with a model in the terminal: `python -m nanochat_core.inference.chat.cli SPEC`, a `ChatSpec` as JSON, like
'{"url": "http://127.0.0.1:8000"}'. `nanochat chat` does that.

In a terminal it is a conversation. With a prompt, or text on stdin, it prints the answer, and nothing else, to stdout.
"""

import json
import os
import sys
from pathlib import Path

from rich.console import Console

from nanochat_core import paths
from nanochat_core.errors import NanochatError, SpecError
from nanochat_core.inference.chat.commands import COMMANDS, is_command, message_of, run_command
from nanochat_core.inference.chat.local import load_local
from nanochat_core.inference.chat.remote import connect
from nanochat_core.inference.chat.session import ChatSession, Ended, Note, Said, text_of
from nanochat_core.inference.chat.spec import ChatSpec, parse_chat
from nanochat_core.inference.chat.terminal import AnswerPrinter, LineEditor, printable

EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended
HISTORY_FILE = "chat_history.jsonl"
STDIN = "-"


def talk(spec: ChatSpec) -> None:
    """Hold the chat that the spec asks for. Raises NanochatError; KeyboardInterrupt ends one answer on its own."""
    question = one_question(spec)
    talker = connect(spec) if spec.url else load_local(spec)
    try:
        session = ChatSession(talker, spec.settings)
        if question is None:
            converse(session, paths.base_dir() / HISTORY_FILE)
        elif spec.as_json:
            print_json(session, question)
        else:
            print_answer(session, question)
    finally:
        talker.close()


def one_question(spec: ChatSpec) -> str | None:
    """Return what is asked once, or None for a conversation: the prompt, or stdin where nobody types there.

    Raises SpecError where there is nothing to ask.
    """
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not spec.as_json
    if spec.prompt is None and is_terminal:
        return None
    reads_stdin = spec.prompt is None or spec.prompt == STDIN
    question = sys.stdin.read() if reads_stdin else spec.prompt or ""
    if not question.strip():
        where = "on stdin" if reads_stdin else "in the prompt"
        raise SpecError(f"There is no question {where}; give one with -p, or type one in a terminal.")
    return question.strip("\n")


def print_answer(session: ChatSession, question: str) -> None:
    """Print the answer as it comes: to stdout what the model says, to stderr what is said about it."""
    for event in session.ask(question):
        if isinstance(event, Said) and event.kind == "text":
            print(printable(event.text) if sys.stdout.isatty() else event.text, end="", flush=True)
        elif isinstance(event, Note):
            print(event.text, file=sys.stderr)
        elif isinstance(event, Ended) and event.reason == "length":
            print("\n(cut at the longest answer)", file=sys.stderr, end="")
    print(flush=True)


def print_json(session: ChatSession, question: str) -> None:
    """Print the whole answer as one JSON object."""
    events = list(session.ask(question))
    parts = session.messages[-1]["content"] if len(session.messages) > 1 else []
    answer = {
        "model": session.talker.name,
        "text": text_of(parts),
        "parts": parts,
        "finish_reason": next((event.reason for event in events if isinstance(event, Ended)), None),
        "notes": [event.text for event in events if isinstance(event, Note)],
    }
    print(json.dumps(answer, ensure_ascii=False))


def converse(session: ChatSession, history: Path) -> None:
    """Ask and answer until the user leaves."""
    console = Console(highlight=False)
    editor = LineEditor(history, COMMANDS)
    tell(console, f"Talking with {session.talker.name}. /help lists the commands, Ctrl-D leaves.")
    while True:
        try:
            line = editor.read(colored("you: ", console))
            if line and respond(session, line, console):
                return
        except KeyboardInterrupt:  # the line is dropped; while an answer comes, `show_answer` has it
            print()
        except EOFError:
            print()
            return
        except NanochatError as error:
            tell(console, f"error: {error}")


def respond(session: ChatSession, line: str, console: Console) -> bool:
    """Do what a line says; return whether to leave."""
    if not is_command(line):
        show_answer(session, message_of(line), console)
        return False
    outcome = run_command(session, line)
    if outcome.clears_screen:
        console.clear()
    if outcome.say:
        tell(console, outcome.say)
    if outcome.answers_again:
        show_answer(session, None, console)
    return outcome.leaves


def show_answer(session: ChatSession, message: str | None, console: Console) -> None:
    """Show the answer to a message, or another one to the last; Ctrl-C stops it."""
    printer = AnswerPrinter(console)
    events = session.retry() if message is None else session.ask(message)
    try:
        for event in events:
            printer.show(event)
    except KeyboardInterrupt:
        printer.end("stopped")
    except NanochatError:
        printer.end()
        raise
    else:
        printer.end()
    finally:
        events.close()


def tell(console: Console, text: str) -> None:
    console.print(printable(text), style="dim", markup=False, soft_wrap=True)


def colored(prompt: str, console: Console) -> str:
    """Return the prompt in bold blue where the terminal has colours, told to readline as taking no room."""
    return f"\001\033[1;34m\002{prompt}\001\033[0m\002" if console.color_system else prompt


def parse(arguments: list[str]) -> ChatSpec:
    """Return the spec of the command line; raises SpecError."""
    if len(arguments) != 1:
        raise SpecError('Expected one argument, a chat as JSON, for example {"url": "http://127.0.0.1:8000"}.')
    try:
        values = dict(json.loads(arguments[0]))
    except (ValueError, TypeError):
        raise SpecError(f"{arguments[0][:80]!r} is no JSON object.") from None
    return parse_chat(values)


def main() -> None:
    """Run the chat; a user's mistake ends in one line."""
    try:
        talk(parse(sys.argv[1:]))
    except NanochatError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        raise SystemExit(EXIT_PIPE_CLOSED) from None


if __name__ == "__main__":
    main()
