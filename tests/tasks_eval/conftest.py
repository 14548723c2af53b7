"""Every data set in miniature, for tests of tasks."""

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks_eval.task_data import TaskData

WORDS = ["".join(letters) for letters in itertools.product("bdgklm", "aeiou", "nrst", ["e", "il", "ox"])]
MMLU_ROWS = [
    {"question": f"What is {n}+1?", "subject": "sums", "choices": [str(n + k) for k in range(4)], "answer": 1}
    for n in range(10)
]


def arc_row(number: int) -> dict[str, Any]:
    return {
        "id": str(number),
        "question": f"Which one is number {number}?",
        "choices": {"text": ["this", "that", "those"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    }


def humaneval_row(number: int) -> dict[str, Any]:
    name = f"add_{number}"
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'import math\n\n\ndef {name}(x):\n    """Return x + {number}."""\n',
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
        "entry_point": name,
    }


MINIATURE: dict[str, dict[str, list[dict[str, Any]]]] = {
    "gsm8k": {
        split: [
            {"question": f"How much is {n} and 1?", "answer": f"It is {n}+1 = <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"}
            for n in range(8)
        ]
        for split in ("train", "test")
    },
    "mmlu": {"test": MMLU_ROWS, "auxiliary_train": [{"train": row} for row in MMLU_ROWS]},
    "arc": {
        f"{name}/{split}": [arc_row(n) for n in range(5)]
        for name in ("ARC-Easy", "ARC-Challenge")
        for split in ("train", "test")
    },
    "smoltalk": {
        split: [
            {
                "messages": [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": "Hello!"}],
                "source": "made",
            }
            for n in range(6)
        ]
        for split in ("train", "test")
    },
    "humaneval": {"test": [humaneval_row(n) for n in range(3)]},
}


def write_task_data(folder: Path, datasets: dict[str, dict[str, list[dict[str, Any]]]]) -> TaskData:
    """Write a task_data artifact with these rows and the word list, and open it."""
    (folder / "words.txt").write_text("\n".join(WORDS))
    index: dict[str, dict[str, Any]] = {"words": {"words": "words.txt"}}
    for name, splits in datasets.items():
        for number, (split, rows) in enumerate(splits.items()):
            file = f"{name}-{number}.parquet"
            pq.write_table(pa.Table.from_pylist(rows), folder / file)
            index.setdefault(name, {})[split] = [file]
    (folder / "index.json").write_text(json.dumps({"datasets": index}))
    return TaskData.open(folder)


@pytest.fixture
def data(tmp_path: Path) -> TaskData:
    """Every data set in miniature."""
    folder = tmp_path / "task_data"
    folder.mkdir()
    return write_task_data(folder, MINIATURE)
