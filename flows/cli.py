"""The `nanochat` command. Prefect is imported only when a flow runs, after its environment has been prepared."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from flows import environment, plan_table, prefect_server
from flows.chat_command import chat
from flows.data_cli import data
from flows.eval_command import evaluate
from flows.export_command import export, import_model
from flows.field_changes import parse_changes
from flows.promote_command import promote
from flows.serve_command import serve
from flows.terminal import console, in_one_line, tell
from nanochat_core import paths, recipes
from nanochat_core import plan as planning
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.specs import DataSource, PipelineSpec, with_changes
from nanochat_core.specs import Stage as StageName

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="From raw text to a chat model that answers."
)
app.add_typer(data, name="data")
STAGES: tuple[str, ...] = get_args(StageName)
PARTS = tuple(stage for stage in STAGES if stage != "report")  # those that leave something to be reused

Recipe = Annotated[str, typer.Argument(help=f"one of: {', '.join(recipes.RECIPES)}")]
Data = Annotated[str | None, typer.Option(help="source of the text: local, hub or path; default: the recipe's")]
DataPath = Annotated[
    str | None, typer.Option(help="your text, for --data path: a folder, or a parquet, jsonl, txt or md file")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="a field, for example pretrain.model.depth=6; repeatable")
]
Force = Annotated[list[str] | None, typer.Option(help="a stage to run again although it is done; repeatable")]
Ranks = Annotated[int | None, typer.Option(help="processes that train; default: one for each GPU, or one")]
RunName = Annotated[str | None, typer.Option(help="name of the run and its report; default: recipe, depth and time")]


def build_spec(
    name: str,
    *,
    data: str | None,
    data_path: str | None,
    changes: list[str] | None,
    force: list[str] | None = None,
    nproc_per_node: int | None = None,
    run_name: str | None = None,
) -> PipelineSpec:
    """Return the recipe with the options of the command line in it."""
    options = {"force": force, "launch.nproc_per_node": nproc_per_node, "run_name": run_name}
    given = {field: value for field, value in options.items() if value}
    if precision := os.environ.get("NANOCHAT_DTYPE"):
        given["pretrain.precision"] = precision
    path = os.path.abspath(os.path.expanduser(data_path)) if data_path else None  # stages run in another folder
    spec = with_changes(recipes.recipe(name, data=check_source(data), path=path), parse_changes(changes or []) | given)
    for stage in force or []:
        check_part(stage, spec)
    return spec


def check_source(data: str | None) -> DataSource | None:
    sources = get_args(DataSource)
    if data is not None and data not in sources:
        raise SpecError(f"Unknown --data {data!r}{did_you_mean(data, sources)}.")
    return cast(DataSource | None, data)


def check_part(stage: str, spec: PipelineSpec, usual: Sequence[str] = PARTS) -> None:
    known = (*usual, *(own.name for own in spec.finetune))
    if stage not in known:
        raise SpecError(f"Unknown stage {stage!r}{did_you_mean(stage, known)}.")


def check_runnable(spec: PipelineSpec) -> None:
    """Refuse a spec that cannot run, before Prefect takes its seconds to start."""
    recipes.runnable(spec)


def prepare_prefect() -> Callable[[], None]:
    """Set Prefect's environment and start its server; the result waits for that. Prefect is imported in between."""
    environment.prepare(paths.base_dir(), is_terminal=True)
    return prefect_server.start(paths.base_dir())


@app.command()
@in_one_line
def run(
    recipe: Recipe,
    data: Data = None,
    data_path: DataPath = None,
    changes: Changes = None,
    force: Force = None,
    nproc_per_node: Ranks = None,
    run_name: RunName = None,
) -> None:
    """Run the whole pipeline; what is done already is reused."""
    spec = build_spec(
        recipe,
        data=data,
        data_path=data_path,
        changes=changes,
        force=force,
        nproc_per_node=nproc_per_node,
        run_name=run_name,
    )
    check_runnable(spec)
    await_prefect = prepare_prefect()
    from flows.pipeline import pipeline
    from flows.summary import print_summary

    await_prefect()
    print_summary(pipeline(spec), console)


@app.command()
@in_one_line
def stage(
    stage: Annotated[str, typer.Argument(help=f"one of: {', '.join(STAGES)}, or the name of one in finetune")],
    recipe: Recipe,
    data: Data = None,
    data_path: DataPath = None,
    changes: Changes = None,
    force: Force = None,
    nproc_per_node: Ranks = None,
) -> None:
    """Run one stage, and what it needs and is not there yet; the report, of what is there."""
    spec = build_spec(
        recipe, data=data, data_path=data_path, changes=changes, force=force, nproc_per_node=nproc_per_node
    )
    check_part(stage, spec, STAGES)
    check_runnable(spec)
    await_prefect = prepare_prefect()
    from flows.finetune import finetune
    from flows.pipeline import STAGE_FLOWS
    from flows.summary import stage_table
    from flows.write_report import write_report

    await_prefect()
    if stage == "report":
        console.print(f"Report: {write_report(spec) / 'report.md'}", soft_wrap=True)
    else:
        console.print(stage_table(STAGE_FLOWS[stage](spec) if stage in PARTS else finetune(spec, stage)))


@app.command()
@in_one_line
def sweep(
    recipe: Recipe,
    depths: Annotated[str, typer.Option(help="layers of the models, for example 2,3,4,6")],
    kind: Annotated[str, typer.Option(help="isoflop: every depth at every budget; miniseries: every depth once")] = (
        "isoflop"
    ),
    budgets: Annotated[str | None, typer.Option(help="FLOPs of one model, for example 1e12,3e12 (isoflop)")] = None,
    data: Data = None,
    data_path: DataPath = None,
    changes: Changes = None,
    run_name: RunName = None,
) -> None:
    """Train many sizes of a recipe's model and fit scaling laws; what is done already is reused.

    --set counted=total (or matrices_and_head) says which parameters are N, --set with_core=true measures CORE too.
    """
    from flows import sweep_command

    own, rest = sweep_command.split_changes(changes or [])
    base = build_spec(recipe, data=data, data_path=data_path, changes=rest, run_name=run_name)
    spec = sweep_command.sweep_spec(base, kind=kind, depths=depths, budgets=budgets, own=parse_changes(own))
    await_prefect = prepare_prefect()
    from flows.sweep import sweep as sweep_flow

    await_prefect()
    sweep_command.print_sweep(sweep_flow(spec), console)


@app.command()
@in_one_line
def up(
    host: Annotated[
        str, typer.Option(help="address to listen on; other than loopback, anybody there may start runs")
    ] = ("127.0.0.1"),
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="port of Prefect's server and UI")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="port of MLflow's server and UI")] = 5000,
) -> None:
    """Start Prefect's server, MLflow's server and a worker on this node; they run until `nanochat down`."""
    environment.prepare(paths.base_dir(), is_terminal=True)
    from flows.node import addresses
    from flows.node import up as node_up

    asked = addresses.describe(paths.base_dir(), host=host, prefect_port=prefect_port, mlflow_port=mlflow_port)
    node = node_up.up(asked, tell)
    console.print(f"Prefect: {node.prefect.url}", soft_wrap=True)
    console.print(f"MLflow:  {node_up.experiment_page(node)}", soft_wrap=True)
    console.print(f"Logs:    {node.folder}", soft_wrap=True)


@app.command()
@in_one_line
def down() -> None:
    """Stop what `nanochat up` started, and the runs on this node, which save first."""
    from flows.node import up as node_up

    was_up = node_up.down(paths.base_dir(), tell)
    console.print("Down." if was_up else "Nothing was up.")


@app.command()
@in_one_line
def join(
    idle_minutes: Annotated[
        float | None, typer.Option(min=0.0, help="end when nothing was announced for so long; default: never")
    ] = None,
) -> None:
    """Train along with another machine: run this on every node but the first, with launch.mode=multinode there."""
    from flows import multinode

    multinode.join(
        paths.base_dir(), idle_minutes=idle_minutes, tell=lambda line: console.print(line, soft_wrap=True, markup=False)
    )


@app.command()
@in_one_line
def plan(
    recipe: Recipe,
    data: Data = None,
    data_path: DataPath = None,
    changes: Changes = None,
    hardware: Annotated[str | None, typer.Option(help="GPUs to plan for, like 8xH100; default: this machine")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs: one JSON object")] = False,
) -> None:
    """Show what a recipe takes: every derived number, memory, time and cost. Nothing is run."""
    numbers = planning.plan(build_spec(recipe, data=data, data_path=data_path, changes=changes), hardware)
    if as_json:
        typer.echo(json.dumps(numbers, indent=1))
        return
    title = f"{recipe}: {(recipes.RECIPES[recipe].__doc__ or '').strip()}"
    console.print(plan_table.table_of(numbers, title))
    for note in numbers["notes"]:
        tell(f"Note: {note}")


@app.command()
@in_one_line
def compare(
    runs: Annotated[
        list[str] | None, typer.Argument(help="names or MLflow ids of runs, or artifact folders; default: the newest 2")
    ] = None,
    by: Annotated[str, typer.Option(help="what the curves are over: steps, tokens, flops or seconds")] = "steps",
    html: Annotated[Path | None, typer.Option(help="also write one HTML page with all curves to this file")] = None,
) -> None:
    """Compare runs: the parameters that differ, the results, the curves. Works without a server, too."""
    environment.prepare(paths.base_dir(), is_terminal=True)
    from flows import compare as comparison

    comparison.check_axis(by)
    found, trouble = comparison.find_runs(paths.base_dir(), runs or [])
    comparison.print_comparison(found, by, console)
    if trouble:
        console.print(f"Note: MLflow was not asked: {trouble}", markup=False)
    if html:
        comparison.write_page(found, by, html)
        console.print(f"Page: {html}", soft_wrap=True)


@app.command()
@in_one_line
def doctor(as_json: Annotated[bool, typer.Option("--json", help="for programs: one JSON object")] = False) -> None:
    """Check whether this machine is fit; ends with 1 where something is a problem."""
    from flows import doctor as physician

    findings = physician.examine(paths.base_dir())
    if as_json:
        print(json.dumps(physician.as_json(findings), indent=1))
    else:
        console.print(physician.table_of(findings))
    if not physician.is_fit(findings):
        raise typer.Exit(1)


@app.command()
@in_one_line
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="do it; without this, nothing is touched")] = False,
    keep_runs: Annotated[int, typer.Option(min=0, help="newest runs of each recipe that stay whole")] = 2,
    keep_days: Annotated[float, typer.Option(min=0, help="days for which reports and work stay whole")] = 7.0,
) -> None:
    """Show what the artifacts cost and what nobody needs; --delete prunes it. A pruned stage still counts as done."""
    environment.prepare(paths.base_dir(), is_terminal=True)
    from flows import gc as garbage
    from flows import gc_caches, gc_table

    base, rules = paths.base_dir(), garbage.Rules(keep_runs, keep_days)
    found = garbage.survey(base, rules)
    caches = gc_caches.survey_caches(base, found, rules)
    console.print(gc_table.table_of(found))
    console.print(gc_table.total_line(found))
    for line in gc_table.cache_lines(caches):
        console.print(line, soft_wrap=True)
    if not delete:
        console.print("Nothing was touched: --delete does it.")
        return
    freed = sum(cache.freed for cache in caches)
    for artifact, problem in garbage.collect(base, found):
        freed += 0 if problem else artifact.freed
        if problem:
            console.print(f"Left alone: {artifact.folder}: {problem}", markup=False, soft_wrap=True)
    for cache in gc_caches.survey_caches(base, found, rules):  # files whose last other name went just now go with it
        gc_caches.sweep(cache)
    console.print(f"Freed {gc_table.size(freed)}.")


app.command("chat")(chat)
app.command("eval")(evaluate)
app.command("export")(export)
app.command("import")(import_model)
app.command("promote")(promote)
app.command("serve")(serve)

if __name__ == "__main__":
    app()
