"""Who is right: one grader for each kind of answer. Evaluation and the reward of RL call the same ones.

A grader gets the example's `meta` (see `Task.meta`) and the text that the model said, without its tool calls. Packages
may register more in the entry-point group `nanochat.graders`.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from importlib.metadata import entry_points

from nanochat_core.errors import DataError, did_you_mean
from tasks_eval import persona_grading
from tasks_eval.sandbox.unit_tests import run_unit_tests
from tasks_eval.verdict import Meta, Verdict

GROUP = "nanochat.graders"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
MARKED_NUMBER = re.compile(r"####\s*(-?\d[\d,]*(?:\.\d+)?)")
MONEY = re.compile(r"[$€£]\s*(?=-?\d)|(?<=-)[$€£](?=\d)")  # the sign of a currency in front of a number


Grader = Callable[[Meta, str], Verdict]


def grade(meta: Meta, text: str) -> Verdict:
    """Judge `text` by the grader that `meta["grading"]` names; raises DataError where there is none."""
    name = meta.get("grading")
    grader = GRADERS.get(str(name)) or _registered(str(name))
    if grader is None:
        known = [*GRADERS, *entry_points(group=GROUP).names]
        raise DataError(f"The task {meta.get('task')!r} has the grading {name!r}{did_you_mean(str(name), known)}.")
    return grader(meta, text)


@cache
def _registered(name: str) -> Grader | None:
    """Return the grader that an installed package has registered, or None."""
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    grader: Grader | None = found[0].load() if found else None
    return grader


def marked_number(text: str) -> str | None:
    """Return the number after the first «#### », without its commas.

    >>> marked_number("so it is #### 1,200")
    '1200'
    """
    found = MARKED_NUMBER.search(text)
    return found.group(1).replace(",", "") if found else None


def final_number(text: str) -> str | None:
    """Return the last number after the last equals sign (or of all the text), without its commas.

    >>> final_number("12*7 = 84"), final_number("It is 84."), final_number("12*7 = ")
    ('84', '84', None)
    """
    found = NUMBER.findall(text.rpartition("=")[2])
    return found[-1].replace(",", "") if found else None


def spelled_word(text: str) -> str | None:
    """Return the word spelled as single letters with commas, after a colon if there is one; None: it is not spelled.

    >>> spelled_word("a,p,p,l,e"), spelled_word("apple:a,p,p,l,e"), spelled_word("apple"), spelled_word("a,pp,l,e")
    ('apple', 'apple', None, None)
    """
    letters = text.rpartition(":")[2].strip().rstrip(".").split(",")
    letters = [letter.strip() for letter in letters]
    if len(letters) < 2 or any(len(letter) != 1 or not letter.isalpha() for letter in letters):
        return None
    return "".join(letters)


def _number_grader(read: Callable[[str], str | None]) -> Grader:
    """A grader of numbers: as strings or, where `meta["compare"]` is "numbers" (as in RL), as numbers.

    >>> grade({"grading": "marked_number", "answer": "5", "compare": "numbers"}, "#### $5.00").is_correct
    True
    >>> grade({"grading": "marked_number", "answer": "5"}, "#### 5.0").is_correct
    False
    """
    as_strings = _grader(read)

    def judge(meta: Meta, text: str) -> Verdict:
        if meta.get("compare") != "numbers":
            return as_strings(meta, text)
        answer = read(MONEY.sub("", text))
        return Verdict(answer is not None and _are_equal(answer, str(meta["answer"])), answer)

    return judge


def _are_equal(answer: str, expected: str) -> bool:
    """Tell whether two answers are the same number, or the same text where what is expected is no number."""
    expected = MONEY.sub("", expected).replace(",", "")
    if not NUMBER.fullmatch(expected):
        return answer == expected
    return Decimal(answer) == Decimal(expected)


def _grader(read: Callable[[str], str | None]) -> Grader:
    """A grader that reads an answer from the text and compares it with `meta["answer"]`."""

    def judge(meta: Meta, text: str) -> Verdict:
        answer = read(text)
        return Verdict(answer == meta["answer"], answer)

    return judge


GRADERS: dict[str, Grader] = {
    "exact": _grader(str.strip),
    "letter": _grader(str.strip),
    "marked_number": _number_grader(marked_number),
    "final_number": _number_grader(final_number),
    "spelled_word": _grader(spelled_word),
    "persona": persona_grading.judge,
    "unit_tests": run_unit_tests,
}
