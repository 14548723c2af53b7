"""`nanochat eval`: measure any model in any of the ways there are, and hold it against another."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import environment, prefect_server
from flows.field_changes import nested, parse_changes
from flows.terminal import console, in_one_line, tell
from nanochat_core import paths
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.specs import EvaluateSpec, LaunchSpec, parse_params

if TYPE_CHECKING:
    from flows.stage import StageOutcome

NO_TOOL, TASK_DATA, AGAIN = "none", "task_data", "again"
DRAWN_AT = 1.0  # temperature of several answers, where none is given


ModelHelp = typer.Argument(
    help="base, mid, sft, rl, a stage of finetune, models:/NAME@alias, a folder, or a server with OpenAI's API: https://HOST/v1#NAME"
)
TasksHelp = typer.Option(
    help="with commas: CORE (all 22), tasks of CORE, chat tasks such as GSM8K, bpb, samples; default: as evaluated last"
)
SetHelp = typer.Option(
    "--set",
    help="a field of the evaluation, say temperature=0.7; task_data=FOLDER; launch.nproc_per_node=2; again=true "
    "(measure anew); repeatable",
)


@in_one_line
def evaluate(
    model: Annotated[str, ModelHelp],
    tasks: Annotated[str | None, TasksHelp] = None,
    against: Annotated[
        str | None, typer.Option(help="another model, asked the same: the paired difference of each task")
    ] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="examples of each task; default: as last")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="answers to each question that is not a choice")] = None,
    tool: Annotated[str | None, typer.Option(help="tool that the model may call: calculator, python, none")] = None,
    allow_unsafe_code: Annotated[
        bool, typer.Option("--allow-unsafe-code", help="run the model's code even where it cannot be shut in")
    ] = False,
    changes: Annotated[list[str] | None, SetHelp] = None,
) -> None:
    """Evaluate a model; what was measured already is reused.

    The API key of a server comes from $NANOCHAT_API_KEY.
    """
    settings = settings_of(parse_changes(changes or []))
    given = {"core_examples": examples, "chat_examples": examples, "num_samples": samples, "tool": tool}
    given["allow_unsafe_code"] = allow_unsafe_code or None
    fields = {name: value for name, value in given.items() if value is not None} | settings.fields
    fields |= {"tool": None} if tool == NO_TOOL else {}
    environment.prepare(paths.base_dir(), is_terminal=True)
    await_prefect = prefect_server.start(paths.base_dir())
    from flows import evaluate_model as evaluation
    from flows.evaluation.paired_table import terminal_table

    base = paths.base_dir()
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    target = evaluation.find_target(model, base, needs_data=not names)
    asked = evaluation.what_is_asked(target, names, None, base).changed(**fields)
    if asked.spec.num_samples > 1 and not asked.spec.temperature and "temperature" not in fields:
        asked = asked.changed(temperature=DRAWN_AT)
        tell(f"Answers are drawn at temperature {DRAWN_AT:g}: at 0 they would all be the same.")
    tell(settings_line(asked.spec))
    await_prefect()
    named = names or evaluation.tasks_for(target, asked)
    found = evaluation.evaluate_model(
        model, asked.spec, named, against, settings.task_data, settings.launch, settings.again
    )
    tell(f"{model}: {found.outcome.folder}")
    print_scores(evaluation.score_rows(found.outcome.metrics, evaluation.scores_of(found.outcome)))
    outcomes = {evaluation.short_of(model): found.outcome}
    if against and found.other:
        rival = evaluation.short_of(against)
        outcomes[rival if against != model else f"{rival} (the other)"] = found.other
    print_gallery(outcomes)
    if against and found.pairs:
        console.print(terminal_table(found.pairs, evaluation.short_of(model), evaluation.short_of(against)))
    tell(f"Each answer: {found.page}")


def settings_line(spec: EvaluateSpec) -> str:
    """Return how questions are asked: much of it may be as it was last, and nobody has said it today.

    >>> settings_line(EvaluateSpec(chat_examples=20, num_samples=4, temperature=1.0))
    '20 examples of chat tasks, 500 of CORE; 4 answers each, temperature 1, at most 512 tokens, tool calculator'
    """
    examples = spec.chat_examples or "all"
    return (
        f"{examples} examples of chat tasks, {spec.core_examples} of CORE; {spec.num_samples} answers each, "
        f"temperature {spec.temperature:g}, at most {spec.max_new_tokens} tokens, tool {spec.tool or NO_TOOL}"
    )


def print_scores(rows: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table("measured", "value (95 % interval)")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_gallery(outcomes: "dict[str, StageOutcome]") -> None:
    """Print what the models said to the same questions, where they were asked."""
    from flows.report.evaluation.gallery import read_gallery, terminal_gallery

    found = {name: gallery for name, outcome in outcomes.items() if (gallery := read_gallery(outcome.folder))}
    if found:
        console.print(terminal_gallery(found))


@dataclass(frozen=True)
class Settings:
    """What `--set` says: fields of the evaluation, the folder of its task data, how it is launched, whether anew."""

    fields: dict[str, Any]
    task_data: str | None
    launch: LaunchSpec
    again: bool


def settings_of(changes: dict[str, Any]) -> Settings:
    """Return the settings; raises SpecError that lists the fields that there are not."""
    values = nested(changes)
    task_data, launch = values.pop(TASK_DATA, None), values.pop("launch", {})
    again = values.pop(AGAIN, False)
    if not isinstance(again, bool):
        raise SpecError(f"--set {AGAIN}={again}: expected true or false.")
    known = [*EvaluateSpec.model_fields, TASK_DATA, AGAIN, "launch"]
    if unknown := [name for name in values if name not in known]:
        raise SpecError.listing([f"--set: unknown field {name}{did_you_mean(name, known)}" for name in unknown])
    return Settings(values, str(task_data) if task_data else None, parse_params(LaunchSpec, launch), again)
