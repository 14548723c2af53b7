"""The gallery: what each model says to the same few questions, side by side, on a page and in a terminal.

The content is what tasks_eval/gallery.py left in gallery.json; report.json has it as {model: gallery}.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.report.layout import Answer, Question, Said, Section, visible
from nanochat_core.artifacts import read_json

if TYPE_CHECKING:
    from rich.table import Table

FILE = "gallery.json"
SHOWN_CHARACTERS = 600  # of an answer
Galleries = Mapping[str, Mapping[str, Any]]


def read_gallery(folder: Path) -> dict[str, Any] | None:
    """Return the gallery of a finished evaluation, None where it has none; raises ArtifactError for a bad file."""
    path = folder / FILE
    return read_json(path) if path.exists() else None


def gallery_section(galleries: Galleries, titles: Mapping[str, str]) -> Section:
    """Return the section; `titles` is {model: what the reader calls it}."""
    questions = [
        Question(visible(prompt), [Answer(titles[model], *map(said, both)) for model, both in found.items()])
        for prompt, found in by_prompt(galleries)
    ]
    note = (
        "What each model says to the same questions, first the likeliest answer, then one drawn at random. A base "
        "model goes on with the question as it would with any text."
    )
    return Section("The same questions, stage by stage", note=note, gallery=questions)


def by_prompt(galleries: Galleries) -> Iterator[tuple[str, dict[str, tuple[Mapping[str, str], Mapping[str, str]]]]]:
    """Yield (prompt, {model: (greedy answer, sampled answer)}) in order of the prompts."""
    rows = {
        model: {row["prompt"]: (row["greedy"], row["sampled"]) for row in gallery["answers"]}
        for model, gallery in galleries.items()
    }
    for prompt in dict.fromkeys(prompt for answers in rows.values() for prompt in answers):
        yield prompt, {model: answers[prompt] for model, answers in rows.items() if prompt in answers}


def said(answer: Mapping[str, str]) -> Said:
    """Return an answer as it is shown, and what is to be said about it.

    >>> said({"text": " ", "finish_reason": "stop"}).remark, said({"text": "I am", "finish_reason": "length"}).remark
    ('says nothing', 'cut off')
    """
    text = answer["text"].strip()
    remarks = ["says nothing"] if not text else []
    if len(text) > SHOWN_CHARACTERS:
        remarks.append(f"the first {SHOWN_CHARACTERS:,} of {len(text):,} characters")
    if answer["finish_reason"] == "length":
        remarks.append("cut off")
    return Said(visible(text[:SHOWN_CHARACTERS]), ", ".join(remarks))


def terminal_gallery(galleries: Galleries) -> "Table":
    """Return the likeliest answers as a table for a terminal: a row a question, a column a model."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="The same questions", title_justify="left", show_lines=True)
    for column in ("question", *galleries):
        table.add_column(Text(column), overflow="fold")
    for prompt, found in by_prompt(galleries):
        answers = [said(found[model][0]) if model in found else Said("", "not asked") for model in galleries]
        cells = [Text.assemble(" ".join(own.text.split()), (own.note, "dim")) for own in answers]
        table.add_row(Text(visible(prompt)), *cells)
    return table
