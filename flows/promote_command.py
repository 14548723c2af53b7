"""`nanochat promote`: the promotion flow from a terminal."""

from typing import Annotated

import typer

from flows import environment, prefect_server
from flows.terminal import console, in_one_line, tell
from nanochat_core import paths

EXIT_KEPT_OUT = 1


@in_one_line
def promote(
    challenger: Annotated[
        str | None,
        typer.Argument(
            help="base, mid, sft, rl, a stage of finetune, models:/NAME@alias, or a folder; default: the newest chat"
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="registered model; default: nanochat-chat, for a base model nanochat-base")
    ] = None,
    alias: Annotated[str, typer.Option(help="the alias at stake")] = "champion",
    max_drop: Annotated[
        float | None, typer.Option(min=0, max=100, help="points that the interval may reach below zero; default: 5")
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="of the interval; default: 0.95")] = None,
    min_examples: Annotated[
        int | None, typer.Option(min=2, help="examples that a task must have; default: 100")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="names of tasks, with commas; default: as evaluated last")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="examples of each task; default: as last")] = None,
) -> None:
    """Give a model the champion's alias if it is not worse on the same examples; ends with 1 where it is kept out."""
    environment.prepare(paths.base_dir(), is_terminal=True)
    await_prefect = prefect_server.start(paths.base_dir())
    from flows import promote as promotion
    from flows.evaluate_model import tasks_for, what_is_asked
    from flows.lineage import lineage_of
    from flows.model_ref import find_model
    from flows.promotion.decision import Thresholds
    from flows.promotion.page import rule, terminal_table
    from nanochat_core.specs import parse_params

    given = {"max_drop": max_drop, "confidence": confidence, "min_examples": min_examples}
    thresholds = parse_params(Thresholds, {key: value for key, value in given.items() if value is not None})
    names = [word.strip() for word in (tasks or "").split(",") if word.strip()]
    base = paths.base_dir()
    folder = find_model(challenger, base).model
    lineage = lineage_of(folder, base)
    counts = {"core_examples": examples, "chat_examples": examples} if examples else {}
    asked = what_is_asked(lineage, names, None, base).changed(**counts)
    await_prefect()
    result = promotion.promote(
        challenger or str(folder), name, alias, asked.spec, thresholds, tasks=tasks_for(lineage, asked)
    )
    if result.rows:
        console.print(terminal_table(rule(thresholds), result.rows))
    tell(result.headline)
    if not result.is_promoted:
        raise typer.Exit(EXIT_KEPT_OUT)
