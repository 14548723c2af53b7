"""SimpleSpelling and SpellingBee: spelling an English word, and counting one of its letters step by step.

Both are generated from the word list. Words of testing are never trained on (`splits.split_words`).
"""

import random

from nanochat_core.inference.interface import Conversation, Part
from tasks_eval.hub import TaskData
from tasks_eval.splits import split_words
from tasks_eval.task import Split, Task

VERSION = 1
SHARE_INSIDE = 0.9  # of the questions ask for a letter that the word has
ASKING = (
    "How many {letter} are in {word}",
    "How many {letter} are there in {word}",
    "How many {letter} does {word} have",
    "How many {letter} can you find in the word {word}",
    "How often does {letter} occur in {word}",
    "How many times does {letter} appear in {word}",
    "Count the {letter} in {word}",
    "Count how often {letter} is in the word {word}",
    "Tell me the number of {letter} in {word}",
    "What is the number of {letter} in {word}",
    "In {word}, how many {letter} are there",
    "Look at {word} and count the letter {letter}",
)
QUOTES = ("", "'", '"')
ENDINGS = ("", "?", "?", ".")


def make_simple(data: TaskData, split: Split) -> Task:
    words = split_words(data, split)

    def example(index: int) -> Conversation:
        word = words[index]
        messages = [
            {"role": "user", "content": f"Spell the word: {word}"},
            {"role": "assistant", "content": spelled(word)},
        ]
        return {"messages": messages, "answer": word}

    return Task("SimpleSpelling", "generative", split, len(words), example, grading="spelled_word", version=VERSION)


def make_bee(data: TaskData, split: Split) -> Task:
    words = split_words(data, split)

    def example(index: int) -> Conversation:
        return bee_example(words[index], random.Random(f"spelling bee {split} {index}"))

    return Task("SpellingBee", "generative", split, len(words), example, grading="marked_number", version=VERSION)


def spelled(word: str) -> str:
    """Return the word and its letters; no blank before a letter, so that each keeps its own token.

    >>> spelled("apple")
    'apple:a,p,p,l,e'
    """
    return f"{word}:{','.join(word)}"


def bee_example(word: str, rng: random.Random) -> Conversation:
    """Return the question how often a letter is in `word`, answered by spelling, counting, and the tool."""
    letter = rng.choice(word if rng.random() < SHARE_INSIDE else "abcdefghijklmnopqrstuvwxyz")
    messages = [
        {"role": "user", "content": bee_question(word, letter, rng)},
        {"role": "assistant", "content": bee_answer(word, letter)},
    ]
    return {"messages": messages, "answer": str(word.count(letter))}


def bee_question(word: str, letter: str, rng: random.Random) -> str:
    """Return the question in a random phrasing, with its case, quotes, plural and ending varied."""
    asking = rng.choice(ASKING)
    asking = asking.lower() if rng.random() < 0.3 else asking
    letter_quote, word_quote = rng.choice(QUOTES), rng.choice(QUOTES)
    plural = "s" if rng.random() < 0.5 else ""
    letter = f"{letter_quote}{letter}{letter_quote}{plural}"
    return asking.format(letter=letter, word=f"{word_quote}{word}{word_quote}") + rng.choice(ENDINGS)


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
