"""Spelling and CountLetters: right, varied, and written so that a word is always cut in the same way."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.inference.calculator import calculate
from nanochat_core.tokenizer.split_rule import SPLIT_PATTERN
from tasks_eval.task_data import TaskData
from tasks_eval.tasks.local_spelling import (
    COUNTING_PHRASINGS,
    SPELLING_PHRASINGS,
    counting_example,
    make_counting,
    make_spelling,
)

WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=10)


@given(WORDS, st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.sampled_from(COUNTING_PHRASINGS))
def test_the_count_is_what_the_calculator_says(word: str, letter: str, phrasing: str) -> None:
    call, output, final = counting_example(word, letter, phrasing)["messages"][1]["content"]
    assert calculate(call["text"]) == output["text"] == final["text"] == str(word.count(letter))


def test_words_of_testing_are_never_trained_on(data: TaskData) -> None:
    for make in (make_spelling, make_counting):
        train, test = make(data, "train"), make(data, "test")
        words = [
            {task[index]["messages"][0]["content"].split('"')[-2] for index in range(len(task))}
            for task in (train, test)
        ]
        assert words[1] and not words[0] & words[1]


def test_every_phrasing_occurs_in_a_pass_over_the_words(data: TaskData) -> None:
    task = make_spelling(data, "train")
    questions = [task[index]["messages"][0]["content"] for index in range(len(SPELLING_PHRASINGS))]
    assert len({question.split('"')[0] for question in questions}) == len(SPELLING_PHRASINGS) >= 4
    assert len(set(questions)) == len(questions)


def test_no_two_spelling_questions_are_equal(data: TaskData) -> None:
    task = make_spelling(data, "test")
    questions = {task[index]["messages"][0]["content"] for index in range(len(task))}
    assert len(questions) == len(task)


def test_letters_are_separated_without_blanks(data: TaskData) -> None:
    example = make_spelling(data, "test")[0]
    assert example["messages"][1]["content"] == ",".join(example["answer"])


@pytest.mark.parametrize("phrasing", [*SPELLING_PHRASINGS, *COUNTING_PHRASINGS])
def test_the_split_rule_cuts_the_word_out_alone_in_every_phrasing(phrasing: str) -> None:
    question = phrasing.format("pear", word="pear", letter="e")
    assert "pear" in regex.findall(SPLIT_PATTERN, question)
