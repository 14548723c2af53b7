"""Paired differences as people read them: accuracies in percent, differences in points of 100."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.evaluation.paired import Pair
from flows.evaluation.statistics import Difference

if TYPE_CHECKING:
    from rich.table import Table

INTERVAL = "95% interval"


def table_rows(pairs: Sequence[Pair], model: str, against: str) -> list[dict[str, str]]:
    """Return the cells of each row by their column.

    >>> from flows.evaluation.statistics import paired_difference
    >>> found = paired_difference([0.0, 1.0] * 50, [1.0, 1.0] * 50, confidence=0.95)
    >>> list(table_rows([Pair("Facts", found)], "rl", "sft")[0].values())
    ['Facts', '100', '100.0%', '50.0%', '+50.0', '+40.0 to +60.0']
    >>> list(table_rows([Pair("Sums", note="only sft was asked")], "rl", "sft")[0].values())
    ['Sums', '', '', '', '', 'only sft was asked']
    """
    columns = ("task", "n", model, against if against != model else f"{against} (the other)", "difference", INTERVAL)
    return [dict(zip(columns, cells_of(pair), strict=True)) for pair in pairs]


def cells_of(pair: Pair) -> list[str]:
    if (found := pair.difference) is None:
        return [pair.task, "", "", "", "", pair.note]
    accuracies = [f"{found.new:.1%}", f"{found.old:.1%}"]
    return [pair.task, f"{found.n:,}", *accuracies, points(found.mean), interval(found)]


def interval(difference: Difference) -> str:
    return f"{points(difference.low)} to {points(difference.high)}"


def points(share: float) -> str:
    """Return a difference of shares in points of 100.

    >>> points(0.0412), points(-0.0004)
    ('+4.1', '-0.0')
    """
    return f"{100 * share:+.1f}"


def terminal_table(pairs: Sequence[Pair], model: str, against: str) -> "Table":
    """Return the table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    rows = table_rows(pairs, model, against)
    table = Table(title=f"{model} against {against}, on the same questions", title_justify="left")
    for column in rows[0]:
        table.add_column(Text(column), justify="left" if column in ("task", INTERVAL) else "right")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table
