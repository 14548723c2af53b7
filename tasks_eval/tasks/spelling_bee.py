"""SimpleSpelling and SpellingBee: spelling an English word, and counting one of its letters step by step.

Both are generated from the word list, and asked for in several languages (`spelling_phrasings.py`). Words of testing
are never trained on, in neither task (`splits.split_words`).
"""

import random
from collections.abc import Callable

from nanochat_core.inference.interface import Conversation, Part
from tasks_eval.splits import split_words
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData
from tasks_eval.tasks.spelling_phrasings import counting_question, draw_language, spelling_question

VERSION = 2  # questions in several languages
SHARE_INSIDE = 0.9  # of the questions ask for a letter that the word has
PLAIN_QUESTION = "Spell the word: {word}"
PLAIN_SHARE = 0.5  # of the spelling questions, in these words; the others are phrased freely


def make_simple(data: TaskData, split: Split) -> Task:
    return _make("SimpleSpelling", data, split, example=simple_example, grading="spelled_word")


def make_bee(data: TaskData, split: Split) -> Task:
    return _make("SpellingBee", data, split, example=bee_example, grading="marked_number")


def _make(
    name: str, data: TaskData, split: Split, *, example: Callable[[str, random.Random], Conversation], grading: str
) -> Task:
    """The task of one question for each word of the split."""
    words = split_words(data, split)

    def make_example(index: int) -> Conversation:
        return example(words[index], random.Random(f"{name} {split} {index}"))

    return Task(
        name,
        "generative",
        split,
        len(words),
        make_example,
        grading=grading,
        version=VERSION,
        group_field="language",
    )


def simple_example(word: str, rng: random.Random) -> Conversation:
    """Return the question for the letters of `word`: half of the time in one form, else in a random one."""
    language, question = "English", PLAIN_QUESTION.format(word=word)
    if rng.random() >= PLAIN_SHARE:
        language = draw_language(rng)
        question = spelling_question(word, language, rng)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": spelled(word)}]
    return {"messages": messages, "answer": word, "language": language}


def spelled(word: str) -> str:
    """Return the word and its letters; no blank before a letter, so that each keeps its own token.

    >>> spelled("apple")
    'apple:a,p,p,l,e'
    """
    return f"{word}:{','.join(word)}"


def bee_example(word: str, rng: random.Random) -> Conversation:
    """Return the question how often a letter is in `word`, answered by spelling, counting, and the tool."""
    letter = rng.choice(word if rng.random() < SHARE_INSIDE else "abcdefghijklmnopqrstuvwxyz")
    language = draw_language(rng)
    messages = [
        {"role": "user", "content": counting_question(word, letter, language, rng)},
        {"role": "assistant", "content": bee_answer(word, letter)},
    ]
    return {"messages": messages, "answer": str(word.count(letter)), "language": language}


def bee_answer(word: str, letter: str) -> list[Part]:
    """Return the answer: the word spelled, a line for each letter with a running count, the tool, the number."""
    lines, count = [], 0
    for position, character in enumerate(word, start=1):
        count += character == letter
        lines.append(f"{position}:{character}" + (f" makes {count}" if character == letter else ""))
    result = str(word.count(letter))
    steps = "\n".join(lines)
    return [
        {"type": "text", "text": f"The word spelled out is {spelled(word)}\n\nNow each letter:\n{steps}\n\nChecking: "},
        {"type": "python", "text": f"'{word}'.count('{letter}')"},
        {"type": "python_output", "text": result},
        {"type": "text", "text": f"{result}\n\n#### {result}"},
    ]
