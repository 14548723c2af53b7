"""The table of all answers in report.html: what it holds, packed into the page.

The page carries one JSON text, gzipped and in base64 (so no character of an answer is ever markup), which its script
(../templates/examples.js) unpacks and shows as text only. Prompts are there once, however many models were asked.
Long texts are cut, and where the answers are too many for a page, of each task the first questions are kept; the
parquet files have everything.
"""

import base64
import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.report.evaluation.answers import Evaluation
from flows.report.evaluation.sections import title_of

LONGEST_PROMPT, LONGEST_OPTION, LONGEST_COMPLETION = 2000, 500, 4000  # characters that are kept of each
ROW_CHARACTERS = 60  # of an answer's numbers and punctuation, roughly


@dataclass(frozen=True)
class Examples:
    """The packed table; `shown` of `total` answers are in it, and `page` is a file beside it that has more, if any."""

    data: str
    shown: int
    total: int
    page: str = ""


@dataclass(frozen=True)
class Answer:
    """One answer on its way into the page: `question` is its prompt and options, ready to show."""

    task: str
    rank: int  # of its question among those of the task, from 0
    model: str
    question: tuple[str, ...]
    row: Mapping[str, Any]

    @property
    def size(self) -> int:
        """The characters that it adds to a page, but for the question's."""
        words = sum(len(self.row[name] or "") for name in ("completion", "answer", "expected", "note", "group"))
        return min(words, LONGEST_COMPLETION) + ROW_CHARACTERS + 30 * len(self.row["logprobs"] or ())


def pack_examples(answers: Sequence[Answer], *, characters: int, page: str = "") -> Examples | None:
    """Return the table of the answers, as many questions of each task as fit; None where there is no answer.

    `page` is named where they do not all fit.
    """
    if not answers:
        return None
    limit = questions_that_fit(answers, characters)
    kept = [answer for answer in answers if answer.rank < limit]
    text = json.dumps(columns_of(kept), ensure_ascii=False, separators=(",", ":")).encode()
    data = base64.b64encode(gzip.compress(text, compresslevel=6, mtime=0)).decode()
    return Examples(data, len(kept), len(answers), page if len(kept) < len(answers) else "")


def sorted_answers(evaluations: Sequence[Evaluation]) -> list[Answer]:
    """Return all answers by task, question, model and sample, so that those to one question stand together."""
    found = []
    tasks = dict.fromkeys(task for evaluation in evaluations for task in evaluation.answers)
    for task in tasks:
        rows = [(number, row) for number, each in enumerate(evaluations) for row in each.answers.get(task, ())]
        ranks = {index: rank for rank, index in enumerate(sorted({row["index"] for _, row in rows}))}
        for number, row in sorted(rows, key=lambda pair: (pair[1]["index"], pair[0], pair[1]["sample"])):
            model = title_of(evaluations[number].model)
            found.append(Answer(task, ranks[row["index"]], model, question_of(row), row))
    return found


def questions_that_fit(answers: Sequence[Answer], characters: int) -> int:
    """Return how many questions of each task may be kept, at least one; tasks with fewer are whole."""
    sizes: dict[int, int] = {}
    seen = set()
    for answer in answers:
        sizes[answer.rank] = sizes.get(answer.rank, 0) + answer.size
        if answer.question not in seen:
            seen.add(answer.question)
            sizes[answer.rank] += sum(map(len, answer.question))
    total = 0
    for rank in sorted(sizes):
        total += sizes[rank]
        if total > characters:
            return max(1, rank)
    return len(sizes)


def columns_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return what the script reads: names, the questions, and a list of cells for each answer."""
    tasks = list(dict.fromkeys(answer.task for answer in answers))
    models = list(dict.fromkeys(answer.model for answer in answers))
    questions: dict[tuple[str, ...], int] = {}
    rows = []
    for answer in answers:
        row, known = answer.row, questions.setdefault(answer.question, len(questions))
        rows.append(
            [
                tasks.index(answer.task),
                models.index(answer.model),
                row["index"],
                row["sample"],
                row["group"] or "",
                known,
                int(row["correct"]),
                row["answer"],
                row["expected"],
                beginning(row["completion"] or "", LONGEST_COMPLETION),
                [round(value, 4) if math.isfinite(value) else None for value in row["logprobs"] or ()],
                row["num_tokens"] or [],
                row["note"] or "",
            ]
        )
    return {"models": models, "tasks": tasks, "questions": [list(question) for question in questions], "rows": rows}


def question_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the prompt as people read it, then the options; of long ones, the end of the prompt is what is asked."""
    options = [beginning(option, LONGEST_OPTION) for option in row["options"] or ()]
    return (ending("\n".join(spoken(row["prompt"])), LONGEST_PROMPT), *options)


def spoken(prompt: str) -> Iterator[str]:
    """Yield what was said, and by whom where it was more than one message; a prompt that is no conversation as it is.

    >>> list(spoken('[{"role": "user", "content": "2+2?"}]')), list(spoken("The capital of France is"))
    (['2+2?'], ['The capital of France is'])
    >>> list(spoken('[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]'))
    ['system: Be brief.', 'user: 2+2?']
    """
    try:
        messages = [(message["role"], content_of(message["content"])) for message in json.loads(prompt)]
    except (ValueError, TypeError, KeyError):
        messages = []
    if len(messages) < 2:
        yield messages[0][1] if messages else prompt
    else:
        yield from (f"{role}: {content}" for role, content in messages)


def content_of(content: str | Sequence[Mapping[str, str]]) -> str:
    """Return a message's text, that of its parts in a row."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def beginning(text: str, longest: int) -> str:
    """Return at most so many characters, and how many more there are.

    >>> beginning("abcdef", 4)
    'abcd… (2 more characters)'
    """
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def ending(text: str, longest: int) -> str:
    """Return at most so many characters from the end, and how many there are before.

    >>> ending("abcdef", 4)
    '(2 characters before) …cdef'
    """
    return text if len(text) <= longest else f"({len(text) - longest:,} characters before) …{text[-longest:]}"
