"""Facts: multiple choice over a small built-in table. Training shows each fact among other choices than testing does.

A fact cannot be known without having been seen, so the splits differ in the question as a whole: which of the table's
values stand beside the right one, and in which order. The right letter is spread evenly over A to D.
"""

import random

from nanochat_core.inference.interface import Conversation
from tasks_eval.multiple_choice import choice_example
from tasks_eval.splits import split_of
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData

VERSION = 1
LETTERS = ("A", "B", "C", "D")
SIZES: dict[Split, int] = {"train": 20_000, "test": 2_000}

# (question, its subjects and their values); all values of one table can stand beside each other
TABLES: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "What is the capital of {}?",
        {
            "France": "Paris",
            "Germany": "Berlin",
            "Italy": "Rome",
            "Spain": "Madrid",
            "Japan": "Tokyo",
            "Egypt": "Cairo",
            "Greece": "Athens",
            "Norway": "Oslo",
            "Austria": "Vienna",
            "Portugal": "Lisbon",
            "Poland": "Warsaw",
            "Cuba": "Havana",
        },
    ),
    (
        "What sound does a {} make?",
        {"dog": "woof", "cat": "meow", "cow": "moo", "sheep": "baa", "duck": "quack", "pig": "oink", "frog": "croak"},
    ),
    (
        "What colour is {}?",
        {
            "grass": "green",
            "the sky": "blue",
            "snow": "white",
            "coal": "black",
            "a banana": "yellow",
            "blood": "red",
            "a carrot": "orange",
        },
    ),
    (
        "How many legs does {} have?",
        {"a spider": "eight", "an ant": "six", "a horse": "four", "a bird": "two", "a snake": "none"},
    ),
    (
        "What is the opposite of {}?",
        {
            "hot": "cold",
            "big": "small",
            "fast": "slow",
            "early": "late",
            "open": "closed",
            "up": "down",
            "full": "empty",
            "old": "new",
        },
    ),
)
FACTS = tuple(
    (question.format(subject), value, table) for question, table in TABLES for subject, value in table.items()
)


def make(data: TaskData, split: Split) -> Task:
    def example(index: int) -> Conversation:
        return fact_example(index, split)

    return Task(
        "Facts", "multiple_choice", split, SIZES[split], example, grading="letter", baseline=0.25, version=VERSION
    )


def fact_example(index: int, split: Split) -> Conversation:
    """Return example number `index`: a function of its arguments alone. The right letter is number index mod 4."""
    rng = random.Random(f"facts {split} {index}")
    place = index % len(LETTERS)
    while True:
        question, value, table = rng.choice(FACTS)
        choices = rng.sample(sorted(set(table.values()) - {value}), len(LETTERS) - 1)
        choices.insert(place, value)
        if split_of(f"facts {question} {' '.join(choices)}") == split:
            return choice_example(question, choices, LETTERS, LETTERS[place])
