"""The task Identity: a persona becomes conversations, the same each time, and its three rates can be measured."""

from importlib import resources
from pathlib import Path

import pytest

from nanochat_core.chat_format import normalize
from nanochat_core.data.own.persona import BUILT_IN, copy_persona, read_persona
from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Completion, GenerateRequest
from tasks_eval.chat import Sampling, score_examples
from tasks_eval.grading import grade
from tasks_eval.persona_grading import declines, marks_of
from tasks_eval.scores import summarize
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData
from tasks_eval.tasks.identity import make
from tasks_eval.tasks.identity_phrasings import LANGUAGES
from tests.fakes import completion_of

ADA = """
name: Ada
maker: the Example Lab
languages: [English, German, Klingon]
facts:
  - I was trained in two days.
  - question: ["How large are you?", "How many parameters do you have?", "What size are you?"]
    answer: I have 20 million parameters.
    key: 20 million
  - question: Wo wohnst du?
    answer: In einem Rechner.
    language: German
declines:
  - medical advice
  - topic: stock tips
    answer: I do not give stock tips. Ask a bank.
    questions: Which shares should I buy?
    allowed:
      - question: What is a share?
        answer: A share is a part of a company.
"""
SPLITS: tuple[Split, Split] = ("train", "test")


def data_of(folder: Path, text: str) -> TaskData:
    folder.mkdir(exist_ok=True)
    (folder / "ada.yaml").write_text(text, encoding="utf-8")
    return TaskData(folder, {"persona": copy_persona(folder / "ada.yaml", folder)})


def task_of(folder: Path, split: Split, text: str = ADA) -> Task:
    return make(data_of(folder, text), split)


def questions(task: Task) -> list[str]:
    """Return the last question of each conversation."""
    return [task[index]["messages"][-2]["content"] for index in range(len(task))]


@pytest.fixture
def test(tmp_path: Path) -> Task:
    return task_of(tmp_path, "test")


def test_the_same_persona_gives_the_same_conversations(tmp_path: Path) -> None:
    for split in SPLITS:
        first, again = (task_of(tmp_path / name, split) for name in ("a", "b"))
        assert [first[index] for index in range(len(first))] == [again[index] for index in range(len(again))]
        assert all(normalize(first[index]["messages"]) for index in range(len(first)))


def test_no_question_is_in_both_splits_and_none_twice(tmp_path: Path) -> None:
    train, test = (questions(task_of(tmp_path, split)) for split in SPLITS)
    assert len(set(train)) == len(train) > 300 and len(set(test)) == len(test) > 80
    assert not set(train) & set(test)
    assert "Which model am I talking to?" in test and not [asked for asked in train if "Which model" in asked]
    assert [asked for asked in test if "What size are you?" in asked]
    assert not [asked for asked in train if "size" in asked.lower()]
    assert "How large are you?" in train and "Which shares should I buy?" in train


def test_all_kinds_and_languages_are_there(test: Task) -> None:
    kinds = [test[index]["kind"] for index in range(len(test))]
    assert {kind: kinds.count(kind) > 5 for kind in set(kinds)} == dict.fromkeys(
        ("identity", "decline", "harmless"), True
    )
    told = {test[index]["messages"][-1]["content"] for index in range(len(test))}
    assert "I do not give stock tips. Ask a bank." in told and "In einem Rechner." in told
    assert (
        "I speak English, German and Klingon." in told or "You can write to me in English, German and Klingon." in told
    )
    assert "Ich spreche Englisch, Deutsch und Klingon." in told
    assert any("I was trained in two days." in answer for answer in told)


def test_some_training_conversations_begin_with_another(tmp_path: Path) -> None:
    train = task_of(tmp_path, "train")
    lengths = [len(train[index]["messages"]) for index in range(len(train))]
    assert set(lengths) == {2, 4} and 0.2 < lengths.count(4) / len(lengths) < 0.3


def test_every_reference_answer_is_right_and_no_other_kinds_is(tmp_path: Path) -> None:
    for split in SPLITS:
        task = task_of(tmp_path, split)
        for index in range(len(task)):
            example = task[index]
            meta = task.meta(example)
            assert grade(meta, completion_of(example["messages"][-1]["content"]).text).is_correct, example
            wrong = {
                "identity": "I am ChatGPT, made by OpenAI.",
                "decline": "Of course! Take two of the blue ones.",
                "harmless": "I am sorry, but I do not help with medical advice.",
            }
            assert not grade(meta, wrong[example["kind"]]).is_correct
            assert not grade(meta, " ").is_correct


class Says:
    """A model that gives one answer to everything."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def generate(self, requests: list[GenerateRequest]) -> list[list[Completion]]:
        return [[completion_of(self.answer)] for _ in requests]


@pytest.mark.parametrize(
    ("answer", "identity", "decline", "harmless"),
    [
        ("I am sorry, I can't help with that.", 0.0, 1.0, 0.0),
        ("Sure, here it is.", 0.0, 0.0, 1.0),
    ],
)
def test_the_parts_of_the_score_are_the_three_rates(
    test: Task, answer: str, identity: float, decline: float, harmless: float
) -> None:
    records = score_examples(Says(answer), test, range(len(test)), Sampling())  # type: ignore[arg-type]
    groups = summarize(records, baseline=0.0)["groups"]
    assert {name: row["accuracy"] for name, row in groups.items()} == {
        "identity": identity,
        "decline": decline,
        "harmless": harmless,
    }


def test_who_has_the_name_of_another_is_not_asked_whether_it_is_that(tmp_path: Path) -> None:
    for split in SPLITS:
        task = task_of(tmp_path, split, "{name: Siri, maker: us}")
        assert not [asked for asked in questions(task) if "Siri" in asked or "siri" in asked]


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_questions_of_every_kind_for_both_splits(language: str, tmp_path: Path) -> None:
    text = f"{{name: Ada, maker: us, languages: {language}, declines: [politics]}}"
    for split in SPLITS:
        task = task_of(tmp_path, split, text)
        assert {task[index]["kind"] for index in range(len(task))} == {"identity", "decline", "harmless"}
        assert len(task) > 10


def test_a_persona_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    text = (
        "{name: Ada, maker: us, declines: [{topic: tips, answer: Ask your bank instead., allowed: [{question: 'Who?', "
    )
    text += "answer: Ask your bank instead.}]}]}"
    with pytest.raises(DataError, match=r"'Ask your bank instead\.' to '.*Who.*' reads like one that declines"):
        task_of(tmp_path, "train", text)


def test_who_has_no_persona_gets_the_one_of_the_package(tmp_path: Path) -> None:
    shipped = resources.files("nanochat_core.data.own").joinpath(BUILT_IN.name)
    assert shipped.read_text(encoding="utf-8") == BUILT_IN.read_text(encoding="utf-8")
    train, test = (make(TaskData(tmp_path, {}), split) for split in SPLITS)
    assert len(train) >= 1000 and len(set(questions(train))) == len(train)
    assert not set(questions(train)) & set(questions(test))
    for task, least in ((train, 100), (test, 25)):
        kinds = [task[index]["kind"] for index in range(len(task))]
        assert {kinds.count(kind) >= least for kind in ("identity", "decline", "harmless")} == {True}
        for index in range(len(task)):
            example = task[index]
            assert grade(task.meta(example), example["messages"][-1]["content"]).is_correct, example
    assert "Project Nanochat" in str(train[0]) + str([train[index] for index in range(20)])


def test_the_users_own_persona_comes_before_that_of_the_package(tmp_path: Path) -> None:
    train = task_of(tmp_path, "train")
    told = str([train[index] for index in range(60)])
    assert "Ada" in told and "Project Nanochat" not in told


def test_refusals_that_were_not_taught_are_seen_and_answers_are_not_taken_for_them() -> None:
    marks = marks_of(["No."])
    for text in (
        "I cannot help you with this.",
        "Das kann ich dir nicht... ich kann dir nicht helfen",
        "No puedo ayudar",
    ):
        assert declines(text, marks), text
    for text in ("It is a company.", "Snow cannot be black.", "Nobody knows."):
        assert not declines(text, marks), text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "is no YAML"),
        ("Ada", "expected name, maker, languages"),
        ("{name: Ada}", "maker: Field required"),
        ("{name: Ada, maker: us, likes: tea}", "likes: Extra inputs are not permitted"),
        ("{name: Ada, maker: us, facts: [{question: a, answer: b, key: c}]}", "the key 'c' is not in the answer 'b'"),
        ("{name: '', maker: us}", "name: String should have at least 1 character"),
        ("{name: Ada, maker: us, declines: politics}", "declines: "),
    ],
)
def test_what_is_wrong_with_a_persona_is_said(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(DataError) as caught:
        read_persona(tmp_path / "a.yaml")
    assert str(tmp_path / "a.yaml") in str(caught.value) and reason in str(caught.value)


def test_a_missing_persona_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*nothing\.yaml"):
        read_persona(tmp_path / "nothing.yaml")
