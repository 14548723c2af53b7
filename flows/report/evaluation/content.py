"""What report.json says of the evaluations: "scores", "evaluations", "differences", "gallery" and "samples"."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.report.evaluation.answers import Evaluation
from flows.report.evaluation.differences import differences_of
from flows.report.evaluation.manners import RATES
from nanochat_core.recipes import PUBLISHED

ANSWERS_SHOWN = 2  # of each task, among the samples
BELOW = ("bpb", "core", "core_partial", "chatcore", *RATES)  # the tasks in the table


def evaluation_content(recipe: str, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return that part of report.json; the published scores are those of the recipe."""
    return {
        "scores": scores_entry(recipe, evaluations),
        "evaluations": {
            evaluation.model: {name: value for name, value in evaluation.scores.items() if name != "samples"}
            for evaluation in evaluations
        },
        "differences": differences_of(evaluations),
        "gallery": {evaluation.model: evaluation.gallery for evaluation in evaluations if evaluation.gallery},
        "samples": {evaluation.model: samples(evaluation) for evaluation in evaluations},
    }


def scores_entry(recipe: str, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the table of scores: {"models", "names", "own": {model: {name: …}}, "published": {model: {name: …}}}."""
    own = {evaluation.model: scores_of(evaluation.scores) for evaluation in evaluations}
    published = {model: row for model, row in PUBLISHED.get(recipe, {}).items() if model in own}
    names = {name: None for rows in (own, published) for row in rows.values() for name in row}
    return {
        "models": list(own),
        "names": sorted(names, key=lambda name: name in BELOW),
        "own": own,
        "published": published,
        "chatcore_tasks": {
            evaluation.model: evaluation.scores["chatcore"]["tasks"]
            for evaluation in evaluations
            if "chatcore" in evaluation.scores
        },
    }


def scores_of(scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return {name: {"value", "stderr", "n"}}: the means over tasks, which have no n, the rates, and the tasks.

    >>> scores_of({"core": {"core": 0.25, "stderr": 0.01}, "bpb": {"validation": 0.8}, "tasks": {}})
    {'core': {'value': 0.25, 'stderr': 0.01, 'n': None}, 'bpb': {'value': 0.8, 'stderr': None, 'n': None}}
    """
    core, chatcore = scores.get("core", {}), scores.get("chatcore", {})
    found = {name: (core[name], core.get("stderr")) for name in ("core", "core_partial") if name in core}
    if "validation" in scores.get("bpb", {}):
        found["bpb"] = (scores["bpb"]["validation"], None)
    if chatcore:
        found["chatcore"] = (chatcore["value"], chatcore.get("stderr"))
    means = {name: {"value": value, "stderr": stderr, "n": None} for name, (value, stderr) in found.items()}
    rates = {
        name: {"value": row["value"], "stderr": row["stderr"], "n": row["n"]}
        for name, row in scores.get("identity", {}).items()
    }
    return (
        means
        | rates
        | {
            name: {"value": row["accuracy"], "stderr": row["stderr"], "n": row["n"]}
            for name, row in scores["tasks"].items()
        }
    )


def samples(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return what the model wrote: continuations of fixed prompts, and its first answers in each task."""
    fixed = [{"prompt": row["prompt"], "answer": row["text"]} for row in evaluation.scores.get("samples", ())]
    return fixed + [
        {"prompt": asked(task, row), "answer": row["completion"]}
        for task, rows in evaluation.answers.items()
        for row in rows[:ANSWERS_SHOWN]
        if row["completion"]
    ]


def asked(task: str, row: Mapping[str, Any]) -> str:
    verdict = "right" if row["correct"] else "wrong"
    return f"{task}, question {row['index']}: {verdict}, expected {row['expected']}"
