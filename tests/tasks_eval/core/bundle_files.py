"""A made-up CORE bundle: one task of each kind."""

import json
from pathlib import Path
from typing import Any

import yaml

ITEMS: dict[str, list[dict[str, Any]]] = {
    "capitals": [{"query": f"Land {n} ", "choices": [f"Town {n}", f"Village {n}"], "gold": n % 2} for n in range(6)],
    "pronouns": [
        {"context_options": [f"The dog {n}", f"The cat {n}"], "continuation": "ran away.", "gold": n % 2}
        for n in range(6)
    ],
    "endings": [{"context": f" One, two, {n} ", "continuation": f"and {n}"} for n in range(6)],
}
KINDS = {"capitals": "multiple_choice", "pronouns": "schema", "endings": "language_modeling"}
BASELINES = {"capitals": 50, "pronouns": 50, "endings": 0, "unused": 25}


def write_bundle(root: Path) -> Path:
    """Write the bundle below `root` in the layout of the real one, and return `root`."""
    (root / "eval_data" / "made").mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for label, rows in ITEMS.items():
        uri = f"made/{label}.jsonl"
        (root / "eval_data" / uri).write_text("".join(json.dumps(row) + "\n" for row in rows))
        entries.append({"label": label, "dataset_uri": uri, "num_fewshot": [2], "icl_task_type": KINDS[label]})
    entries[0]["continuation_delimiter"] = "\nAnswer: "
    (root / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": entries}))
    lines = "".join(f"{label},{baseline}\n" for label, baseline in BASELINES.items())
    (root / "eval_meta_data.csv").write_text(f"Eval Task,Random baseline\n{lines}")
    return root
