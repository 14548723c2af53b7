"""The CORE bundle on disk: which tasks there are (core.yaml), their items (JSONL), and what guessing scores (csv)."""

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from nanochat_core.errors import DataError

CoreKind = Literal["multiple_choice", "schema", "language_modeling"]
LABELS = (  # the 22 tasks of CORE
    "agi_eval_lsat_ar",
    "arc_challenge",
    "arc_easy",
    "bigbench_cs_algorithms",
    "bigbench_dyck_languages",
    "bigbench_language_identification",
    "bigbench_operators",
    "bigbench_qa_wikidata",
    "bigbench_repeat_copy_logic",
    "boolq",
    "commonsense_qa",
    "copa",
    "coqa",
    "hellaswag",
    "hellaswag_zeroshot",
    "jeopardy",
    "lambada_openai",
    "openbook_qa",
    "piqa",
    "squad",
    "winograd",
    "winogrande",
)
SHUFFLE_SEED = 1337
REQUIRED_FIELDS: dict[str, tuple[str, ...]] = {
    "multiple_choice": ("query", "choices", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "language_modeling": ("context", "continuation"),
}
OPTIONS = {"multiple_choice": "choices", "schema": "context_options"}  # the field that `gold` is a place in


@dataclass(frozen=True)
class CoreTask:
    """One task of the bundle. `baseline` is the accuracy of guessing, 0 to 1."""

    label: str
    kind: CoreKind
    file: Path
    shots: int
    delimiter: str
    baseline: float

    def items(self) -> list[dict[str, Any]]:
        """Return all items, shuffled by seed 1337; raises DataError that names file and line for a bad one."""
        items = []
        for number, line in enumerate(_lines(self.file), start=1):
            try:
                item = json.loads(line)
            except ValueError as error:
                raise DataError(f"{self.file}:{number}: not JSON ({error}). Fetch the CORE bundle again.") from error
            if why := why_bad(item, self.kind):
                raise DataError(f"{self.file}:{number}: {why}. Fetch the CORE bundle again.")
            items.append(item)
        random.Random(SHUFFLE_SEED).shuffle(items)
        return items


def why_bad(item: Any, kind: CoreKind) -> str:
    """Return what an item lacks to be asked and judged, or nothing.

    >>> why_bad({"query": "2+2=", "choices": ["3", "4"], "gold": 2}, "multiple_choice")
    'gold is 2, the place of none of its choices'
    """
    if not isinstance(item, dict):
        return f"no JSON object, which a {kind} item must be"
    if missing := [name for name in REQUIRED_FIELDS[kind] if name not in item]:
        return f"no {', '.join(missing)}, which a {kind} item must have"
    field = OPTIONS.get(kind, "")
    texts = [item[name] for name in REQUIRED_FIELDS[kind] if name not in (field, "gold")]
    options = item[field] if field else []
    if not isinstance(options, list) or not all(isinstance(text, str) for text in (*texts, *options)):
        return f"something else than text in {', '.join(name for name in REQUIRED_FIELDS[kind] if name != 'gold')}"
    if field and (not isinstance(item["gold"], int) or not 0 <= item["gold"] < len(options)):
        return f"gold is {item['gold']!r}, the place of none of its {field}"
    return ""


def read_bundle(root: Path) -> list[CoreTask]:
    """Return the tasks of the bundle in `root` whose items are there, in its order.

    Raises DataError for a bad file, and where no task has its items.
    """
    try:
        entries = yaml.safe_load("\n".join(_lines(root / "core.yaml")))["icl_tasks"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{root}/core.yaml has no list `icl_tasks` ({error}). Fetch the CORE bundle again.") from error
    baselines = _baselines(root / "eval_meta_data.csv")
    try:
        tasks = [_task_of(root, entry, baselines) for entry in entries]
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"{root}/core.yaml: a task lacks {error}. Fetch the CORE bundle again.") from error
    if not (found := [task for task in tasks if task.file.is_file()]):
        raise DataError(f"{root} has the items of none of its {len(tasks)} tasks. Fetch the CORE bundle again.")
    return found


def _task_of(root: Path, entry: dict[str, Any], baselines: dict[str, float]) -> CoreTask:
    label, kind = entry["label"], entry["icl_task_type"]
    if kind not in REQUIRED_FIELDS or label not in baselines:
        raise DataError(f"{root}: the task {label} is of unknown type {kind} or has no random baseline.")
    return CoreTask(
        label=label,
        kind=kind,
        file=root / "eval_data" / entry["dataset_uri"],
        shots=entry["num_fewshot"][0],
        delimiter=entry.get("continuation_delimiter", " "),
        baseline=baselines[label],
    )


def _baselines(path: Path) -> dict[str, float]:
    """Return the random baseline of each task of the csv, 0 to 1."""
    rows = csv.DictReader(_lines(path))
    try:
        return {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in rows if row["Random baseline"]}
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: no table of random baselines ({error}). Fetch the CORE bundle again.") from error


def _lines(path: Path) -> list[str]:
    """Return the lines, without the line separators of Unicode that splitlines would cut at too."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error}. Fetch the CORE bundle again.") from error
