"""Pages with the table of all answers: the report's, and that of evaluations alone (`write_evaluation_page`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.report.evaluation.answers import Evaluation
from flows.report.evaluation.content import evaluation_content
from flows.report.evaluation.examples import Examples, pack_examples, sorted_answers
from flows.report.evaluation.plots import evaluation_svg
from flows.report.evaluation.sections import evaluation_plots, evaluation_sections, sample_sections
from flows.report.layout import Section, lay_out, lay_out_page
from nanochat_core.artifacts import write_bytes, write_json

PAGE = "examples.html"  # beside report.html, where that cannot hold all answers
REPORT_CHARACTERS = 4_000_000  # of text in report.html, before it is packed
PAGE_CHARACTERS = 64_000_000  # and in a page of its own


def write_evaluation_page(folder: Path, title: str, evaluations: Sequence[Evaluation]) -> Path:
    """Write report.{html,md,json} of evaluations that belong to no report of a pipeline; return report.html.

    Each is compared with the one before it.
    """
    content = evaluation_content("", evaluations) | {"contamination": {}}
    plots = evaluation_plots(content["evaluations"])
    sections = [*evaluation_sections(content, plots), *sample_sections(content["samples"])]
    pictures = {plot.name: evaluation_svg(plot) for plot in plots}
    write_pages(folder, lay_out_with_answers(title, {}, sections, pictures, evaluations))
    write_json(folder / "report.json", content)
    return folder / "report.html"


def write_pages(folder: Path, pages: Mapping[str, str]) -> None:
    """Write the pages; one of all answers that an earlier report left here, and this one does not need, goes."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        write_bytes(folder / name, text.encode())
    if PAGE not in pages:
        (folder / PAGE).unlink(missing_ok=True)


def lay_out_with_answers(
    title: str,
    headlines: Mapping[str, str],
    sections: Sequence[Section],
    pictures: Mapping[str, str],
    evaluations: Sequence[Evaluation],
) -> dict[str, str]:
    """Return the files of a report, the answers last in its pages, and examples.html where those cannot hold all."""
    answers = sorted_answers(evaluations)
    examples = pack_examples(answers, characters=REPORT_CHARACTERS, page=PAGE)
    troubles = [line for evaluation in evaluations for line in evaluation.troubles]
    found = [section for section in [*sections, examples_section(examples, troubles)] if section.has_content]
    pages = lay_out(title, headlines, found, pictures)
    if examples is None or not examples.page:
        return pages
    every = examples_section(pack_examples(answers, characters=PAGE_CHARACTERS), [])
    context = {"title": title, "headlines": {}, "sections": [every], "pictures": {}}
    return pages | {PAGE: lay_out_page("report.html", context)}


def examples_section(examples: Examples | None, troubles: Sequence[str]) -> Section:
    """Every answer that was kept, as a table to look through; in Markdown, where it is found."""
    if examples is None:
        return Section("Answers", remarks=troubles)
    note = f"{examples.shown:,} answers, of {examples.total:,} that were given."
    if examples.shown < examples.total:
        note += " Of each task the first questions are shown."
    note += " The files records/*.parquet of the evaluations, which MLflow has too, hold all of them, uncut."
    return Section("Answers", note=note, remarks=troubles, examples=examples)
