"""Identity and manners in a report: the three rates, each with its interval, for each model that has them."""

import json
from pathlib import Path
from typing import Any

from flows.compare import best_of
from flows.report.content import report
from flows.run_artifacts import against_the_best
from nanochat_core.recipes import recipe, resolve
from tasks_eval.run import headline
from tests.flows.report.evaluation.made_up import evaluation


def scores(right: float) -> dict[str, Any]:
    """Return the scores of a model that says rightly who it is in this share of 40 questions, as its stage has them."""
    rate = {"n": 40, "stderr": 0.05, "low": right - 0.1, "high": right + 0.05}
    parts = {"identity": {"n": 40, "accuracy": right, "stderr": 0.05, "low": right - 0.1, "high": right + 0.05}}
    row = {"accuracy": 0.7, "stderr": 0.02, "n": 120, "groups": parts, "samples": 1}
    rates = {"identity_accuracy": rate | {"value": right}, "false_decline_rate": rate | {"value": 1 - right}}
    return {"tasks": {"Identity": row}, "identity": rates}


def test_the_rates_are_a_section_scores_and_numbers_of_the_stage(tmp_path: Path) -> None:
    found = []
    for model, right in (("mid", 0.5), ("sft", 0.875)):
        found.append(evaluation(tmp_path, model, scores(right), {}))
        result = json.loads((found[-1].folder / "result.json").read_text())
        result["metrics"] = headline(scores(right))
        (found[-1].folder / "result.json").write_text(json.dumps(result))
    trained = evaluation(tmp_path, "trained", {"tasks": {}}, {})
    stages = [*found, *(type(trained)("sft", trained.folder, "d" * 64, False, 1.0, None) for _ in range(1))]
    folder = report(tmp_path, resolve(recipe("demo")), stages, "run")
    text = (folder / "report.md").read_text()
    part = text.partition("## Identity and manners\n")[2].partition("\n## ")[0]
    assert "| rate | Mid | SFT |" in part and "Decline rate" not in part.partition("|---")[2]
    assert "| Identity accuracy | 50.0 % (40.0 to 55.0) of 40 | 87.5 % (77.5 to 92.5) of 40 |" in part
    assert "| False-decline rate | 0.5000 ± 0.0500 (40) | 0.1250 ± 0.0500 (40) |" in text
    assert "Identity by part" not in text
    content = json.loads((folder / "report.json").read_text())
    assert content["sft"]["identity_accuracy"] == 0.875  # that of the part, not the 0.7 of the whole task
    assert {row["score"] for row in against_the_best(folder)} >= {"sft identity_accuracy", "sft false_decline_rate"}


def test_fewer_false_declines_are_better() -> None:
    assert best_of("decline_rate", [0.5, 0.75]) == best_of("identity_accuracy", [0.5, 0.75]) == {1}
    assert best_of("false_decline_rate", [0.5, 0.75]) == {0}
