"""report.json -> the sections of report.md and report.html, in order, and the pages themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.report.evaluation.answers import Evaluation
from flows.report.evaluation.page import lay_out_with_answers
from flows.report.evaluation.plots import EvaluationPlot, evaluation_svg
from flows.report.evaluation.sections import evaluation_plots, evaluation_sections, sample_sections
from flows.report.layout import Section, duration, shown
from flows.report.plots import Plot, svg
from flows.report.tokenizer import bars_svg, comparison_bars, comparison_note, comparison_table
from nanochat_core.model_chain import models_among


def render(report: Mapping[str, Any], plots: Sequence[Plot], evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Return the text of every file beside report.json, by relative path."""
    pictures = {plot.name: svg(plot) for plot in plots}
    if comparison := report["tokenizer"].get("comparison"):
        bars = comparison_bars(comparison)
        pictures[bars.name] = bars_svg(bars)
    scored = evaluation_plots(report["evaluations"])
    pictures |= {plot.name: evaluation_svg(plot) for plot in scored}
    title = f"nanochat: {report['run']['name']}"
    found = [*sections(report, plots, scored), code_section(report)]
    return lay_out_with_answers(title, headlines(report), found, pictures, evaluations)


def headlines(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the few numbers at the head of the page; those that the run does not have are left out."""
    pretrain, sft, rl = (report.get(name, {}) for name in ("pretrain", "sft", "rl"))
    found = {
        "Validation bits per byte": pretrain.get("val_bpb_last"),
        "CORE": pretrain.get("core"),
        "ChatCORE after SFT": sft.get("chatcore"),
        "Arithmetic after SFT": sft.get("arithmetic_accuracy"),
        "Spelling after SFT": sft.get("spelling_accuracy"),
        "Identity after SFT": sft.get("identity_accuracy"),
        "RL reward": rl.get("reward_after"),
    }
    numbers = {name: shown(value) for name, value in found.items() if value is not None}
    return numbers | {"Wall clock": duration(report["header"]["total_seconds"])}


def sections(report: Mapping[str, Any], plots: Sequence[Plot], scored: Sequence[EvaluationPlot]) -> list[Section]:
    """Return the report's sections in order, but for the answers and the code; `scored` are the evaluations' plots."""
    return [
        Section("Run", facts=_run_facts(report)),
        _stages(report),
        Section("Data", facts=_facts(report["data"])),
        _tokenizer(report["tokenizer"]),
        Section("Training curves", plots=plots),
        *evaluation_sections(report, scored),
        *(
            Section(f"{model.stage_title} in numbers", facts=_facts(report["stages"][model.stage]["metrics"]))
            for model in models_among(report["stages"])
        ),
        _positions(report.get("pretrain", {}).get("bpb_by_position", {})),
        *sample_sections(report["samples"]),
    ]


def _facts(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.replace("_", " "): shown(value) for name, value in values.items() if not isinstance(value, dict | list)
    }


def _run_facts(report: Mapping[str, Any]) -> dict[str, str]:
    header, cost = report["header"], report["header"]["cost"]
    price = "no GPU: CPU only"
    if cost["gpu_hours"]:
        price = f"${cost['dollars']:,.2f} ({cost['gpu_hours']:.2f} GPU hours at ${cost['gpu_hour_dollars']:.2f})"
    return {
        "recipe": report["run"]["recipe"],
        "git commit": header["git_commit"] or "no git checkout",
        "hardware": header["hardware"]["summary"],
        "wall clock": duration(header["total_seconds"]),
        "estimated cost": price,
        "versions": ", ".join(f"{name} {version}" for name, version in header["versions"].items()),
    }


def _positions(bpb: Mapping[str, float]) -> Section:
    """Return the bits per byte by position: {first of a bucket: bpb}."""
    firsts = [int(first) for first in bpb]
    lasts = [str(first - 1) for first in firsts[1:]] + ["end"]
    rows = [[f"{first} to {last}", shown(bpb[str(first)])] for first, last in zip(firsts, lasts, strict=False)]
    note = "Validation text by how many tokens of its row stand before: what longer rows buy is the fall to the end."
    return Section("Bits per byte by position", note=note, columns=("positions", "bits per byte"), rows=rows)


def _stages(report: Mapping[str, Any]) -> Section:
    rows = [
        [name, duration(stage["seconds"]), _origin(stage), stage["folder"]] for name, stage in report["stages"].items()
    ]
    note = "The time of a cached stage is that of the run that made it."
    return Section("Stages", note=note, columns=("stage", "wall clock", "this time", "folder"), rows=rows)


def _origin(stage: Mapping[str, Any]) -> str:
    """Return whether the stage ran, or which commit's run it was taken from."""
    if not stage["cached"]:
        return "ran"
    return f"cached, by {stage['git_commit']}" if stage["git_commit"] else "cached"


def _tokenizer(values: Mapping[str, Any]) -> Section:
    """The vocabulary in figures and, where it was compared with others, the table of that."""
    comparison = values.get("comparison")
    if comparison is None:
        return Section("Tokenizer", facts=_facts(values))
    columns, rows = comparison_table(comparison)
    facts = {name: value for name, value in values.items() if not name.startswith("bytes_per_token_")}
    note, plots = comparison_note(comparison), [comparison_bars(comparison)]
    return Section("Tokenizer", note=note, facts=_facts(facts), columns=columns, rows=rows, plots=plots)


def code_section(report: Mapping[str, Any]) -> Section:
    rows = [[name, shown(size["files"]), shown(size["lines"])] for name, size in report["code"].items()]
    return Section("Code size", columns=("package", "files", "lines"), rows=rows)
