"""How a promotion is told: the table in Prefect's UI and in a terminal, and the note on the model version in MLflow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.evaluation.paired_table import interval, points
from flows.promotion.decision import Row, Thresholds

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("task", "n", "champion", "challenger", "difference", "interval", "verdict")


def table_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return the cells of each row, accuracies in percent and differences in points.

    >>> from flows.evaluation.statistics import Difference
    >>> difference = Difference(500, 0.5, 0.54, 0.04, 0.01, 499, 0.0203, 0.0597)
    >>> list(table_rows([Row("Facts", "better", difference)])[0].values())
    ['Facts', '500', '50.0%', '54.0%', '+4.0', '+2.0 to +6.0', 'better']
    >>> list(table_rows([Row("Sums", "not comparable", note="version 1 against 2")])[0].values())
    ['Sums', '', '', '', '', '', 'not comparable: version 1 against 2']
    """
    return [dict(zip(COLUMNS, cells_of(row), strict=True)) for row in rows]


def cells_of(row: Row) -> list[str]:
    verdict = f"{row.verdict}: {row.note}" if row.note else row.verdict
    if (found := row.difference) is None:
        return [row.task, "", "", "", "", "", verdict]
    accuracies = [f"{found.old:.1%}", f"{found.new:.1%}"]
    return [row.task, f"{found.n:,}", *accuracies, points(found.mean), interval(found), verdict]


def rule(thresholds: Thresholds) -> str:
    """Return in one sentence what was asked of the challenger.

    >>> rule(Thresholds())
    'On each task and overall, the 95% interval of the paired difference may reach down to -5 points.'
    """
    return (
        f"On each task and overall, the {100 * thresholds.confidence:g}% interval of the paired difference may reach "
        f"down to -{thresholds.max_drop:g} points."
    )


def markdown(rows: Sequence[Row]) -> str:
    """Return the table in markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    return "\n".join(lines + [f"| {' | '.join(cells_of(row))} |" for row in rows])


def terminal_table(title: str, rows: Sequence[Row]) -> "Table":
    """Return the table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*COLUMNS, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, cells_of(row)))
    return table
