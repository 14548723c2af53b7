"""What `nanochat sweep` reads from its options, and what it prints at its end."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

from nanochat_core.errors import SpecError
from nanochat_core.specs import PipelineSpec, parse_params
from nanochat_core.sweep_members import members_of
from nanochat_core.sweep_specs import SweepSpec

if TYPE_CHECKING:
    from flows.sweep import SweepResult

T = TypeVar("T", int, float)
OWN_FIELDS = ("counted", "with_core")  # of SweepSpec, for --set; all others are the recipe's


def split_changes(changes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the --set items of the sweep, and those of the recipe.

    >>> split_changes(["counted=total", "pretrain.seed=7"])
    (['counted=total'], ['pretrain.seed=7'])
    """
    own = [item for item in changes if item.partition("=")[0].strip() in OWN_FIELDS]
    return own, [item for item in changes if item not in own]


def sweep_spec(base: PipelineSpec, *, kind: str, depths: str, budgets: str | None, own: dict[str, Any]) -> SweepSpec:
    """Return the sweep that the options describe. Raises SpecError with all that does not fit."""
    fields = {
        "kind": kind,
        "depths": numbers(depths, int, "--depths", "2,3,4"),
        "budgets": numbers(budgets or "", float, "--budgets", "1e12,3e12"),
        "base": base,
    }
    spec = parse_params(SweepSpec, fields | own)
    members_of(spec)
    return spec


def numbers(text: str, kind: Callable[[str], T], option: str, example: str) -> tuple[T, ...]:
    """Return the numbers between the commas.

    >>> numbers("2, 3,4", int, "--depths", "2,3,4")
    (2, 3, 4)
    """
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise SpecError(f"{option} {text}: expected numbers with commas between them, for example {example}.") from None


def print_sweep(result: "SweepResult", console: Console) -> None:
    """Print the runs, the laws and the notes; the path of the report comes last."""
    from flows.sweep_plots import short
    from flows.sweep_report import interval, laws

    table = Table("run", "N", "D", "steps", "bpb", "", title=f"Sweep {result.name}", title_justify="left")
    for row in result.results:
        member, bpb = row.member, "–" if row.bpb is None else f"{row.bpb:.4f}"
        state = "reused" if row.is_cached else f"{row.seconds:.0f} s"
        table.add_row(member.name, short(member.parameters), short(member.tokens), f"{member.steps:,}", bpb, state)
    console.print(table)
    for optimum in result.fits.optima:
        place = f"not enclosed ({optimum.edge})" if optimum.edge else "best"
        size = f"N = {short(optimum.parameters)}, D = {short(optimum.tokens)}, bpb {optimum.loss:.4f}"
        console.print(f"{optimum.compute:.3g} FLOPs: {place}: {size}", markup=False)
    for name, value, ends in laws(result.fits).rows:
        console.print(f"{name}: {value}" + ("" if ends == interval(None) else f" ({ends})"), markup=False)
    for note in result.fits.notes:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)
    console.print(f"Report: {result.report / 'report.md'}", markup=False, soft_wrap=True)
