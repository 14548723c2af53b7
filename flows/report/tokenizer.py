"""The report's comparison of vocabularies: bytes per token of ours, GPT-2's and GPT-4's, as a table and as bars.

It is made from `comparison` of the tokenizer stage's result: {"vocabularies": {key: {"title", "size"}}, "from_table":
[key, …], "texts": [{"name", "bytes", "tokens": {key: …}}, …]}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from flows.report.plots import COLORS, bare_axes, drawing

OWN = "own"  # the key of the run's own vocabulary
NOTHING = "–"
BARS_WIDTH = 0.8  # of the space that a text has


@dataclass(frozen=True)
class Bars:
    """One picture: for each text a group of bars, one for each vocabulary; None where there is no number."""

    name: str
    title: str
    texts: Sequence[str]
    heights: Mapping[str, Sequence[float | None]]


def bytes_per_token(text: Mapping[str, Any], vocabulary: str) -> float | None:
    """Return a compared text's bytes for each token of a vocabulary, None where they were not counted."""
    tokens = text["tokens"].get(vocabulary)
    return text["bytes"] / tokens if tokens else None


def comparison_table(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table."""
    vocabularies = comparison["vocabularies"]
    others = [key for key in vocabularies if key != OWN]
    columns = ["text", "bytes", *(f"{known['title']} ({known['size']:,})" for known in vocabularies.values())]
    columns += [f"ours to {vocabularies[key]['title']}" for key in others]
    rows = []
    for text in comparison["texts"]:
        found = {key: bytes_per_token(text, key) for key in vocabularies}
        cells = [NOTHING if value is None else f"{value:.2f}" for value in found.values()]
        gains = [gain(found[OWN], found[key]) for key in others]
        rows.append([text["name"].replace("_", " "), f"{text['bytes']:,}", *cells, *gains])
    return columns, rows


def gain(own: float | None, other: float | None) -> str:
    """Return how much more text a token of ours holds.

    >>> gain(4.4, 4.0), gain(3.8, 4.0), gain(3.8, None)
    ('+10.0 %', '-5.0 %', '–')
    """
    return f"{(own / other - 1) * 100:+.1f} %" if own and other else NOTHING


def comparison_note(comparison: Mapping[str, Any]) -> str:
    """Return what the table's numbers are, and which of them a committed table gave."""
    note = "Bytes per token: higher is better. In brackets the size of the vocabulary."
    if titles := [comparison["vocabularies"][key]["title"] for key in comparison["from_table"]]:
        note += (
            f" The numbers of {' and '.join(titles)} are from a table that comes with the code, because their "
            "vocabularies were not on the machine; so there is none for the held-out text "
            "(tokenizer.fetch_references downloads them)."
        )
    return note


def comparison_bars(comparison: Mapping[str, Any]) -> Bars:
    """Return the picture of the table."""
    texts = comparison["texts"]
    heights = {
        known["title"]: [bytes_per_token(text, key) for text in texts]
        for key, known in comparison["vocabularies"].items()
    }
    names = [text["name"].replace("_", " ") for text in texts]
    return Bars("tokenizer_comparison", "Tokenizer: bytes per token", names, heights)


def bars_svg(bars: Bars) -> str:
    """Return the picture as an `<svg>` element; equal bars give equal text."""
    return drawing(bars.name, lambda figure: _draw(figure, bars))


def _draw(figure: Figure, bars: Bars) -> None:
    axes = bare_axes(figure, x_label="", y_label="bytes per token")
    width = BARS_WIDTH / len(bars.heights)
    for place, (color, (label, heights)) in enumerate(zip(COLORS, bars.heights.items(), strict=False)):
        offset = (place - (len(bars.heights) - 1) / 2) * width
        measured = {index + offset: height for index, height in enumerate(heights) if height is not None}
        axes.bar(list(measured), list(measured.values()), width=width, label=label, color=color)
    axes.set_xticks(range(len(bars.texts)), bars.texts, rotation=45, ha="right")
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
