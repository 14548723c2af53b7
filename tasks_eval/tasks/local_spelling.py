"""Spelling and CountLetters, for words of the pretraining text: what a model of a million parameters can learn.

Every phrasing puts the word between double quotes after a blank, where the split rule cuts it off without its
neighbours: the model sees one way of writing a word, not one for each phrasing.
"""

import random

from nanochat_core.inference.interface import Conversation
from tasks_eval.splits import split_words
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData

VERSION = 1
SPELLING_PHRASINGS = (
    'Spell the word "{}"',
    'Spell "{}"',
    'How do you spell "{}"?',
    'Please spell "{}" for me.',
    'What are the letters of "{}"?',
    'Can you spell the word "{}"?',
)
COUNTING_PHRASINGS = (
    'How many "{letter}" are in "{word}"?',
    'How many times does "{letter}" occur in "{word}"?',
    'Count the letter "{letter}" in "{word}".',
    'How often is the letter "{letter}" in the word "{word}"?',
)
COUNTING_SHARE_INSIDE = 0.9  # of the questions ask for a letter that the word has


def make_spelling(data: TaskData, split: Split) -> Task:
    """Every word in every phrasing: the first pass over the words comes first, then the next."""
    words = split_words(data, split)

    def example(index: int) -> Conversation:
        turn, position = divmod(index, len(words))
        phrasing = SPELLING_PHRASINGS[(turn + position) % len(SPELLING_PHRASINGS)]
        return spelling_example(words[position], phrasing)

    size = len(words) * len(SPELLING_PHRASINGS)
    return Task("Spelling", "generative", split, size, example, grading="spelled_word", version=VERSION)


def spelling_example(word: str, phrasing: str) -> Conversation:
    """Return the question for one word, answered by its letters with commas.

    >>> spelling_example("pear", 'Spell "{}"')["messages"][1]["content"]
    'p,e,a,r'
    """
    messages = [
        {"role": "user", "content": phrasing.format(word)},
        {"role": "assistant", "content": ",".join(word)},
    ]
    return {"messages": messages, "answer": word}


def make_counting(data: TaskData, split: Split) -> Task:
    """Every word in every phrasing, a random letter each time."""
    words = split_words(data, split)

    def example(index: int) -> Conversation:
        turn, position = divmod(index, len(words))
        phrasing = COUNTING_PHRASINGS[(turn + position) % len(COUNTING_PHRASINGS)]
        rng = random.Random(f"counting {split} {index}")
        return counting_example(words[position], draw_letter(rng, words[position]), phrasing)

    size = len(words) * len(COUNTING_PHRASINGS)
    return Task("CountLetters", "generative", split, size, example, grading="final_number", version=VERSION)


def draw_letter(rng: random.Random, word: str) -> str:
    """Return a letter of the word, or in one case of ten any letter."""
    return rng.choice(word if rng.random() < COUNTING_SHARE_INSIDE else "abcdefghijklmnopqrstuvwxyz")


def counting_example(word: str, letter: str, phrasing: str) -> Conversation:
    """Return the question for one word and letter, answered through the tool, which gets the word spelled.

    Spelling is what the model learns anyway; an echo of the word as it stands is one more skill, and was seen to spoil
    the end of spelled words (the closing quote after the last letter).

    >>> counting_example("pear", "e", 'How many "{letter}" are in "{word}"?')["messages"][1]["content"][0]["text"]
    ' "p,e,a,r".count("e")'
    """
    result = str(word.count(letter))
    parts = [
        {"type": "python", "text": f' "{",".join(word)}".count("{letter}")'},
        {"type": "python_output", "text": result},
        {"type": "text", "text": result},
    ]
    messages = [
        {"role": "user", "content": phrasing.format(word=word, letter=letter)},
        {"role": "assistant", "content": parts},
    ]
    return {"messages": messages, "answer": result}
