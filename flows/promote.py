"""Champion and challenger: a model gets the alias that is served only where it is not worse on the same examples.

    evaluate both (what was measured is reused) -> paired differences -> move the alias, or leave a note

The comparison: flows/promotion/decision.py; the alias: flows/promotion/registry.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run
from prefect.states import Completed

from flows import registry
from flows.background import in_background
from flows.evaluate_model import evaluate_model, tasks_for, what_is_asked
from flows.evaluation.request import Asked
from flows.lineage import Lineage, lineage_of
from flows.model_ref import find_model, short_name
from flows.progress import note
from flows.promotion.decision import Decision, Row, Thresholds, decide
from flows.promotion.page import markdown, rule, table_rows
from flows.promotion.registry import Place, place_for, today
from flows.run_presence import present
from nanochat_core import paths
from nanochat_core.artifacts import StageFolder
from nanochat_core.errors import SpecError
from nanochat_core.specs import EvaluateSpec, LaunchSpec


@dataclass(frozen=True)
class Promotion:
    """What became of a challenger: its version, whether it has the place now, why, and the comparison (rows may be
    empty: there was nobody to compare with)."""

    place: str
    version: str
    is_promoted: bool
    reason: str
    rows: Sequence[Row] = ()

    @property
    def verdict(self) -> str:
        return "Promoted" if self.is_promoted else "Kept out"

    @property
    def headline(self) -> str:
        return f"{self.verdict}: version {self.version} for {self.place} ({self.reason})"


def name_run() -> str:
    return f"promote {short_name(flow_run.parameters['challenger'])}"


@flow(name="promote", flow_run_name=name_run)
def promote(
    challenger: str | None = None,
    name: str | None = None,
    alias: str = registry.CHAMPION,
    evaluate: EvaluateSpec | None = None,
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - frozen; it fills the form in the UI
    launch: LaunchSpec = LaunchSpec(),  # noqa: B008
    tasks: list[str] | None = None,
) -> Promotion:
    """Give the champion's alias to a model that is not worse than the champion.

    Args:
        challenger: base, mid, sft or rl of the newest run; models:/NAME@alias; a folder; empty: the newest chat model
        name: registered model whose alias is at stake; empty: nanochat-chat, for a base model nanochat-base
        alias: the alias that the best model has, and that is served
        evaluate: what both are asked; empty: what was measured last on the challenger, else all that its data allows
        thresholds: when a challenger counts as not worse
        launch: processes and machines of the evaluations
        tasks: names of what both are asked: chat tasks, CORE or tasks of it; empty: as evaluate says
    """
    base = paths.base_dir()
    with present(base, name_run().replace("/", "-")):
        lineage = lineage_of(find_model(challenger, base).model, base)
        place = place_for(base, stage=lineage.stage, name=name, alias=alias)
        asked = what_is_asked(lineage, tasks or [], evaluate, base)
        promotion = settle(place, lineage, base, asked, thresholds, launch)
        publish(promotion, thresholds)
    # The state is what the list of runs shows. Prefect makes its data the flow's result.
    return cast(Promotion, Completed(name=promotion.verdict, message=promotion.headline, data=promotion))


def settle(
    place: Place, challenger: Lineage, base: Path, asked: Asked, thresholds: Thresholds, launch: LaunchSpec
) -> Promotion:
    """Compare the challenger with who has the place, move the alias where it may have it, and note what was found."""
    champion = place.champion()
    version = place.enter(challenger.model.folder)
    if champion is None:
        promotion = Promotion(place.reference, str(version.version), True, "nobody had it before")
    elif champion.version == version.version:
        return Promotion(place.reference, str(version.version), True, "it has the place already")
    else:
        rival = lineage_of(registry.folder_of(champion, place.reference, base), base)
        decision = contest(rival, challenger, asked, thresholds, launch)
        promotion = Promotion(
            place.reference, str(version.version), decision.is_promoted, decision.reason, decision.rows
        )
    if promotion.is_promoted:
        place.move(version, after=champion, base=base)
    place.note(version, tags_of(promotion, champion), description_of(promotion, thresholds))
    return promotion


def contest(
    champion: Lineage, challenger: Lineage, asked: Asked, thresholds: Thresholds, launch: LaunchSpec
) -> Decision:
    """Ask both the same and compare. Raises SpecError where a base model meets a chat model."""
    if "pretrain" in (champion.stage, challenger.stage) and champion.stage != challenger.stage:
        raise SpecError(
            f"A {challenger.stage} model cannot be compared with a {champion.stage} model, which has the place: they "
            "are asked different tasks. Name another registered model."
        )
    new = evaluate_model(
        str(challenger.model.folder), asked.spec, tasks_for(challenger, asked), launch=launch
    ).outcome.folder
    data = str(StageFolder(new).input("task_data"))  # so that the questions are the same
    old = evaluate_model(
        str(champion.model.folder), asked.spec, tasks_for(champion, asked), task_data=data, launch=launch
    ).outcome.folder
    return decide(old, new, thresholds)


def tags_of(promotion: Promotion, champion: Any | None) -> Mapping[str, str]:
    """Return the tags that the challenger's version gets."""
    return {
        "promotion": promotion.verdict.lower(),
        "promotion_reason": promotion.reason,
        "promotion_against": f"version {champion.version}" if champion else "nobody",
        "promotion_time": today(),
    }


def description_of(promotion: Promotion, thresholds: Thresholds) -> str:
    """Return what the registry's page says of the challenger's version."""
    parts = [f"{promotion.verdict} on {today()}: {promotion.reason}."]
    if promotion.rows:
        parts += [rule(thresholds), markdown(promotion.rows)]
    return "\n\n".join(parts)


def publish(promotion: Promotion, thresholds: Thresholds) -> None:
    """Say it, and show it in Prefect's UI."""
    note(promotion.headline)
    if promotion.rows:
        rows, about = table_rows(promotion.rows), f"{promotion.headline}. {rule(thresholds)}"
        in_background(lambda: create_table_artifact(rows, key="promotion", description=about))
    else:
        page = f"# {promotion.verdict}\n\n{promotion.headline}."
        in_background(lambda: create_markdown_artifact(page, key="promotion", description=promotion.headline))
