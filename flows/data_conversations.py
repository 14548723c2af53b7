"""Conversations as `nanochat data show` prints them: what of each is learned, and what is only read.

Of a finished stage (conversations_sft, …) the ids and masks that it wrote are shown, by its tokenizer; of a file of the
user's own, what rendering would make of it.
"""

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from flows.left_out import left_out_in_words
from flows.terminal import append_visible, console, tell
from nanochat_core import artifacts, paths
from nanochat_core.chat_format import Stretch, stretches
from nanochat_core.data.own.bad_lines import BadLines
from nanochat_core.data.own.conversation_formats import imported
from nanochat_core.data.own.conversation_reader import KINDS, kind_of, values_of
from nanochat_core.errors import DataError

RENDERED = ("messages", "source", "ids", "mask")
PREFIX = "conversations_"
LEARNED, READ = "green", "default"
MARKS = ("⟦", "⟧")  # around what is learned, where there are no colours
LEGEND = "Green is learned; the rest is only read. A stage with mask none learns all of it."
LEGEND_WITHOUT_COLOURS = LEGEND.replace("Green", "What stands between ⟦ and ⟧")


class FoundConversation(NamedTuple):
    """One conversation, where it stands, and how long it is in tokens, if that is known."""

    place: str
    found: list[Stretch]
    tokens: int | None = None


def conversation_place(place: Path, column: str) -> Path | None:
    """Return the file with conversations that `place` means, or None where it means text.

    `place` may name a stage of the newest run (sft, conversations_sft), its folder, one of its files, or a file of
    conversations in any of the known formats. A file whose lines have the field `column` is text.
    """
    if not place.exists():
        folder = _of_newest_run(place.name) if place.parent == Path() else None
        return folder / "train.parquet" if folder else None
    if (place / "train.parquet").is_file():
        place = place / "train.parquet"
    if place.is_file() and place.suffix == ".parquet" and _is_rendered(place):
        return place
    return place if place.is_file() and kind_of(place) in KINDS and _holds_conversations(place, column) else None


def _of_newest_run(name: str) -> Path | None:
    """Return the folder of the newest run's conversations for a stage, where there are any."""
    from flows.pipeline_run import NEWEST  # imports Prefect

    newest = paths.base_dir() / NEWEST
    folders: dict[str, str] = artifacts.read_json(newest)["folders"] if newest.exists() else {}
    own = folders.get(f"{PREFIX}{name.removeprefix(PREFIX)}")
    return paths.artifacts_dir(paths.base_dir()) / own if own else None


def _is_rendered(path: Path) -> bool:
    try:
        return set(RENDERED) <= set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return False


def _holds_conversations(path: Path, column: str) -> bool:
    """Return whether the first of what can be read in a file is a conversation."""
    try:
        for _, value in islice(values_of(path), 20):
            if isinstance(value, dict) and column in value and not {"messages", "instruction"} & set(value):
                return column == "text" and "<|start|>" in str(value[column])
            try:
                imported(value)
            except DataError:
                continue
            return True
    except DataError:
        pass
    return False


def show_conversations(
    path: Path, *, number: int, seed: int | None, characters: int, source: str | None, bad: BadLines
) -> None:
    """Print conversations of a file: the first, or some chosen by `seed`, of one task where `source` names it."""
    if _is_rendered(path):
        _tell_counts(path)
        chosen = list(_rendered(path, number=number, seed=seed, source=source))
    elif source:
        raise DataError(f"{path} does not say which task a conversation is from: leave --source out.")
    else:
        found = _own(path, bad)
        chosen = list(islice(found, number)) if seed is None else _sample(found, number, seed)
    if not chosen:
        of_it = f" of {source!r}" if source else ""
        raise DataError(f"{path} holds not one conversation{of_it}. {'; '.join(bad.first)}".rstrip())
    for conversation in chosen:
        console.print(_panel(conversation, characters, console))
    tell(LEGEND if console.color_system else LEGEND_WITHOUT_COLOURS)


def _tell_counts(path: Path) -> None:
    """Say what is in the stage's file as a whole, where the stage has said so."""
    result, part = path.parent / "result.json", path.stem
    details = artifacts.read_json(result).get("details", {}).get(part) if result.is_file() else None
    if not details:
        return
    tasks = ", ".join(f"{name} {rows:,}" for name, rows in details["tasks"].items())
    share = details["learned_tokens"] / max(1, details["tokens"])
    tell(f"{part}: {details['rows']:,} conversations, {details['tokens']:,} tokens, {share:.0%} learned; {tasks}.")
    if left_out := details.get("left_out"):
        tell(f"Left out by curation: {details['left_out_rows']:,}; {left_out_in_words(left_out)}.")


def _rendered(path: Path, *, number: int, seed: int | None, source: str | None) -> Iterator[FoundConversation]:
    """Yield rows of a stage's file, decoded with the stage's tokenizer."""
    from nanochat_core.tokenizer.bpe import Tokenizer  # takes its time
    from nanochat_core.tokenizer.parse import runs

    if not (path.parent / "spec.json").is_file():
        raise DataError(
            f"{path} is not where its stage wrote it, beside spec.json, which names the tokenizer: show that."
        )
    request = artifacts.StageFolder(path.parent)
    tokenizer = Tokenizer.load(request.input("tokenizer"))
    sources = pq.read_table(path, columns=["source"])["source"].to_pylist()
    rows = [row for row, name in enumerate(sources) if source in (None, name)]
    if source and not rows:
        raise DataError(f"{path} has no conversation of {source!r}; it has {', '.join(sorted(set(sources)))}.")
    if seed is not None:
        rows = sorted(random.Random(seed).sample(rows, min(number, len(rows))))
    for row, value in _rows_of(path, rows[:number]):
        found = list(runs(tokenizer, value["ids"], value["mask"]))
        yield FoundConversation(f"{path.name}, row {row}, {value['source']}", found, len(value["ids"]))


def _rows_of(path: Path, rows: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows by their numbers, which rise; only row groups that hold one are read."""
    first, left = 0, list(rows)
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            here = [row for row in left if row < end]
            if here:
                table = file.read_row_group(group, columns=list(RENDERED)).take([row - first for row in here])
                yield from zip(here, table.to_pylist(), strict=True)
            left, first = left[len(here) :], end


def _own(path: Path, bad: BadLines) -> Iterator[FoundConversation]:
    """Yield the conversations of a file of the user's own; what is bad goes to `bad`."""
    for place, value in values_of(path):
        where = place.removeprefix(":").removeprefix(", ") or "the file"
        where = f"line {where}" if where.isdigit() else where
        try:
            if isinstance(value, DataError):
                raise value
            name, conversation = imported(value)
        except DataError as error:
            bad.add(path, where, str(error))
        else:
            yield FoundConversation(f"{path.name}, {where}, {name}", list(stretches(conversation)))


def _sample(found: Iterable[FoundConversation], number: int, seed: int) -> list[FoundConversation]:
    """Return `number` of the conversations, in their order."""
    every = list(found)
    rng = random.Random(seed)
    return [every[index] for index in sorted(rng.sample(range(len(every)), min(number, len(every))))]


def _panel(conversation: FoundConversation, characters: int, shown_on: Console) -> Panel:
    text, left = Text(), characters
    for stretch in conversation.found:
        shown = stretch.text[:left]
        before, after = MARKS if stretch.is_learned and not shown_on.color_system else ("", "")
        style = LEARNED if stretch.is_learned else READ
        text.append(before)
        append_visible(text, shown, f"{style} dim" if stretch.is_special else style)
        text.append(after)
        left -= len(shown)
        if stretch.text in ("<|user_end|>", "<|assistant_end|>", "<|bos|>") and stretch.is_special:
            text.append("\n")
        if left <= 0:
            break
    rest = sum(len(stretch.text) for stretch in conversation.found) - characters
    subtitle = f"… {rest:,} characters more" if rest > 0 else None
    size = f", {conversation.tokens:,} tokens" if conversation.tokens else ""
    text.rstrip()
    return Panel(text, title=Text(conversation.place + size, style="cyan"), subtitle=subtitle, title_align="left")
