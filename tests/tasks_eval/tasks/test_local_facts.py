"""Facts: balanced letters, one right choice, and questions of testing that training never saw."""

from tasks_eval.splits import split_of
from tasks_eval.tasks.local_facts import FACTS, LETTERS, SIZES, fact_example


def test_the_right_letter_is_spread_evenly() -> None:
    answers = [fact_example(index, "test")["answer"] for index in range(400)]
    assert {letter: answers.count(letter) for letter in LETTERS} == dict.fromkeys(LETTERS, 100)


def test_exactly_one_choice_is_right() -> None:
    values: dict[str, set[str]] = {}
    for question, value, _ in FACTS:
        values.setdefault(question, set()).add(value)
    assert all(len(known) == 1 for known in values.values())
    for index in range(200):
        example = fact_example(index, "train")
        lines = example["messages"][0]["content"].splitlines()
        choices = dict(line[2:].rsplit("=", 1)[::-1] for line in lines if line.startswith("- "))
        question = lines[0].removeprefix("Multiple Choice question: ")
        assert [letter for letter, choice in choices.items() if choice in values[question]] == [example["answer"]]


def test_a_question_of_testing_is_never_trained_on() -> None:
    train = {fact_example(index, "train")["messages"][0]["content"] for index in range(SIZES["train"])}
    test = {fact_example(index, "test")["messages"][0]["content"] for index in range(SIZES["test"])}
    assert not train & test


def test_the_split_is_a_matter_of_the_whole_question() -> None:
    splits = {split_of(f"facts {number}") for number in range(200)}
    assert splits == {"train", "test"}
