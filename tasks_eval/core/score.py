"""Scoring CORE over a `TextModel`: which tokens of a prompt count, which choice wins, and the one number.

multiple choice   lowest mean loss over the tokens after the prefix that all choices share
schema            lowest mean loss over the suffix that all options share
language modeling right where every token of the continuation is the arg-max
CORE = mean over the tasks of (accuracy - baseline) / (1 - baseline)
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.inference.interface import Loglikelihood, LoglikelihoodRequest, TextModel
from tasks_eval.core.bundle import LABELS, CoreTask
from tasks_eval.core.prompts import Item, render_prompts
from tasks_eval.records import Record
from tasks_eval.scores import mean_centered

VERSION = 1  # of the prompts and of who wins


def choose_tasks(tasks: Sequence[CoreTask], labels: Sequence[str] | None) -> list[CoreTask]:
    """Return the tasks with these labels (None: all), each once; raises SpecError for a label that is not there."""
    by_label = {task.label: task for task in tasks}
    for label in labels or ():
        if label not in by_label:
            raise SpecError(f"The CORE bundle has no task {label!r}{did_you_mean(label, by_label)}.")
    return list(tasks) if labels is None else [by_label[label] for label in dict.fromkeys(labels)]


def score_items(model: TextModel, task: CoreTask, items: Sequence[Item], indices: Sequence[int]) -> list[Record]:
    """Return a record with a verdict for each of the items at `indices`. They are scored together."""
    prompts = [render_prompts(task, items, index) for index in indices]
    rows = iter(model.encode_batch([prompt for texts in prompts for prompt in texts]))
    requests = [make_requests(model.bos, task, [next(rows) for _ in texts]) for texts in prompts]
    answers = iter(model.loglikelihood([request for own in requests for request in own]))
    return [
        _record(task, items[index], index, texts, [next(answers) for _ in own])
        for index, texts, own in zip(indices, prompts, requests, strict=True)
    ]


def make_requests(bos: int, task: CoreTask, prompts: Sequence[Sequence[int]]) -> list[LoglikelihoodRequest]:
    """Return what to score of an item's prompts, given as ids. At least one token is scored, and BOS never."""
    rows = [(bos, *prompt) for prompt in prompts]
    if task.kind == "schema":
        suffix = common_prefix_length([row[::-1] for row in rows])
        return [LoglikelihoodRequest(row, max(1, len(row) - max(1, suffix))) for row in rows]
    prefix = common_prefix_length(rows)
    if task.kind == "language_modeling":
        rows = rows[1:]
    return [LoglikelihoodRequest(row, min(prefix, len(row) - 1)) for row in rows]


def common_prefix_length(rows: Sequence[Sequence[int]]) -> int:
    """Return how many ids all rows begin with.

    >>> common_prefix_length([[1, 2, 3], [1, 2, 4, 5]])
    2
    """
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))


def _record(
    task: CoreTask, item: Item, index: int, prompts: Sequence[str], likelihoods: Sequence[Loglikelihood]
) -> Record:
    """Return the verdict on one item."""
    if task.kind == "language_modeling":
        answer, expected = (item["continuation"] if likelihoods[0].is_greedy else None), item["continuation"]
    else:
        losses = [-likelihood.logprob_sum / likelihood.num_tokens for likelihood in likelihoods]
        answer, expected = str(min(range(len(losses)), key=losses.__getitem__)), str(item["gold"])
    prompt, options = question_of(task, item, prompts)
    return Record(
        index=index,
        task=task.label,
        prompt=prompt,
        prompt_sha256=hashlib.sha256("\0".join(prompts).encode()).hexdigest(),
        options=options,
        logprobs=tuple(likelihood.logprob_sum for likelihood in likelihoods),
        num_tokens=tuple(likelihood.num_tokens for likelihood in likelihoods),
        answer=answer,
        expected=expected,
        correct=answer == expected,
    )


def question_of(task: CoreTask, item: Item, prompts: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return what an item's prompts have in common, as people read it, and its options.

    Of a schema item, whose options stand in the middle, "[…]" stands where they do.
    """
    if task.kind == "language_modeling":
        return prompts[1].removesuffix(item["continuation"]), (item["continuation"],)
    if task.kind == "multiple_choice":
        return prompts[0].removesuffix(item["choices"][0]), tuple(item["choices"])
    options = tuple(item["context_options"])
    ending = f"{task.delimiter}{item['continuation']}"
    return f"{prompts[0].removesuffix(options[0] + ending)}[…]{ending}", options


def core_summary(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean centred accuracy of tasks, its standard error, their labels and which of the 22 are missing.

    It is called "core" only where all 22 were measured, else "core_partial".

    >>> copa = {"centered": 0.5, "stderr": 0.02, "baseline": 0.5}
    >>> found = core_summary({"copa": copa})
    >>> found["core_partial"], found["stderr"], len(found["missing"])
    (0.5, 0.04, 21)
    """
    missing = [label for label in LABELS if label not in tasks]
    value, stderr = mean_centered(tasks)
    return {
        "core_partial" if missing else "core": value,
        "stderr": stderr,
        "tasks": list(tasks),
        "missing": missing,
    }
