"""`nanochat data stats` and `nanochat data show`: look at a text before, or after, something is trained on it."""

import json
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.panel import Panel
from rich.progress import Progress, track
from rich.table import Table
from rich.text import Text

from flows.terminal import console, in_one_line, tell
from nanochat_core import artifacts, paths
from nanochat_core.data.own.bad_lines import BadLines
from nanochat_core.data.own.text_places import FoundText, found_texts, text_files
from nanochat_core.data.own.text_stats import TextStats
from nanochat_core.errors import ArtifactError

data = typer.Typer(no_args_is_help=True, help="Look at text: your files, or what a run has downloaded.")

BAR_WIDTH = 40
Places = Annotated[
    list[Path] | None,
    typer.Argument(help="folders or files (parquet, jsonl, txt, md; .gz, .zst); default: the newest download"),
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
    files, bad, found = text_files(_places(places)), BadLines(allowed=0), TextStats()
    for file in track(files, "Reading", console=console, transient=True, disable=as_json):
        for document in found_texts([file], bad, column=column):
            found.add(document.text)
    if as_json:
        typer.echo(json.dumps(found.as_dict() | {"files": len(files), "bad_lines": bad.count}, ensure_ascii=False))
        return
    _print_stats(found, files)
    for line in bad.first:
        tell(f"bad: {line}")
    if bad.count > len(bad.first):
        tell(f"… and {bad.count - len(bad.first)} more bad lines")


@data.command()
@in_one_line
def show(
    places: Places = None,
    number: Annotated[int, typer.Option(min=1, help="how many documents")] = 5,
    seed: Annotated[int | None, typer.Option(help="choose them at random by this seed; default: the first")] = None,
    column: Column = "text",
    characters: Annotated[int, typer.Option(min=1, help="how much of each")] = 1000,
) -> None:
    """Print documents, with where they stand. Control characters are made visible."""
    bad = BadLines()
    found = found_texts(text_files(_places(places)), bad, column=column)
    for document in list(islice(found, number)) if seed is None else _sample(found, number, seed):
        console.print(_panel(document, characters))
    if bad.count:
        tell(f"{bad.count} lines could not be read; `nanochat data stats` lists them.")


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


def _sample(documents: Iterable[FoundText], number: int, seed: int) -> list[FoundText]:
    """Return `number` of the documents, each equally likely, in their order (reservoir sampling, Vitter 1985)."""
    rng = random.Random(seed)
    chosen: dict[int, tuple[int, FoundText]] = {}
    with Progress(console=console, transient=True) as progress:
        reading = progress.add_task("Reading", total=None)
        for index, document in enumerate(documents):
            slot = index if index < number else rng.randrange(index + 1)
            if slot < number:
                chosen[slot] = (index, document)
            if index % 1000 == 0:
                progress.update(reading, description=f"Read {index:,} documents")
    return [document for _, document in sorted(chosen.values(), key=lambda item: item[0])]


def _panel(document: FoundText, characters: int) -> Panel:
    text = Text()
    for character in document.text[:characters]:
        if character in "\n\t" or character.isprintable():
            text.append(character)
        else:
            text.append(f"\\x{ord(character):02x}", style="reverse red")
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
