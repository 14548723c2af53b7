"""report.json -> report.md and report.html: the same sections, in the same words.

A section is a heading with key/value facts, a table, plots and samples, each of them optional; the two templates in
`report_templates/` only lay them out. The HTML page carries its style and its plots and asks no server for anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined

from flows.report_plots import Plot, svg
from flows.report_tokenizer import bars_svg, comparison_bars, comparison_note, comparison_table

MODEL_TITLES = {"base": "Base", "mid": "Mid", "sft": "SFT", "rl": "RL"}
TRAINING_TITLES = {"pretrain": "Pretraining", "midtrain": "Mid-training", "sft": "SFT", "rl": "RL"}
SCORE_TITLES = {
    "core": "CORE",
    "core_partial": "CORE, only the tasks above",
    "bpb": "Validation bpb",
    "chatcore": "ChatCORE",
}
NOTHING = "–"


@dataclass(frozen=True)
class Sample:
    """What a model said to a prompt."""

    prompt: str
    answer: str


class Picture(Protocol):
    """What a page needs to know of a plot beside its SVG."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...


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


def render(report: Mapping[str, Any], plots: Sequence[Plot]) -> dict[str, str]:
    """Return the text of every file beside report.json, by relative path."""
    pictures = {plot.name: svg(plot) for plot in plots}
    if comparison := report["tokenizer"].get("comparison"):
        bars = comparison_bars(comparison)
        pictures[bars.name] = bars_svg(bars)
    return lay_out(f"nanochat: {report['run']['name']}", headlines(report), sections(report, plots), pictures)


def lay_out(
    title: str, headlines: Mapping[str, str], sections: Sequence[Section], pictures: Mapping[str, str]
) -> dict[str, str]:
    """Return report.md, report.html and the files of the pictures, by relative path; `pictures` is {name: SVG}."""
    environment = Environment(
        loader=PackageLoader("flows", "report_templates"),
        autoescape=lambda name: name is not None and name.startswith("report.html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": markdown_cell, "quoted": markdown_quote}
    context = {"title": title, "headlines": headlines, "sections": sections, "pictures": pictures}
    pages = {name: environment.get_template(f"{name}.j2").render(context) for name in ("report.md", "report.html")}
    return pages | {f"plots/{name}.svg": picture for name, picture in pictures.items()}


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


def markdown_cell(text: str) -> str:
    """Return text that cannot break a Markdown table."""
    return text.replace("|", r"\|").replace("\n", " ")


def markdown_quote(text: str) -> str:
    """Return text as code within a quotation, so that what a model wrote is shown and never rendered."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def headlines(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the few numbers at the head of the page; those that the run does not have are left out."""
    pretrain, sft, rl = (report.get(name, {}) for name in ("pretrain", "sft", "rl"))
    found = {
        "Validation bits per byte": pretrain.get("val_bpb_last"),
        "CORE": pretrain.get("core"),
        "ChatCORE after SFT": sft.get("chatcore"),
        "Arithmetic after SFT": sft.get("arithmetic_accuracy"),
        "Spelling after SFT": sft.get("spelling_accuracy"),
        "RL reward": rl.get("reward_after"),
    }
    numbers = {name: shown(value) for name, value in found.items() if value is not None}
    return numbers | {"Wall clock": duration(report["header"]["total_seconds"])}


def sections(report: Mapping[str, Any], plots: Sequence[Plot]) -> list[Section]:
    """Return the report's sections in order; one that has nothing to show is left out."""
    scores = report["scores"]
    every = [
        Section("Run", facts=_run_facts(report)),
        _stages(report),
        Section("Data", facts=_facts(report["data"])),
        _tokenizer(report["tokenizer"]),
        Section("Training curves", plots=plots),
        _scores(report),
        *(
            Section(f"{title} in numbers", facts=_facts(report["stages"][stage]["metrics"]))
            for stage, title in TRAINING_TITLES.items()
            if stage in report["stages"]
        ),
        _positions(report.get("pretrain", {}).get("bpb_by_position", {})),
        *(
            Section(
                f"Samples: {MODEL_TITLES[model]}", samples=[Sample(**sample) for sample in report["samples"][model]]
            )
            for model in scores["models"]
            if report["samples"].get(model)
        ),
        _code(report),
    ]
    return [item for item in every if item.facts or item.rows or item.plots or item.samples]


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


def _scores(report: Mapping[str, Any]) -> Section:
    """The table of metrics: a column for each model and, where the recipe has published scores, one beside it."""
    scores = report["scores"]
    columns, keys = ["metric"], []
    for model in scores["models"]:
        columns.append(MODEL_TITLES[model])
        keys.append(("own", model))
        if model in scores["published"]:
            columns.append(f"{MODEL_TITLES[model]}, published")
            keys.append(("published", model))
    rows = [
        [SCORE_TITLES.get(name, name), *(_cell(scores[kind].get(model, {}).get(name)) for kind, model in keys)]
        for name in scores["names"]
    ]
    note = "Accuracy ± one standard error (number of questions), unless the name says otherwise."
    if tasks := sorted({task for names in scores["chatcore_tasks"].values() for task in names}):
        note += f" ChatCORE is the mean over {', '.join(tasks)} of accuracy above guessing."
    return Section("Scores", note=note, columns=columns, rows=rows)


def _cell(score: Any) -> str:
    if not isinstance(score, dict):
        return shown(score)
    if score["n"] is None:
        return f"{score['value']:.4f}"
    return f"{score['value']:.4f} ± {score['stderr']:.4f} ({score['n']:,})"


def _code(report: Mapping[str, Any]) -> Section:
    rows = [[name, shown(size["files"]), shown(size["lines"])] for name, size in report["code"].items()]
    return Section("Code size", columns=("package", "files", "lines"), rows=rows)
