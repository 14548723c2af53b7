"""What Prefect's UI shows of a whole run: at its start what it is and where, at its end its report, and how it compares
with the best of the same recipe so far."""

import base64
import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.background import in_background
from flows.stage import StageOutcome
from nanochat_core import artifacts, paths
from nanochat_core.errors import ArtifactError
from nanochat_core.model_chain import made_by

LOWER_IS_BETTER = ("bpb", "false_decline_rate")
Scores = dict[str, float]


def show_start(name: str, facts: Mapping[str, str]) -> None:
    """Show what has been started: its name, and `facts` about it."""
    rows = [f"| {fact} | `{value}` |" for fact, value in facts.items()]
    page = "\n".join([f"# {name}", "", "| | |", "|---|---|", *rows])
    in_background(lambda: create_markdown_artifact(page, key="run", description=name))


def show_end(report: Path, outcomes: Mapping[str, StageOutcome]) -> None:
    """Show the report with its curves, the table against the best so far, and where the checkpoints lie."""
    name = report.name
    page = with_pictures((report / "report.md").read_text(encoding="utf-8"), report)
    in_background(lambda: create_markdown_artifact(page, key="report", description=name))
    rows = against_the_best(report)
    if rows:
        in_background(lambda: create_table_artifact(rows, key="against-the-best", description=f"{name}: scores"))
    made = [outcome for stage, outcome in outcomes.items() if made_by(stage)]
    checkpoints = [
        {"model": outcome.stage, "folder": str(outcome.folder), "digest": outcome.digest[:16]} for outcome in made
    ]
    if checkpoints:
        in_background(lambda: create_table_artifact(checkpoints, key="checkpoints", description=f"{name}: models"))


def with_pictures(markdown: str, folder: Path) -> str:
    """Return the page with its pictures inside, as the UI has no folder to load them from."""

    def embedded(match: "re.Match[str]") -> str:
        picture = folder / match[2]
        if not picture.is_file():
            return match[0]
        drawing = on_white(picture.read_text(encoding="utf-8"))
        return f"![{match[1]}](data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()})"

    return re.sub(r"!\[([^\]]*)\]\(([^):]+\.svg)\)", embedded, markdown)


def on_white(svg: str) -> str:
    """Return the drawing on a white ground: as a picture it cannot take the page's color of text.

    >>> on_white('<svg width="9"><path/></svg>')
    '<svg width="9"><rect width="100%" height="100%" fill="white"/><path/></svg>'
    """
    return re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', svg, count=1)


def against_the_best(report: Path) -> list[dict[str, str]]:
    """Return a row for each score of this report: its value, the best of the recipe's earlier runs, and whose it is."""
    own = artifacts.read_json(report / "report.json")
    earlier = list(earlier_reports(report, own["run"]["recipe"]))
    rows = []
    for score, value in scores_of(own).items():
        known = [(scores_of(other)[score], other["run"]["name"]) for other in earlier if score in scores_of(other)]
        is_lower = score.endswith(LOWER_IS_BETTER)
        best = (min if is_lower else max)(known) if known else None
        rows.append(
            {
                "score": score,
                "this run": f"{value:.4f}",
                "best before": f"{best[0]:.4f}" if best else "",
                "of": best[1] if best else "",
                "verdict": verdict(value, best[0] if best else None, is_lower=is_lower),
            }
        )
    return rows


def verdict(value: float, best: float | None, *, is_lower: bool) -> str:
    """Return what a score is beside the best before it.

    >>> verdict(1.7, 1.8, is_lower=True), verdict(0.5, 0.6, is_lower=False), verdict(0.5, None, is_lower=False)
    ('better', 'worse', 'first')
    """
    if best is None:
        return "first"
    if value == best:
        return "equal"
    return "better" if (value < best) == is_lower else "worse"


def earlier_reports(report: Path, recipe: str) -> Iterator[dict[str, Any]]:
    """Yield the reports of the other runs of this recipe."""
    for path in report.parent.glob("*/report.json"):
        if path.parent.is_symlink() or path.parent == report:
            continue
        with contextlib.suppress(ArtifactError):  # somebody else's, or half deleted
            content = artifacts.read_json(path)
            if content.get("run", {}).get("recipe") == recipe:
                yield content


def scores_of(report: Mapping[str, Any]) -> Scores:
    """Return every score of every model, as `model score`."""
    own = report.get("scores", {}).get("own", {})
    return {
        f"{model} {name}": float(score["value"])
        for model, scores in own.items()
        for name, score in scores.items()
        if score.get("value") is not None
    }


def start_facts(base: Path, *, changes: Mapping[str, str], git_commit: str | None) -> dict[str, str]:
    """Return the facts of a run that is starting."""
    return {
        "base folder": str(base),
        "outputs": str(paths.artifacts_dir(base)),
        "changed from the recipe": ", ".join(f"{field}={value}" for field, value in changes.items()) or "nothing",
        "code": git_commit or "unknown",
    }
