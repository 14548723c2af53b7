from pathlib import Path

import pytest

from nanochat_core.errors import SpecError
from nanochat_core.inference.chat.commands import COMMANDS, run_command
from nanochat_core.inference.chat.session import ChatSession
from nanochat_core.inference.chat.spec import AnswerSettings
from tests.nanochat_core.inference.chat.test_session import Echo


@pytest.fixture
def session() -> ChatSession:
    session = ChatSession(Echo(), AnswerSettings())
    list(session.ask("hello"))
    return session


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("/temperature 0.8", "temperature", 0.8),
        ("/top-k 40", "top_k", 40),
        ("/top-k all", "top_k", None),
        ("/top-p .9", "top_p", 0.9),
        ("/min-p 0.05", "min_p", 0.05),
        ("/max-tokens 64", "max_tokens", 64),
        ("/seed 7", "seed", 7),
        ("/system  Answer in rhymes. ", "system", "Answer in rhymes."),
    ],
)
def test_a_command_changes_its_setting_and_says_so(session: ChatSession, line: str, field: str, value: object) -> None:
    outcome = run_command(session, line)
    assert getattr(session.settings, field) == value
    assert outcome.say == run_command(session, line.split()[0]).say  # without a value, it shows the present one
    assert len(session.messages) == 2


def test_the_system_message_can_be_taken_away(session: ChatSession) -> None:
    run_command(session, "/system Be brief.")
    assert run_command(session, "/system -").say == "There is no system message."
    assert session.settings.system == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/temprature 1", r"Unknown command /temprature \(did you mean '/temperature'\?\)"),
        ("/temperature warm", "temperature: 'warm' is none of what it can be; expected a number"),
        ("/temperature 9", "less than or equal to 2"),
        ("/top-k", None),
        ("/top-k some", "expected a number, or all"),
        ("/save", "/save which file"),
    ],
)
def test_what_a_command_cannot_do_is_said_and_changes_nothing(
    session: ChatSession, line: str, said: str | None
) -> None:
    before = session.settings
    if said:
        with pytest.raises(SpecError, match=said):
            run_command(session, line)
    else:
        run_command(session, line)
    assert session.settings == before


def test_new_and_clear_forget_and_keep_the_settings(session: ChatSession) -> None:
    run_command(session, "/temperature 1")
    assert not run_command(session, "/new").clears_screen
    assert session.messages == []
    assert run_command(session, "/clear").clears_screen
    assert session.settings.temperature == 1


def test_a_conversation_goes_to_a_file_and_back(session: ChatSession, tmp_path: Path) -> None:
    path = tmp_path / "a chat.json"
    assert "2 messages" in run_command(session, f"/save {path}").say
    run_command(session, "/new")
    run_command(session, f"/load {path}")
    assert len(session.messages) == 2


def test_help_names_every_command_and_quit_leaves(session: ChatSession) -> None:
    lines = run_command(session, "/help").say.splitlines()
    assert all(any(line.startswith(name) for line in lines) for name in COMMANDS)
    assert run_command(session, "/quit").leaves
    assert run_command(session, "/retry").answers_again
