"""One question for scripts, and a conversation in a real terminal (a pty) with a real server over a fake engine."""

import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat_core.inference.chat import cli as chat_cli
from nanochat_core.inference.chat.local import LocalTalker
from nanochat_core.inference.requests import Request
from tests.fake_engine import FakeEngine, TokenClock, wait_until
from tests.live_server import LiveServer, running_server

ROOT = Path(__file__).parents[3]
CTRL_C, CTRL_D, UP, ALT_ENTER = "\x03", "\x04", "\x1b[A", "\x1b\r"
PARTS = [
    {"type": "text", "text": "So"},
    {"type": "python", "text": "1+1"},
    {"type": "python_output", "text": "2"},
    {"type": "text", "text": "it is 2."},
]
Ask = Callable[..., int]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(answer=lambda request: PARTS)


@pytest.fixture
def ask(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Return a function that runs the chat with fields of a spec, and text on stdin, and returns its exit code."""

    def run(stdin: str = "", **spec: object) -> int:
        values = {"model_folder": "model", "tokenizer_folder": "tokenizer"} | spec
        monkeypatch.setattr(chat_cli, "load_local", lambda spec: LocalTalker(engine, "fake"))
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setattr(sys, "argv", ["chat", json.dumps(values)])
        try:
            chat_cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def test_one_question_prints_its_answer_and_nothing_else(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(prompt="1+1?") == 0
    assert capsys.readouterr() == ("Soit is 2.\n", "")


@pytest.mark.parametrize("prompt", [None, "-"])
def test_text_that_is_piped_in_is_the_question(
    ask: Ask, engine: FakeEngine, capsys: pytest.CaptureFixture[str], prompt: str | None
) -> None:
    assert ask("two\nlines\n", prompt=prompt) == 0
    assert b"two\nlines" in heard(engine)
    assert capsys.readouterr().out == "Soit is 2.\n"


def test_an_answer_as_json_has_its_parts(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(prompt="1+1?", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"model": "fake", "text": "Soit is 2.", "parts": PARTS, "finish_reason": "stop", "notes": []}


def test_what_is_said_about_an_answer_goes_to_stderr(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(prompt="1+1?", settings={"max_tokens": 2}) == 0
    assert capsys.readouterr() == ("So\n", "\n(cut at the longest answer)")


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ({"prompt": " "}, 2, "There is no question in the prompt"),
        ({}, 2, "There is no question on stdin"),
        ({"prompt": "hi", "settings": {"temperature": -1}}, 2, "temperature: "),
        ({"prompt": "hi", "url": "http://127.0.0.1:1"}, 2, "is the server running"),
        ({"prompt": "x" * 4000}, 2, "say it in fewer words"),
    ],
)
def test_what_cannot_be_answered_ends_in_one_line(
    ask: Ask, capsys: pytest.CaptureFixture[str], spec: dict[str, object], code: int, said: str
) -> None:
    assert ask(**spec) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and said in printed.err and printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_engine_that_breaks_ends_with_1(ask: Ask, engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.fail_after(1)
    assert ask(prompt="hi") == 1
    assert capsys.readouterr().err == "error: The engine broke: the matrix is singular.\n"


def test_a_folder_without_a_model_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"model_folder": str(tmp_path), "tokenizer_folder": str(tmp_path), "prompt": "hi"}
    monkeypatch.setattr(sys, "argv", ["chat", json.dumps(spec)])
    with pytest.raises(SystemExit) as ended:
        chat_cli.main()
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert str(tmp_path) in printed


def heard(engine: FakeEngine) -> bytes:
    """Return the text of the last prompt."""
    return bytes(token for token in engine.requests[-1].ids if token < 256)


class Terminal:
    """A chat in a pty, 80 columns wide: what is typed, and what appears."""

    def __init__(self, url: str, base: Path, seconds: float = 60.0) -> None:
        self._seconds, self.shown = seconds, ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = os.environ | {"NANOCHAT_BASE_DIR": str(base), "TERM": "xterm", "PYTHONPATH": str(ROOT)}

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches the chat as a signal,
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which who started the tests may have had ignored

        self._process = subprocess.Popen(
            [sys.executable, "-m", chat_cli.__name__, json.dumps({"url": url})],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            preexec_fn=take_terminal,
        )
        os.close(slave)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def answer(self, keys: str, prompt: str = "you: ") -> None:
        """Type when the chat asks: before, the terminal itself would take the keys, and read some of them otherwise."""
        self.wait_for(prompt)
        self.type(keys)

    def wait_for(self, text: str) -> None:
        """Return when `text` has appeared since the last call; what appeared up to it is behind us."""
        end = time.monotonic() + self._seconds
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} does not appear in {self.shown!r}"
            if select.select([self._master], [], [], 1)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
        self.shown = self.shown.split(text, 1)[1]

    def exit_code(self) -> int:
        code = self._process.wait(self._seconds)
        os.close(self._master)
        return code

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeEngine, LiveServer]]:
    engine = FakeEngine(answer=last_words)
    with running_server(engine) as live:
        yield engine, live


def last_words(request: Request) -> str:
    text = bytes(token for token in request.ids if token < 256).decode()
    return f"heard {text[-9:]!r}." if "long" not in text[-5:] else "x" * 900


def test_a_conversation_in_a_terminal(served: tuple[FakeEngine, LiveServer], tmp_path: Path) -> None:
    engine, live = served
    history = tmp_path / chat_cli.HISTORY_FILE
    history.write_text('"an earlier one"\n')
    terminal = Terminal(live.url, tmp_path)
    try:
        terminal.wait_for("Talking with fake.")
        terminal.answer(f"{UP}\r")  # what was typed in an earlier chat
        terminal.wait_for("heard 'rlier one'.")
        terminal.answer("/temprature 1\r")
        terminal.wait_for("did you mean '/temperature'?")
        terminal.answer("/system Be brief.\r")
        terminal.wait_for("System message: Be brief.")
        engine.clock = TokenClock(tokens_per_second=50)
        terminal.answer("long\r")
        terminal.wait_for("xxx")
        terminal.type(CTRL_C)
        terminal.wait_for("(stopped)")
        wait_until(lambda: len(engine.cancelled) == 1)
        engine.clock = TokenClock()
        terminal.answer("never sent")
        terminal.wait_for("never sent")  # readline has the keys: before, it would miss the signal until the next one
        terminal.type(CTRL_C)
        terminal.answer("one\\\r")
        terminal.answer("two\r", prompt="… ")
        terminal.wait_for(r"one\ntwo'.")
        terminal.answer(f"thr{ALT_ENTER}four\r")
        terminal.wait_for(r"thr\nfour'.")
        terminal.answer("\x1b[200~five\nsix\x1b[201~\r")  # as a terminal tells that text was pasted
        terminal.wait_for(r"ve\nsix'.")
        assert b"Be brief." in heard(engine) and b"never sent" not in heard(engine)
        terminal.answer("/new\r")
        terminal.answer("/retry\r")
        terminal.wait_for("error: Nothing has been said yet")
        terminal.answer(CTRL_D)
        assert terminal.exit_code() == 0
    finally:
        terminal.kill()
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert lines[1:4] == ["an earlier one", "/temprature 1", "/system Be brief."]
    assert "one\ntwo" in lines


def test_the_history_is_for_its_owner_alone(tmp_path: Path) -> None:
    from nanochat_core.inference.chat.terminal import HISTORY_LINES, add_to_history, read_history, shorten_history

    path = tmp_path / "base" / "history"
    add_to_history(path, "a\nb")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_history(path) == ["a\nb"]
    for number in range(2 * HISTORY_LINES):
        add_to_history(path, str(number))
    shorten_history(path)
    assert len(path.read_text().splitlines()) == HISTORY_LINES
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("damaged")
    assert read_history(path) == []
