"""How a report is laid out: sections -> report.md and report.html, in the same words.

A section is a heading with key/value facts, a table, plots, samples, a gallery and a table of examples, each of them
optional; the files in `templates/` only lay them out. The HTML page carries its style, its plots, its script and its
data, and asks no server for anything: its policy forbids it, and lets no other script run.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Protocol
from unicodedata import category

from jinja2 import Environment, PackageLoader, StrictUndefined

NOTHING = "–"
SCRIPT = "examples.js"
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories of controls, formats, halves, and breaks
PLAIN = "\n\t\u200c\u200d"  # of these, what belongs to writing: the last two join letters and emoji


@dataclass(frozen=True)
class Sample:
    """What a model said to a prompt."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Said:
    """What a model said, ready to show, and what is to be said about that."""

    text: str
    remark: str = ""

    @property
    def note(self) -> str:
        """The remark as it follows the text."""
        return f" ({self.remark})" if self.remark else ""


@dataclass(frozen=True)
class Answer:
    """One model's likeliest answer to a question, and one that was drawn."""

    model: str
    greedy: Said
    sampled: Said


@dataclass(frozen=True)
class Question:
    """A question that several models were asked."""

    prompt: str
    answers: Sequence[Answer]


class Picture(Protocol):
    """What a page needs to know of a plot beside its SVG."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...


class ExampleTable(Protocol):
    """What a page needs to know of a table of answers: its packed content, and the page beside it that has more."""

    @property
    def data(self) -> str: ...
    @property
    def page(self) -> str: ...


@dataclass(frozen=True)
class Section:
    """One heading of the report and what stands below it; every cell is text, ready to show. Remarks are sentences."""

    title: str
    note: str = ""
    remarks: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    plots: Sequence[Picture] = ()
    samples: Sequence[Sample] = ()
    gallery: Sequence[Question] = ()
    examples: ExampleTable | None = None

    @property
    def has_content(self) -> bool:
        shown = (self.facts, self.rows, self.plots, self.samples, self.gallery, self.examples, self.remarks)
        return any(map(bool, shown))


def lay_out(
    title: str, headlines: Mapping[str, str], sections: Sequence[Section], pictures: Mapping[str, str]
) -> dict[str, str]:
    """Return report.md, report.html and the files of the pictures, by relative path; `pictures` is {name: SVG}."""
    context = {"title": title, "headlines": headlines, "sections": sections, "pictures": pictures}
    pages = {name: lay_out_page(name, context) for name in ("report.md", "report.html")}
    return pages | {f"plots/{name}.svg": picture for name, picture in pictures.items()}


def lay_out_page(name: str, context: Mapping[str, Any]) -> str:
    """Return the text of one page, report.md or report.html. At most one section may have examples."""
    environment = Environment(
        loader=PackageLoader("flows.report", "templates"),
        autoescape=lambda name: name is not None and name.startswith("report.html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": markdown_cell, "quoted": markdown_quote}
    has_examples = any(section.examples for section in context["sections"])
    script = resources.files("flows.report").joinpath("templates", SCRIPT).read_text("utf-8") if has_examples else ""
    shared = {"script": script, "script_hash": content_hash(script)}
    return environment.get_template(f"{name}.j2").render(**context, **shared)


def content_hash(script: str) -> str:
    """Return what a content security policy calls a script by: it runs that text and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def shown(value: Any) -> str:
    """Return a value as the report writes it: thousands grouped, four significant digits, a dash for nothing.

    >>> shown(1_310_720), shown(0.123456), shown(5230.7), shown(4.1e19), shown(None)
    ('1,310,720', '0.1235', '5,231', '4.1e+19', '–')
    """
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
    return str(value)


def duration(seconds: float | None) -> str:
    """Return a time as people say it.

    >>> duration(14.2), duration(75), duration(13_860)
    ('14 s', '1 min 15 s', '3 h 51 min')
    """
    if seconds is None:
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def visible(text: str) -> str:
    """Return text in which nothing steers a terminal or a page: control and direction characters are spelled out.

    >>> print(visible("a" + chr(27) + "[2Jb" + chr(0x202E) + "c"))
    a\\x1b[2Jb\\u202ec
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if character not in PLAIN and category(character) in UNSEEN
        else character
        for character in text
    )


def markdown_cell(text: str) -> str:
    """Return text that cannot break a Markdown table."""
    return text.replace("|", r"\|").replace("\n", " ")


def markdown_quote(text: str) -> str:
    """Return text as code within a quotation, so that what a model wrote is shown and never rendered."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
