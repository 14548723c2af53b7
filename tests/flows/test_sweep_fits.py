"""What a sweep concludes from its runs: laws where the runs support them, a note wherever they do not."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from flows import sweep_fits
from flows.sweep_fits import MemberResult
from flows.sweep_plots import lowest_of_law, short
from flows.sweep_report import write_sweep_report
from nanochat_core.optim.scaling_laws import JointLaw, Point
from nanochat_core.recipes import recipe
from nanochat_core.specs import with_changes
from nanochat_core.sweep_members import members_of
from nanochat_core.sweep_specs import SweepSpec
from tests.nanochat_core.optim.planted import LAW as LAW_OF_2022
from tests.nanochat_core.optim.planted import best_parameters

BASE = with_changes(recipe("demo"), {"pretrain.total_batch_tokens": 128})
WIDE = SweepSpec(depths=(1, 2, 3, 4, 5, 6, 8), budgets=(1e12, 4e12, 1.6e13), base=BASE)
LAW = JointLaw(E=0.8, A=1.2e3, B=100.0, alpha=0.6, beta=0.4)
fit_sweep = partial(sweep_fits.fit_sweep, resamples=10)


def results(spec: SweepSpec, law: JointLaw = LAW) -> list[MemberResult]:
    return [MemberResult(m, bpb=law.loss(m.parameters, m.tokens)) for m in members_of(spec)]


@pytest.fixture
def wide() -> list[MemberResult]:
    return results(WIDE)


def test_laws_and_their_metrics_are_those_of_the_planted_law(wide: list[MemberResult]) -> None:
    fits = fit_sweep(wide)
    assert all("a parabola misses the runs by up to 1." in note for note in fits.notes)  # so wide is the range of N
    metrics = fits.metrics()
    assert metrics["joint/alpha"] == pytest.approx(0.6, rel=1e-3)
    assert metrics["joint/alpha_low"] <= metrics["joint/alpha"] <= metrics["joint/alpha_high"]
    low, high = metrics["isoflop/parameter_exponent_low"], metrics["isoflop/parameter_exponent_high"]
    assert low < metrics["isoflop/parameter_exponent"] < high
    assert metrics["isoflop/parameter_exponent"] + metrics["isoflop/token_exponent"] == pytest.approx(1, abs=0.1)
    for optimum in fits.optima:
        around = LAW.loss(optimum.parameters, optimum.tokens)
        assert optimum.edge is None
        assert around == pytest.approx(min(row.bpb for row in wide if row.member.budget == optimum.compute), rel=0.02)


def test_a_budget_whose_best_model_is_the_smallest_is_noted_and_left_out_of_the_laws() -> None:
    deep = WIDE.model_copy(update={"depths": (6, 8, 10)})
    fits = fit_sweep(results(deep))
    assert {optimum.edge for optimum in fits.optima} == {"smallest"}
    assert fits.size_law is None
    assert (
        "1e+12 FLOPs: the smallest model did best: add shallower depths. No law goes through its point." in fits.notes
    )
    assert not any(name.startswith(("optimum", "isoflop")) for name in fits.metrics())


def test_a_parabola_that_misses_its_runs_is_noted(wide: list[MemberResult]) -> None:
    wide[2] = replace(wide[2], bpb=0.93 * wide[2].bpb)
    notes = fit_sweep(wide).notes
    assert notes[0].startswith(
        "1e+12 FLOPs: a parabola misses the runs by up to 5.4%, so that its lowest point is rough"
    )


def test_failed_runs_are_noted_and_left_out(wide: list[MemberResult]) -> None:
    wide[0] = replace(wide[0], bpb=None, error="out of memory")
    fits = fit_sweep(wide)
    assert "d1-1e12 failed and is left out: out of memory" in fits.notes
    assert fits.joint and fits.joint.law.alpha == pytest.approx(0.6, rel=1e-3)


def test_a_sweep_of_failures_has_no_laws_and_says_why(wide: list[MemberResult], tmp_path: Path) -> None:
    failed = [replace(row, bpb=None, error="no GPU") for row in wide]
    fits = fit_sweep(failed)
    assert fits.metrics() == {}
    assert any("needs 6 runs or more, got 0" in note for note in fits.notes)
    folder, plots = write_sweep_report(tmp_path, "sad", WIDE, failed, fits)
    assert plots == []
    assert "0 of 21" in (folder / "report.md").read_text()


def test_repeated_text_and_missed_budgets_are_noted() -> None:
    coarse = WIDE.model_copy(update={"base": with_changes(BASE, {"pretrain.total_batch_tokens": 16_384})})
    fits = fit_sweep(results(coarse), text_tokens=1e6)
    assert any("miss the budget by more than 5%" in note and "d8-1e12" in note for note in fits.notes)
    assert any("read their text (about 1,000,000 tokens) more than once" in note for note in fits.notes)


def test_the_report_names_every_run_and_gives_the_ratio_that_a_recipe_takes(
    wide: list[MemberResult], tmp_path: Path
) -> None:
    spec = WIDE.model_copy(update={"counted": "matrices_and_head"})
    fits = fit_sweep(results(spec))
    folder, plots = write_sweep_report(tmp_path, "wide", spec, results(spec), fits)
    assert [plot.name for plot in plots] == ["isoflop", "best_parameters", "best_tokens", "joint_law"]
    content = json.loads((folder / "report.json").read_text())
    assert [row["name"] for row in content["members"]] == [member.name for member in members_of(WIDE)]
    for row in content["optima"]:
        counted = row["tokens"] / row["parameters"]
        assert row["tokens_per_parameter"] < counted  # the recipe's field counts the embedding as well
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "matrices and head, without embeddings" in page


def test_a_miniseries_shows_loss_and_core_over_compute(tmp_path: Path) -> None:
    spec = SweepSpec(kind="miniseries", depths=(2, 4, 6), base=BASE)
    rows = [replace(row, core=0.1 * row.member.depth) for row in results(spec)]
    fits = fit_sweep(rows)
    assert fits.compute_law and fits.compute_law.exponent < 0
    assert fits.compute_law.interval
    folder, plots = write_sweep_report(tmp_path, "series", spec, rows, fits)
    assert [plot.name for plot in plots] == ["miniseries", "core"]
    assert "| c of L ~ C^c, miniseries |" in (folder / "report.md").read_text()


def test_the_joint_laws_lowest_size_costs_what_the_budget_pays() -> None:
    budget = [Point(1e18, size, 1e18 / 6 / size, 1.0) for size in (1e7, 1e8, 1e9)]
    parameters, tokens = lowest_of_law(LAW_OF_2022, budget)
    assert parameters * tokens * 6 == pytest.approx(1e18)
    assert parameters == pytest.approx(best_parameters(LAW_OF_2022, 1e18), rel=0.02)


def test_counts_are_short_on_an_axis() -> None:
    assert [short(value) for value in (350_000, 1_310_720, 2.5e9, 3e12, 20)] == ["350K", "1.31M", "2.5B", "3T", "20"]
