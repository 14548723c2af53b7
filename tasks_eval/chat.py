"""Asking a chat model a task's questions, and judging its answers: one record a question (or a sample of an answer)."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from nanochat_core.inference.interface import Completion, Conversation, GenerateRequest, TextModel
from tasks_eval.grading import grade
from tasks_eval.records import Record
from tasks_eval.task import Task
from tasks_eval.verdict import Verdict

GRADING_THREADS = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # of each rank


@dataclass(frozen=True)
class Sampling:
    """How generative answers are drawn. temperature 0 is greedy."""

    max_new_tokens: int = 512
    num_samples: int = 1
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 42
    use_tools: bool = True


def score_examples(model: TextModel, task: Task, indices: Sequence[int], sampling: Sampling) -> list[Record]:
    """Return the records of the examples at `indices`, in order. They are asked together."""
    ask = _ask_letters if task.kind == "multiple_choice" else _ask_freely
    return ask(model, task, indices, sampling)


def prompt_of(example: Conversation) -> Conversation:
    """Return the conversation up to the last question: all but the reference answer."""
    return {"messages": example["messages"][:-1]}


def _ask_letters(model: TextModel, task: Task, indices: Sequence[int], sampling: Sampling) -> list[Record]:
    """Ask for the likeliest letter of each question: of equals, the first."""
    examples = [task[index] for index in indices]
    logits = model.choice_logits(list(map(prompt_of, examples)), [example["letters"] for example in examples])
    records = []
    for index, example, row in zip(indices, examples, logits, strict=True):
        letter = example["letters"][max(range(len(row)), key=row.__getitem__)]
        total = math.log(math.fsum(math.exp(value - max(row)) for value in row)) + max(row)
        record = _record(task, index, example, letter, Verdict(letter == example["answer"], letter))
        logprobs = tuple(value - total for value in row)
        records.append(replace(record, options=tuple(example["letters"]), logprobs=logprobs))
    return records


def _ask_freely(model: TextModel, task: Task, indices: Sequence[int], sampling: Sampling) -> list[Record]:
    examples = [task[index] for index in indices]
    requests = [
        GenerateRequest(
            conversation=prompt_of(example),
            num_samples=sampling.num_samples,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            seed=sampling.seed + index,
            use_tools=sampling.use_tools,
        )
        for index, example in zip(indices, examples, strict=True)
    ]
    samples = [
        (index, example, number, completion)
        for index, example, row in zip(indices, examples, model.generate(requests), strict=True)
        for number, completion in enumerate(row)
    ]
    with ThreadPoolExecutor(GRADING_THREADS) as pool:  # unit tests wait for their processes
        verdicts = pool.map(lambda sample: grade(task.meta(sample[1]), sample[3].text), samples)
        return [
            replace(_record(task, index, example, transcript(completion), verdict), sample=number)
            for (index, example, number, completion), verdict in zip(samples, verdicts, strict=True)
        ]


def transcript(completion: Completion) -> str:
    """Return all of an answer as people read it, tool calls and their output between guillemets."""
    shown = {"text": "{}", "python": "«{}»", "python_output": "‹{}›"}
    return "".join(shown[part["type"]].format(part["text"]) for part in completion.parts)


def _record(task: Task, index: int, example: Conversation, completion: str, verdict: Verdict) -> Record:
    prompt = encodable(json.dumps(prompt_of(example)["messages"], ensure_ascii=False))
    return Record(
        index=index,
        task=task.name,
        group=str(example[task.group_field]) if task.group_field else "",
        prompt=prompt,
        prompt_sha256=hashlib.sha256(prompt.encode()).hexdigest(),
        completion=encodable(completion),
        answer=None if verdict.answer is None else encodable(verdict.answer),
        expected=str(example["answer"]),
        correct=verdict.is_correct,
        note=encodable(verdict.note),
    )


def encodable(text: str) -> str:
    """Return the text with question marks for halves of characters, which JSON may hold and UTF-8 cannot.

    >>> encodable("a\\ud800b")
    'a?b'
    """
    return text.encode(errors="replace").decode()
