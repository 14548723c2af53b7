"""SimpleSpelling and SpellingBee."""

import itertools
import random
import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.inference.calculator import calculate
from tasks_eval.grading import grade
from tasks_eval.task import Task
from tasks_eval.task_data import TaskData
from tasks_eval.tasks.spelling_bee import bee_answer, make_bee, make_simple
from tasks_eval.tasks.spelling_phrasings import PHRASINGS, counting_question, spelling_question

WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=12)
LETTERS = st.sampled_from("abcdefghijklmnopqrstuvwxyz")


@given(WORDS, LETTERS)
def test_the_steps_the_tool_and_the_answer_agree(word: str, letter: str) -> None:
    steps, call, output, final = bee_answer(word, letter)
    count = str(word.count(letter))
    assert calculate(call["text"]) == output["text"] == count
    assert grade({"grading": "marked_number", "answer": count}, steps["text"] + final["text"]).is_correct
    assert steps["text"].count(" makes ") == word.count(letter)


@given(WORDS, LETTERS, st.sampled_from(sorted(PHRASINGS)), st.integers())
def test_in_every_language_the_question_names_word_and_letter(word: str, letter: str, language: str, seed: int) -> None:
    counting = counting_question(word, letter, language, random.Random(seed))
    spelling = spelling_question(word, language, random.Random(seed))
    assert word in counting and letter in counting.replace(word, "", 1) and word in spelling
    for question in (counting, spelling):
        assert question == question.strip() and "{" not in question and "  " not in question


def test_every_language_has_its_own_phrasings_with_all_places() -> None:
    spelling = [phrasing for one in PHRASINGS.values() for phrasing in one.spelling]
    counting = [phrasing for one in PHRASINGS.values() for phrasing in one.counting]
    assert len({*spelling, *counting}) == len(spelling) + len(counting) >= 80
    assert all(phrasing.count("{word}") == 1 for phrasing in (*spelling, *counting))
    assert all(phrasing.count("{letter}") == 1 for phrasing in counting)


def test_letters_of_two_scripts_never_stand_side_by_side() -> None:
    """A split rule would take a Latin word and the Han letters around it as one piece."""
    for language, seed in itertools.product(("Chinese", "Japanese"), range(200)):
        for question in (
            counting_question("pear", "e", language, random.Random(seed)),
            spelling_question("pear", language, random.Random(seed)),
        ):
            assert not re.search(r"[a-z][^\x00-\u02ff\W]|[^\x00-\u02ff\W][a-z]", question), question


def test_questions_come_in_all_languages_half_of_them_or_more_in_english(data: TaskData) -> None:
    for task, english in ((make_bee(data, "train"), 0.5), (make_simple(data, "train"), 0.75)):
        languages = Counter(task[index]["language"] for index in range(len(task)))
        assert set(languages) == set(PHRASINGS)
        assert abs(languages["English"] / len(task) - english) < 0.08


def test_a_word_is_spelled_as_the_format_says_and_half_of_the_questions_are_plain(data: TaskData) -> None:
    task, plain = make_simple(data, "train"), 0
    for index in range(len(task)):
        example = task[index]
        word = example["answer"]
        plain += example["messages"][0]["content"] == f"Spell the word: {word}"
        assert example["messages"][1]["content"] == f"{word}:{','.join(word)}"
    assert 0.4 < plain / len(task) < 0.65


def test_words_of_testing_are_never_trained_on_in_neither_task(data: TaskData) -> None:
    def words(task: Task) -> set[str]:
        texts = (task[index]["messages"][1]["content"] for index in range(len(task)))
        starts = (text if isinstance(text, str) else text[0]["text"] for text in texts)
        return {start.removeprefix("The word spelled out is ").partition(":")[0] for start in starts}

    train, test = (words(make_simple(data, split)) | words(make_bee(data, split)) for split in ("train", "test"))
    assert not train & test
    assert train | test == set(data.words())
