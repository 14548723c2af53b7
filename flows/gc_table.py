"""How `nanochat gc` shows its survey: a table for people, and one line of what it comes to."""

from collections.abc import Sequence

from rich.table import Table

from flows.gc import Artifact
from flows.gc_caches import Cache

NAMES_SHOWN, FINGERPRINT_DIGITS = 1, 8


def table_of(found: Sequence[Artifact]) -> Table:
    """Return a row for each artifact: its folder, what it costs, who has used it, what is to happen to it and why."""
    table = Table("stage/fingerprint", "size", "age", "used by", "action", title="Artifacts", title_justify="left")
    for column, is_number in ((0, False), (1, True), (2, True)):
        table.columns[column].no_wrap = True
        table.columns[column].justify = "right" if is_number else "left"
    for artifact in found:
        action = f"{artifact.action}: {artifact.why}" + (f", frees {size(artifact.freed)}" if artifact.freed else "")
        name = f"{artifact.stage}/{artifact.folder.name[:FINGERPRINT_DIGITS]}"
        users = names([*artifact.models, *artifact.runs])
        table.add_row(name, size(artifact.size), age(artifact.age_days), users, action)
    return table


def total_line(found: Sequence[Artifact]) -> str:
    """Return what all artifacts cost, and what of it would go."""
    freed = sum(artifact.freed for artifact in found)
    noun = "artifact" if len(found) == 1 else "artifacts"
    return f"{len(found)} {noun}, {size(sum(a.size for a in found))}; {size(freed)} can go."


def cache_lines(caches: Sequence[Cache]) -> list[str]:
    """Return a line for each cache: what it costs, and what of it nobody needs."""
    return [
        f"Cache {cache.name}: {size(cache.size)}; {size(cache.freed)} that no kept run needs can go."
        for cache in caches
    ]


def size(number: int) -> str:
    """Return bytes as people read them.

    >>> size(0), size(1536), size(5 * 2**30)
    ('0 B', '1.5 KiB', '5.0 GiB')
    """
    if number < 1024:
        return f"{number} B"
    value = float(number)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def age(days: float) -> str:
    """Return an age in its largest unit.

    >>> age(0.01), age(0.5), age(12.3)
    ('14 min', '12 h', '12 d')
    """
    if days < 1 / 24:
        return f"{days * 1440:.0f} min"
    return f"{days * 24:.0f} h" if days < 1 else f"{days:.0f} d"


def names(items: Sequence[str]) -> str:
    """Return the first name, and how many more there are.

    >>> names(["b", "a"]), names([])
    ('b, 1 more', '')
    """
    shown = ", ".join(items[:NAMES_SHOWN])
    return f"{shown}, {len(items) - NAMES_SHOWN} more" if len(items) > NAMES_SHOWN else shown
