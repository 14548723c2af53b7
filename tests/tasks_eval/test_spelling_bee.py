"""SimpleSpelling and SpellingBee."""

import random

from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.inference.calculator import calculate
from tasks_eval.grading import grade
from tasks_eval.hub import TaskData
from tasks_eval.spelling_bee import bee_answer, bee_question, make_bee, make_simple

WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=12)
LETTERS = st.sampled_from("abcdefghijklmnopqrstuvwxyz")


@given(WORDS, LETTERS)
def test_the_steps_the_tool_and_the_answer_agree(word: str, letter: str) -> None:
    steps, call, output, final = bee_answer(word, letter)
    count = str(word.count(letter))
    assert calculate(call["text"]) == output["text"] == count
    assert grade({"grading": "marked_number", "answer": count}, steps["text"] + final["text"]).is_correct
    assert steps["text"].count(" makes ") == word.count(letter)


@given(WORDS, LETTERS, st.integers())
def test_the_question_names_word_and_letter(word: str, letter: str, seed: int) -> None:
    question = bee_question(word, letter, random.Random(seed))
    assert word in question and letter in question


def test_a_word_is_spelled_as_the_format_says(data: TaskData) -> None:
    example = make_simple(data, "train")[0]
    word = example["answer"]
    assert example["messages"][0]["content"] == f"Spell the word: {word}"
    assert example["messages"][1]["content"] == f"{word}:{','.join(word)}"


def test_words_of_testing_are_never_trained_on(data: TaskData) -> None:
    train, test = make_simple(data, "train"), make_simple(data, "test")
    assert not {train[i]["answer"] for i in range(len(train))} & {test[i]["answer"] for i in range(len(test))}
    assert len(make_bee(data, "test")) == len(test)
