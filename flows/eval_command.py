"""`nanochat eval`: measure any model in any of the ways there are, and hold it against another."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows import environment, prefect_server
from flows.field_changes import parse_changes
from flows.terminal import console, in_one_line, tell
from nanochat_core import paths
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.specs import EvaluateSpec, LaunchSpec

NO_TOOL = "none"
DRAWN_AT = 1.0  # temperature of several answers, where none is given


@in_one_line
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="base, mid, sft, rl, models:/NAME@alias, a folder, or a server with OpenAI's API: https://HOST/v1#NAME"
        ),
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            help="with commas: CORE (all 22), tasks of CORE, chat tasks such as GSM8K, bpb, samples; default: as "
            "evaluated last"
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="another model, asked the same: the paired difference of each task")
    ] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="examples of each task; default: as last")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="answers to each question that is not a choice")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="of the answers; default: as last, of several samples 1")
    ] = None,
    tool: Annotated[str | None, typer.Option(help="tool that the model may call: calculator, python, none")] = None,
    allow_unsafe_code: Annotated[
        bool, typer.Option("--allow-unsafe-code", help="run the model's code even where it cannot be shut in")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="a field of the evaluation, for example top_k=20; repeatable"),
    ] = None,
    task_data: Annotated[
        Path | None, typer.Option(help="folder of the stage task_data; default: the model's own, else fetched")
    ] = None,
    nproc_per_node: Annotated[
        int | None, typer.Option(help="processes that compute; default: one for each GPU, or one")
    ] = None,
) -> None:
    """Evaluate a model; what was measured already is reused.

    The API key of a server comes from $NANOCHAT_API_KEY.
    """
    given: dict[str, Any] = {
        "core_examples": examples,
        "chat_examples": examples,
        "num_samples": samples,
        "temperature": temperature,
        "tool": tool,
        "allow_unsafe_code": allow_unsafe_code or None,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    fields |= {"tool": None} if tool == NO_TOOL else {}
    fields |= known_fields(parse_changes(changes or []))
    environment.prepare(paths.base_dir(), is_terminal=True)
    await_prefect = prefect_server.start(paths.base_dir())
    from flows import evaluate_model as evaluation
    from flows.paired_table import terminal_table

    base = paths.base_dir()
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    target = evaluation.find_target(model, base, needs_data=not names)
    asked = evaluation.what_is_asked(target, names, None, base).changed(**fields)
    if asked.spec.num_samples > 1 and not asked.spec.temperature and "temperature" not in fields:
        asked = asked.changed(temperature=DRAWN_AT)
        tell(f"Answers are drawn at temperature {DRAWN_AT:g}: at 0 they would all be the same.")
    await_prefect()
    found = evaluation.evaluate_model(
        model,
        asked.spec,
        names or evaluation.tasks_for(target, asked),
        against,
        str(task_data) if task_data else None,
        LaunchSpec(nproc_per_node=nproc_per_node),
    )
    print_scores(model, found.outcome, evaluation.score_rows(found.outcome))
    if against and found.pairs:
        console.print(terminal_table(found.pairs, evaluation.short_of(model), evaluation.short_of(against)))
    tell(f"Each answer: {found.page}")


def print_scores(model: str, outcome: Any, rows: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table("measured", "value", title=f"{model}: {outcome.folder}", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def known_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields; raises SpecError for those that an evaluation does not have."""
    known = EvaluateSpec.model_fields
    if unknown := [name for name in fields if name not in known]:
        raise SpecError.listing([f"--set: unknown field {name}{did_you_mean(name, known)}" for name in unknown])
    return fields
