"""The report of a sweep: its runs, the best size of each budget, the laws, the notes, the pictures.

reports/sweeps/<name>/{report.json, report.md, report.html, plots/*.svg}, and reports/sweeps/latest -> <name>
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.launch import git_commit
from flows.report.content import point_latest_at
from flows.report.layout import Section, duration, lay_out, shown
from flows.sweep_fits import MemberResult, SweepFits
from flows.sweep_plots import SweepPlot, plots_of, short
from nanochat_core.artifacts import write_bytes, write_json
from nanochat_core.hardware import describe
from nanochat_core.model.accounting import scaling_parameters
from nanochat_core.optim.isoflop import Optimum, PowerLaw
from nanochat_core.optim.scaling_laws import Interval
from nanochat_core.paths import reports_dir
from nanochat_core.sweep_specs import SweepSpec

COUNTED = {
    "horizon": "those that tokens_per_parameter counts",
    "matrices_and_head": "matrices and head, without embeddings",
    "total": "all",
}
JOINT_NOTE = (
    "; of the joint law, those of refits to redrawn residuals. The joint law is L = E + A/N^alpha + B/D^beta, its a "
    "and b are those for C = 6·N·D; the FLOPs of the runs count attention, and no embedding."
)


def write_sweep_report(
    base: Path, name: str, spec: SweepSpec, results: Sequence[MemberResult], fits: SweepFits
) -> tuple[Path, list[SweepPlot]]:
    """Write the report and point `latest` at it; return its folder and its pictures."""
    folder = reports_dir(base) / "sweeps" / name
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    plots = plots_of(results, fits)
    content = content_of(name, spec, results, fits)
    pages = lay_out(
        f"Sweep {name}", headlines(content, fits), sections(content, fits, plots), {p.name: p.svg for p in plots}
    )
    for file, text in pages.items():
        write_bytes(folder / file, text.encode())
    write_json(folder / "report.json", content)
    point_latest_at(folder)
    return folder, plots


def content_of(name: str, spec: SweepSpec, results: Sequence[MemberResult], fits: SweepFits) -> dict[str, Any]:
    """Return the content of report.json."""
    return {
        "sweep": {"name": name} | spec.model_dump(mode="json"),
        "header": {"git_commit": git_commit(), "hardware": describe().summary},
        "members": [member_entry(result) for result in results],
        "optima": [optimum_entry(optimum, spec, results) for optimum in fits.optima],
        "laws": {
            "parameters": fits.size_law and asdict(fits.size_law),
            "tokens": fits.token_law and asdict(fits.token_law),
            "loss": fits.compute_law and asdict(fits.compute_law),
            "joint": fits.joint and asdict(fits.joint),
        },
        "notes": fits.notes,
    }


def member_entry(result: MemberResult) -> dict[str, Any]:
    member = result.member
    return {
        "name": member.name,
        "depth": member.depth,
        "budget": member.budget,
        "width": member.spec.pretrain.model.n_embd,
        "parameters": member.parameters,
        "tokens": member.tokens,
        "batch_tokens": member.spec.pretrain.total_batch_tokens,
        "steps": member.steps,
        "flops": member.compute,
        "val_bpb": result.bpb,
        "core": result.core,
        "seconds": result.seconds,
        "cached": result.is_cached,
        "folder": result.folder,
        "error": result.error or None,
    }


def optimum_entry(optimum: Optimum, spec: SweepSpec, results: Sequence[MemberResult]) -> dict[str, Any]:
    """Return the best size of a budget; `tokens_per_parameter` is what a recipe's field of that name would be.

    That field counts the parameters of the horizon, which need not be those of the fit: their number at the best size
    is that of the nearest run, scaled.
    """
    nearest = min(
        (result.member for result in results if result.member.budget == optimum.compute),
        key=lambda member: abs(member.parameters - optimum.parameters),
    )
    horizon = scaling_parameters(nearest.spec.pretrain.model, spec.base.tokenizer.vocab_size)
    return {
        "budget": optimum.compute,
        "parameters": optimum.parameters,
        "tokens": optimum.tokens,
        "tokens_per_parameter": optimum.tokens / (optimum.parameters * horizon / nearest.parameters),
        "nearest_depth": nearest.depth,
        "val_bpb": optimum.loss,
        "edge": optimum.edge,
    }


def headlines(content: dict[str, Any], fits: SweepFits) -> dict[str, str]:
    """Return the few numbers at the head of the page."""
    finished = sum(entry["error"] is None for entry in content["members"])
    found = {"Runs finished": f"{finished} of {len(content['members'])}"}
    if fits.size_law and fits.token_law:
        found |= {
            "a of N* ~ C^a": f"{fits.size_law.exponent:.3f}",
            "b of D* ~ C^b": f"{fits.token_law.exponent:.3f}",
        }
    if fits.compute_law:
        found |= {"c of L ~ C^c": f"{fits.compute_law.exponent:.4f}"}
    if fits.joint:
        found |= {"E of the joint law": f"{fits.joint.law.E:.3f}"}
    return found


def sections(content: dict[str, Any], fits: SweepFits, plots: Sequence[SweepPlot]) -> list[Section]:
    """Return the sections that have something to show, in order."""
    every = [
        Section("Sweep", facts=facts(content)),
        Section("Read this first", remarks=fits.notes),
        Section("Plots", plots=plots),
        best_sizes(content),
        laws(fits),
        runs(content),
    ]
    return [section for section in every if section.facts or section.rows or section.plots or section.remarks]


def facts(content: dict[str, Any]) -> dict[str, str]:
    sweep, entries = content["sweep"], content["members"]
    return {
        "kind": sweep["kind"],
        "recipe": sweep["base"]["recipe"],
        "depths": ", ".join(str(depth) for depth in sorted(sweep["depths"])),
        "budgets": ", ".join(f"{budget:.3g}" for budget in sorted(sweep["budgets"])) or "–",
        "text and batch": batch_words(content),
        "loss L": "validation bits per byte at the end of pretraining",
        "parameters N": COUNTED[sweep["counted"]],
        "training": duration(sum(entry["seconds"] for entry in entries)) + " in this run",
        "hardware": content["header"]["hardware"],
        "git commit": content["header"]["git_commit"] or "no git checkout",
    }


def batch_words(content: dict[str, Any]) -> str:
    """Return what the runs were given: where their text is from, and the tokens of a step."""
    batches = sorted({entry["batch_tokens"] for entry in content["members"]})
    words = " to ".join(f"{batch:,}" for batch in dict.fromkeys((batches[0], batches[-1])))
    return f"{content['sweep']['base']['download']['source']}, {words} tokens a step"


def best_sizes(content: dict[str, Any]) -> Section:
    rows = [
        [
            f"{entry['budget']:.3g}",
            *(
                ["–"] * 3
                if entry["edge"]
                else [
                    short(entry["parameters"]),
                    short(entry["tokens"]),
                    shown(round(entry["tokens_per_parameter"], 1)),
                ]
            ),
            f"d{entry['nearest_depth']}",
            f"{entry['val_bpb']:.4f}",
            f"not enclosed ({entry['edge']})" if entry["edge"] else "enclosed",
        ]
        for entry in content["optima"]
    ]
    columns = ("FLOPs", "best N", "best D", "tokens per parameter", "nearest depth", "loss", "by the runs")
    note = "The lowest point of a parabola of the loss over log N, for each budget."
    return Section("Best size of each budget", note=note, columns=columns, rows=rows)


def laws(fits: SweepFits) -> Section:
    rows = [
        law_row(name, law)
        for name, law in (
            ("a of N* ~ C^a, isoFLOP", fits.size_law),
            ("b of D* ~ C^b, isoFLOP", fits.token_law),
            ("c of L ~ C^c, miniseries", fits.compute_law),
        )
        if law
    ]
    if fits.joint:
        names = {name: name for name in ("E", "A", "B", "alpha", "beta")}
        names |= {"parameter_exponent": "a = beta/(alpha + beta)", "token_exponent": "b = alpha/(alpha + beta)"}
        rows += [
            [f"{label}, joint law", number(getattr(fits.joint.law, name)), interval(fits.joint.intervals[name])]
            for name, label in names.items()
        ]
        rows.append(["mean error of the joint law", f"{fits.joint.error:.2%}", "–"])
    note = "Intervals are of 95 %: of a power law, Student's of its regression"
    note += JOINT_NOTE if fits.joint else "."
    return Section("Laws", note=note, columns=("constant", "value", "95 % interval"), rows=rows)


def law_row(name: str, law: PowerLaw) -> list[str]:
    return [name, number(law.exponent), interval(law.interval)]


def number(value: float) -> str:
    return f"{value:.4g}"


def interval(ends: Interval | None) -> str:
    return f"{number(ends.low)} to {number(ends.high)}" if ends else "–"


def runs(content: dict[str, Any]) -> Section:
    has_core = any(entry["core"] is not None for entry in content["members"])
    rows = [
        [
            entry["name"],
            short(entry["parameters"]),
            short(entry["tokens"]),
            shown(entry["steps"]),
            f"{entry['flops']:.3g}",
            "failed" if entry["error"] else f"{entry['val_bpb']:.4f}",
            *([shown(entry["core"])] if has_core else []),
            "reused" if entry["cached"] else duration(entry["seconds"]),
            entry["folder"] or "–",
        ]
        for entry in content["members"]
    ]
    columns = ["run", "N", "D", "steps", "FLOPs", "loss", *(["CORE"] if has_core else []), "this time", "folder"]
    return Section("Runs", columns=columns, rows=rows)
