"""The sections of the report on evaluation, from report.json's "scores", "evaluations", "differences", "contamination".

scores          {"models", "names", "own", "published", "chatcore_tasks"}: flows/report/content.py
evaluations     {model: what scores.json says}
gallery         {model: what gallery.json says}: flows/report/evaluation/gallery.py
differences     flows/report/evaluation/differences.py
contamination   {"ngram", "shards", "tasks": {name: {"n", "contaminated", "share", "examples"}}}, or empty
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flows.report.evaluation.differences import verdict
from flows.report.evaluation.gallery import gallery_section
from flows.report.evaluation.manners import RATES, TASK, manners_section
from flows.report.evaluation.plots import Dots, EvaluationPlot, Scaling, interval
from flows.report.layout import NOTHING, Sample, Section, shown
from nanochat_core.model_chain import CALLED

SCORE_TITLES = {
    "core": "CORE",
    "core_partial": "CORE, some of its tasks",
    "bpb": "Validation bpb",
    "chatcore": "ChatCORE",
    **RATES,
}
CORE_TASKS = 22
OVERLAPS_SHOWN = 1  # of each task
PROTOCOL = (
    "model",
    "task",
    "accuracy",
    "95 % interval",
    "above guessing",
    "guessing",
    "questions",
    "answers each",
    "shots",
    "version",
    "seed",
    "prompts",
    "tool",
    "sandbox",
)


def title_of(model: str) -> str:
    return CALLED[model].title if model in CALLED else model


def titles_of(models: Iterable[str]) -> dict[str, str]:
    return {model: title_of(model) for model in models}


def evaluation_plots(evaluations: Mapping[str, Mapping[str, Any]]) -> list[EvaluationPlot]:
    """Return the pictures: every accuracy with its interval, then a curve for each task of which several answers were
    drawn."""
    rows = {title_of(model): scores["tasks"] for model, scores in evaluations.items() if scores["tasks"]}
    plots: list[EvaluationPlot] = []
    if rows:
        tasks = list(dict.fromkeys(task for found in rows.values() for task in found))
        plots.append(Dots("scores", "Accuracy with 95 % intervals", tasks, rows))
    for task, curves in curves_of(evaluations).items():
        plots.append(Scaling(f"scaling_{len(plots)}", f"{task}: accuracy over the answers drawn", curves))
    return plots


def curves_of(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return {task: {model's title: points of its curve}} of the tasks that have one."""
    found: dict[str, dict[str, Any]] = {}
    for model, scores in evaluations.items():
        for task, row in scores["tasks"].items():
            if row.get("curve"):
                found.setdefault(task, {})[title_of(model)] = row["curve"]
    return found


def evaluation_sections(report: Mapping[str, Any], plots: Sequence[EvaluationPlot]) -> list[Section]:
    """Return the sections in order; those with nothing to show are empty."""
    evaluations = report["evaluations"]
    return [
        scores(report, [plot for plot in plots if isinstance(plot, Dots)]),
        gallery_section(report["gallery"], titles_of(report["gallery"])),
        manners_section(evaluations, titles_of(evaluations)),
        protocol(evaluations),
        *groups(evaluations),
        scaling(evaluations, [plot for plot in plots if isinstance(plot, Scaling)]),
        *map(differences, report["differences"]),
        contamination(report["contamination"]),
    ]


def scores(report: Mapping[str, Any], plots: Sequence[Dots]) -> Section:
    """The table of metrics: a column for each model and, where the recipe has published scores, one beside it."""
    found = report["scores"]
    columns, keys = ["metric"], []
    for model in found["models"]:
        columns.append(title_of(model))
        keys.append(("own", model))
        if model in found["published"]:
            columns.append(f"{title_of(model)}, published")
            keys.append(("published", model))
    rows = [
        [SCORE_TITLES.get(name, name), *(cell(found[kind].get(model, {}).get(name)) for kind, model in keys)]
        for name in found["names"]
    ]
    note = "Accuracy ± one standard error (number of questions), unless the name says otherwise."
    remarks = [missing_core(model, row["core"]) for model, row in report["evaluations"].items() if "core" in row]
    lists = {model: ", ".join(tasks) for model, tasks in found["chatcore_tasks"].items()}
    if len(set(lists.values())) == 1:
        note += f" ChatCORE is the mean over {next(iter(lists.values()))} of accuracy above guessing."
    elif lists:
        note += " ChatCORE is the mean of accuracy above guessing over tasks that are not the same for all models."
        remarks += [f"ChatCORE of {title_of(model)}: {tasks}." for model, tasks in lists.items()]
    return Section("Scores", note=note, remarks=[*filter(None, remarks)], columns=columns, rows=rows, plots=plots)


def cell(score: Any) -> str:
    """Return a score as the table has it.

    >>> cell({"value": 0.5, "stderr": 0.01, "n": 1500}), cell({"value": 0.25, "stderr": 0.01, "n": None}), cell(None)
    ('0.5000 ± 0.0100 (1,500)', '0.2500 ± 0.0100', '–')
    """
    if not isinstance(score, dict):
        return shown(score)
    text = f"{score['value']:.4f}"
    if score["stderr"] is not None and score["n"] != 1:
        text += f" ± {score['stderr']:.4f}"
    return text if score["n"] is None else f"{text} ({score['n']:,})"


def missing_core(model: str, core: Mapping[str, Any]) -> str:
    """Return which tasks a partial CORE lacks.

    >>> missing_core("base", {"core_partial": 0.1, "tasks": ["copa"], "missing": ["piqa", "boolq"]})
    'Base: no CORE, for that takes 22 tasks and 1 of them was measured. Missing: piqa, boolq.'
    """
    if not core.get("missing"):
        return ""
    count = len(core["tasks"])
    were = "1 of them was" if count == 1 else f"{count} of them were"
    missing = ", ".join(core["missing"])
    return f"{title_of(model)}: no CORE, for that takes {CORE_TASKS} tasks and {were} measured. Missing: {missing}."


def protocol(evaluations: Mapping[str, Mapping[str, Any]]) -> Section:
    """How each accuracy was measured: what must be equal before two of them may be compared."""
    rows = [
        [title_of(model), task, *protocol_cells(row)]
        for model, scores in evaluations.items()
        for task, row in scores["tasks"].items()
    ]
    note = (
        "Two accuracies may be compared where version, prompts (a hash of all of them) and questions are the same; of "
        "written answers also tool, temperature, top-k and length, which scores.json has."
    )
    return Section("How the scores were measured", note=note, columns=PROTOCOL, rows=rows)


def protocol_cells(row: Mapping[str, Any]) -> list[str]:
    low, high = interval(row)
    optional = ("version", "seed", "prompt_hash", "tool", "sandbox")
    centered, baseline = row.get("centered"), row.get("baseline")
    return [
        f"{row['accuracy']:.4f}",
        f"{low:.4f} to {high:.4f}",
        NOTHING if centered is None else f"{centered:.4f}",
        NOTHING if baseline is None else f"{baseline:.4f}",
        shown(row["n"]),
        shown(row.get("samples", 1)),
        shown(row.get("shots")),
        *(NOTHING if row.get(name) is None else str(row[name]) for name in optional),
    ]


def groups(evaluations: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """A table for each task that has parts (MMLU's subjects): a row for each part, a column for each model."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for model, scores in evaluations.items():
        for task, row in scores["tasks"].items():
            if row.get("groups") and task != TASK:
                found.setdefault(task, {})[model] = row["groups"]
    note = "Accuracy with its 95 % interval, where that was measured, and the number of questions."
    sections = []
    for task, models in found.items():
        names = sorted({name for parts in models.values() for name in parts})
        rows = [[name.replace("_", " "), *(group_cell(parts.get(name)) for parts in models.values())] for name in names]
        columns = ["part", *map(title_of, models)]
        sections.append(Section(f"{task} by part", note=note, columns=columns, rows=rows))
    return sections


def group_cell(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return NOTHING
    if "low" in part:
        return f"{part['accuracy']:.4f}, {part['low']:.4f} to {part['high']:.4f} ({part['n']:,})"
    spread = f" ± {part['stderr']:.4f}" if part["n"] > 1 else ""  # one question says nothing about it
    return f"{part['accuracy']:.4f}{spread} ({part['n']:,})"


def scaling(evaluations: Mapping[str, Mapping[str, Any]], plots: Sequence[Scaling]) -> Section:
    """What more answers to a question buy: any of them is right (pass@k), or the most frequent one is."""
    rows = []
    for task, curves in curves_of(evaluations).items():
        for model, points in curves.items():
            for point in points:
                cells = [with_error(point, key) for key in ("pass", "majority")]
                rows.append([task, model, shown(point["samples"]), *cells])
    note = (
        "Of so many answers drawn to each question, any is right (pass@k, the unbiased estimate), or the one given "
        "most often is; ± one standard error."
    )
    columns = ("task", "model", "answers", "any is right", "majority is right")
    return Section("Accuracy over the answers drawn", note=note, columns=columns, rows=rows, plots=plots)


def with_error(point: Mapping[str, Any], key: str) -> str:
    if point.get(key) is None:
        return NOTHING
    error = point.get(f"{key}_stderr")
    return f"{point[key]:.4f}" + ("" if error is None else f" ± {error:.4f}")


def differences(comparison: Mapping[str, Any]) -> Section:
    """What changed from one model to the next, task by task."""
    before, after = title_of(comparison["before"]), title_of(comparison["after"])
    found = comparison["tasks"] | ({"mean of the tasks": comparison["overall"]} if len(comparison["tasks"]) > 1 else {})
    rows = [[task, *difference_cells(row)] for task, row in found.items()]
    note = (
        f"The paired difference on the questions that both were asked, in points of 100, with its 95 % interval: "
        f"positive where {after} is better."
    )
    remarks = [f"{task} is left out: {reason}." for task, reason in comparison["left_out"].items()]
    columns = ("task", "questions", before, after, "difference", "95 % interval", "verdict")
    return Section(f"From {before} to {after}", note=note, remarks=remarks, columns=columns, rows=rows)


def difference_cells(row: Mapping[str, Any]) -> list[str]:
    """Return what stands beside a task's name; the numbers are shares of 1.

    >>> numbers = {"n": 500, "against": 0.5, "model": 0.54, "difference": 0.04, "low": 0.0203, "high": 0.0597}
    >>> difference_cells(numbers)
    ['500', '50.0 %', '54.0 %', '+4.0', '+2.0 to +6.0', 'better']
    """
    ends = NOTHING if row["low"] is None else f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    old, new = (f"{100 * row[key]:.1f} %" for key in ("against", "model"))
    return [f"{row['n']:,}", old, new, f"{100 * row['difference']:+.1f}", ends, verdict(row)]


def contamination(found: Mapping[str, Any]) -> Section:
    """How many of each task's questions stand in the training text, with an overlap of each task to look at."""
    if not found.get("tasks"):
        return Section("Contamination")
    rows = [[task, *contamination_cells(row)] for task, row in found["tasks"].items()]
    count = len(found["shards"])
    note = (
        f"An example counts where {found['ngram']} successive words of its question or answer stand in the training "
        f"text, of which {count} of {found.get('shards_there', count)} shards were read; shorter ones cannot be looked "
        "for. This finds copies: what is told in other words is not found."
    )
    samples = [
        Sample(f"{task}, question {example['index']}, is in {example['shard']}", str(example["overlap"]))
        for task, row in found["tasks"].items()
        for example in row["examples"][:OVERLAPS_SHOWN]
    ]
    columns = ("task", "examples", "long enough", "in the text", "of these by the question", "share")
    return Section("Contamination", note=note, columns=columns, rows=rows, samples=samples)


def contamination_cells(row: Mapping[str, Any]) -> list[str]:
    numbers = [shown(row.get(name)) for name in ("n", "checked", "contaminated", "in_question")]
    return [*numbers, f"{100 * row['share']:.2f} %"]


def sample_sections(samples: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Section]:
    """What each model wrote."""
    return [
        Section(f"Samples: {title_of(model)}", samples=[Sample(**sample) for sample in rows])
        for model, rows in samples.items()
        if rows
    ]
