"""Arithmetic: sums of two and three whole numbers, worked out with the calculator. Generated; needs no data.

LongArithmetic has three operands as large as those of two: more to copy than SFT shows, for RL to practise.

In the format of GSM8K: question "What is 12*7?", answer «12*7 = », call «12*7», output «84», text «84», and the last
line «#### 84». Which operands belong to testing is decided by a hash of the sorted operands, so a question and its
mirror image are never in both splits.
"""

import random

from nanochat_core.inference.interface import Conversation
from tasks_eval.splits import split_of
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData

VERSION = 2  # the last line is that of GSM8K
SIZES: dict[Split, int] = {"train": 100_000, "test": 5_000}
LARGEST = {2: 100, 3: 20}  # largest operand, by number of operands
LARGEST_OF_LONG = 100
OPERATORS = "+-*"
WORDS = {"+": "plus", "-": "minus", "*": "times"}
PHRASINGS = (
    "What is {}?",
    "Calculate {}.",
    "How much is {}?",
    "{} = ?",
    "Please compute {}",
    "Can you work out {} for me?",
)


def make(data: TaskData, split: Split) -> Task:
    def example(index: int) -> Conversation:
        return arithmetic_example(index, split)

    return Task("Arithmetic", "generative", split, SIZES[split], example, grading="marked_number", version=VERSION)


def make_long(data: TaskData, split: Split) -> Task:
    def example(index: int) -> Conversation:
        rng = random.Random(f"long arithmetic {split} {index}")
        return worked_example(rng, draw_operands(rng, split, count=3, largest=LARGEST_OF_LONG))

    return Task("LongArithmetic", "generative", split, SIZES[split], example, grading="marked_number", version=VERSION)


def arithmetic_example(index: int, split: Split) -> Conversation:
    """Return example number `index`: a function of its arguments alone."""
    rng = random.Random(f"arithmetic {split} {index}")
    count = 3 if rng.random() < 0.25 else 2
    return worked_example(rng, draw_operands(rng, split, count=count, largest=LARGEST[count]))


def worked_example(rng: random.Random, operands: list[int]) -> Conversation:
    """Return a question over the operands, phrased at random, and its answer through the calculator."""
    operators = [rng.choice(OPERATORS) for _ in operands[1:]]
    expression = join(operands, operators)
    result = str(evaluate(operands, operators))
    question = rng.choice(PHRASINGS).format(_written(rng, operands, operators))
    parts = [
        {"type": "text", "text": f"{expression} = "},
        {"type": "python", "text": expression},
        {"type": "python_output", "text": result},
        {"type": "text", "text": f"{result}\n#### {result}"},
    ]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": parts}]
    return {"messages": messages, "answer": result, "operands": operands}


def draw_operands(rng: random.Random, split: Split, *, count: int, largest: int) -> list[int]:
    """Return `count` operands of 0 to `largest` that belong to `split`."""
    while True:
        operands = [rng.randint(0, largest) for _ in range(count)]
        if split_of(operands_key(operands)) == split:
            return operands


def operands_key(operands: list[int]) -> str:
    """Return what the split is decided by: the operands in order of size."""
    return "arithmetic " + " ".join(str(operand) for operand in sorted(operands))


def join(operands: list[int], operators: list[str], *, blank: str = "") -> str:
    """Return the expression.

    >>> join([12, 7, 3], ["*", "-"]), join([12, 7], ["times"], blank=" ")
    ('12*7-3', '12 times 7')
    """
    rest = [f"{blank}{operator}{blank}{operand}" for operator, operand in zip(operators, operands[1:], strict=True)]
    return f"{operands[0]}{''.join(rest)}"


def evaluate(operands: list[int], operators: list[str]) -> int:
    """Return the value, products first.

    >>> evaluate([2, 3, 4], ["+", "*"]), evaluate([2, 3, 4], ["-", "-"])
    (14, -5)
    """
    terms = [operands[0]]
    for operator, operand in zip(operators, operands[1:], strict=True):
        if operator == "*":
            terms[-1] *= operand
        else:
            terms.append(operand if operator == "+" else -operand)
    return sum(terms)


def _written(rng: random.Random, operands: list[int], operators: list[str]) -> str:
    """Return the expression as people write it: close, with blanks, or with words."""
    style = rng.randrange(3)
    if style == 0:
        return join(operands, operators)
    return join(operands, operators if style == 1 else [WORDS[operator] for operator in operators], blank=" ")
