"""`nanochat data`: look at a text before, or after, something is trained on it; make pairs of a model's answers."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from flows import environment, prefect_server
from flows.data_conversations import conversation_place, show_conversations
from flows.field_changes import parse_changes
from flows.terminal import append_visible, console, in_one_line, tell
from nanochat_core import artifacts, paths
from nanochat_core.data.own.bad_lines import BadLines
from nanochat_core.data.own.file_splits import SPLITS
from nanochat_core.data.own.text_places import FoundText, found_texts, left_alone, text_files
from nanochat_core.data.own.text_stats import TextStats
from nanochat_core.errors import ArtifactError, DataError
from nanochat_core.preference_specs import SampledPairsSpec
from nanochat_core.specs import parse_params

data = typer.Typer(
    no_args_is_help=True, help="Look at text: your files, or what a run has downloaded; or make pairs of answers."
)

BAR_WIDTH = 40
Places = Annotated[
    list[Path] | None,
    typer.Argument(help="folders or files (parquet, jsonl, txt, md; .gz, .zst); default: the newest download"),
]
ShownPlaces = Annotated[
    list[Path] | None,
    typer.Argument(
        help="folders or files of text, as for stats; or conversations: a stage of the newest run (sft, midtrain, rl), "
        "its folder, or a file of your own (jsonl, json, parquet, txt); default: the newest download"
    ),
]
Column = Annotated[str, typer.Option(help="column or field that holds the documents")]


@data.command()
@in_one_line
def stats(
    places: Places = None,
    column: Column = "text",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Count documents, characters, lengths, duplicates, scripts, and what cannot be read."""
    places = _places(places)
    files, bad, found = text_files(places), BadLines(), TextStats()
    for document in _with_progress(files, bad, column=column):
        found.add(document.text)
    _refuse_nothing(found.documents, bad)
    others = left_alone(places)
    if as_json:
        counts = {"files": len(files), "other_files": len(others), "bad_lines": bad.count, "first_bad_lines": bad.first}
        typer.echo(json.dumps(found.as_dict() | counts))
    else:
        _print_stats(found, files)
        _tell_others(others)
        _tell_bad(bad)


@data.command()
@in_one_line
def show(
    places: ShownPlaces = None,
    number: Annotated[int, typer.Option(min=1, help="how many documents or conversations")] = 5,
    seed: Annotated[int | None, typer.Option(help="choose them at random by this seed; default: the first")] = None,
    column: Column = "text",
    characters: Annotated[int, typer.Option(min=1, help="how much of each")] = 1000,
    source: Annotated[str | None, typer.Option(help="conversations of this task only")] = None,
) -> None:
    """Print documents, or conversations: what of each is learned. Control characters are made visible."""
    bad = BadLines()
    found = [conversation_place(place.expanduser(), column) for place in places or []]
    if conversations := [path for path in found if path]:
        if None in found:
            raise DataError("Some of these places hold conversations, some hold text: show one kind at a time.")
        for path in conversations:
            show_conversations(path, number=number, seed=seed, characters=characters, source=source, bad=bad)
        return _tell_bad(bad)
    if source:
        raise DataError("Only conversations are of a task: leave --source out, or name a stage, for example sft.")
    files = text_files(_places(places))
    if seed is None:
        chosen = list(islice(found_texts(files, bad, column=column), number))
    else:
        chosen = _sample(_with_progress(files, bad, column=column), number, seed)
    _refuse_nothing(len(chosen), bad)
    for document in chosen:
        console.print(_panel(document, characters))
    _tell_bad(bad)


@data.command()
@in_one_line
def pairs(
    model: Annotated[str, typer.Argument(help="base, mid, sft, dpo, rl, models:/NAME@alias, or a folder")],
    tasks: Annotated[str, typer.Option(help="whose questions, with commas: for example Arithmetic,GSM8K")],
    out: Annotated[Path, typer.Option(help="the file to write (jsonl)")] = Path("pairs.jsonl"),
    questions: Annotated[int, typer.Option(min=10, help="how many questions, of all tasks together")] = 1000,
    samples: Annotated[int, typer.Option(min=1, help="answers to each question")] = 8,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="another field, for example temperature=0.7; repeatable")
    ] = None,
) -> None:
    """Write pairs of reference answers and a model's own wrong ones, for dpo.preferences.path."""
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    held_out = questions // 10
    rows = -(-(questions - held_out) // max(1, len(names)))
    mixture = {"mixture": [{"task": name, "rows": rows} for name in names], "validation_rows": held_out}
    fields = {"conversations": mixture, "samples_per_question": samples} | parse_changes(changes or [])
    sampled = parse_params(SampledPairsSpec, fields)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise DataError(f"--out {out}: expected the name of a file, in a folder that is there.")
    environment.prepare(paths.base_dir(), is_terminal=True)
    await_prefect = prefect_server.start(paths.base_dir())
    from flows.model_pairs import model_pairs

    await_prefect()
    found = model_pairs(model, sampled)
    artifacts.write_bytes(out.absolute(), b"".join((found.folder / f"{split}.jsonl").read_bytes() for split in SPLITS))
    count = found.metrics["train_pairs"] + found.metrics["test_pairs"]
    console.print(f"{count:,} pairs of {found.metrics['questions']:,} questions: {out}", soft_wrap=True, markup=False)


def _places(places: list[Path] | None) -> list[Path]:
    """Return what was asked for, or the newest run's download."""
    if places:
        return [place.expanduser() for place in places]
    from flows.pipeline_run import NEWEST  # imports Prefect

    base = paths.base_dir()
    newest = base / NEWEST
    folders: dict[str, str] = artifacts.read_json(newest)["folders"] if newest.exists() else {}
    if "download" not in folders:
        raise ArtifactError(f"Nothing has been downloaded to {base} yet: name a folder or a file.")
    return [paths.artifacts_dir(base) / folders["download"]]


def _with_progress(files: list[Path], bad: BadLines, *, column: str) -> Iterator[FoundText]:
    """Yield the documents; on a terminal, standard error shows a bar of the files and the number of documents."""
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        reading = progress.add_task("Reading", total=len(files))
        for done, file in enumerate(files):
            for index, document in enumerate(found_texts([file], bad, column=column)):
                yield document
                if index % 1000 == 0:
                    progress.update(reading, completed=done, description=f"{file.name}: {index:,} documents")


def _sample(documents: Iterable[FoundText], number: int, seed: int) -> list[FoundText]:
    """Return `number` of the documents, each equally likely, in their order (reservoir sampling, Vitter 1985)."""
    rng = random.Random(seed)
    chosen: dict[int, tuple[int, FoundText]] = {}
    for index, document in enumerate(documents):
        slot = index if index < number else rng.randrange(index + 1)
        if slot < number:
            chosen[slot] = (index, document)
    return [document for _, document in sorted(chosen.values(), key=lambda item: item[0])]


def _refuse_nothing(documents: int, bad: BadLines) -> None:
    """End as a mistake does where there is not one document."""
    if not documents:
        why = f"{'; '.join(bad.first)}{bad.more}" if bad.count else "the files are empty"
        raise DataError(f"Not one document was found: {why}. Name other files, or another field with --column.")


def _tell_bad(bad: BadLines) -> None:
    for line in bad.first:
        tell(f"bad: {line}")
    if bad.more:
        tell(f"bad: {bad.more.removeprefix('; ')}")


def _tell_others(others: list[Path]) -> None:
    """Say which files were left alone, by the ends of their names."""
    kinds = Counter(path.suffix or "no suffix" for path in others)
    if kinds:
        tell(
            f"Files of other kinds, not read: {', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common())}."
        )


def _panel(document: FoundText, characters: int) -> Panel:
    text = Text()
    append_visible(text, document.text[:characters])
    left = len(document.text) - characters
    subtitle = f"… {left:,} characters more" if left > 0 else None
    title = f"{document.file.name}, {document.place}, {len(document.text):,} characters"
    return Panel(text, title=Text(title, style="cyan"), subtitle=subtitle, title_align="left")


def _print_stats(found: TextStats, files: list[Path]) -> None:
    facts = found.as_dict()
    length = facts["length"]
    console.print(_table([(name, value) for name, value in _facts(facts, len(files))]))
    tell(
        f"Characters in a document: {length['min']:,} to {length['max']:,}, median {length['median']:,.0f}, "
        f"mean {length['mean']:,.0f}, 95 % have at most {length['p95']:,.0f}."
    )
    most = max((bin["documents"] for bin in facts["histogram"]), default=1)
    bins = Table("characters", "documents", "", box=None)
    for bin in facts["histogram"]:
        bar = "█" * max(1 if bin["documents"] else 0, round(BAR_WIDTH * bin["documents"] / most))
        bins.add_row(f"{bin['from']:,} to {bin['to']:,}", f"{bin['documents']:,}", bar)
    console.print(bins)
    scripts = ", ".join(f"{name} {share:.1%}" for name, share in facts["scripts"].items() if share >= 0.0005)
    tell(f"Letters by script: {scripts or 'none'}.")


def _facts(facts: dict[str, Any], files: int) -> Iterator[tuple[str, str]]:
    yield "files", f"{files:,}"
    for name in ("documents", "characters", "bytes", "empty", "near_empty", "duplicates"):
        yield name.replace("_", " "), f"{facts[name]:,}"
    yield "duplicates but for case and blanks", f"{facts['duplicates_but_for_case_and_blanks']:,}"
    for name in ("digits", "punctuation", "blanks"):
        yield f"{name}, share of characters", f"{facts[f'{name}_share']:.1%}"


def _table(rows: list[tuple[str, str]]) -> Table:
    table = Table("", "", box=None, show_header=False)
    for name, value in rows:
        table.add_row(name, Text(value, justify="right"))
    return table
