"""What `nanochat compare` shows, from files and from MLflow."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows import compare
from flows.cli import app
from flows.compare import charts, different_params, find_runs, scores
from flows.compare_runs import RunFinder, stage_in
from nanochat_core.artifacts import StageFolder, write_json
from nanochat_core.errors import SpecError
from tests.flows import tracked


def make_run(base: Path, name: str, *, seed: int, bpb: float, has_report: bool = True) -> Path:
    """Train a fake base model, and report it; return its folder."""
    folder = tracked.stage_folder(base, fingerprint=f"{seed:064x}"[::-1])
    request = StageFolder(folder).request.model_copy(update={"params": {"seed": seed, "model": {"depth": 4}}})
    write_json(folder / "spec.json", request.model_dump())
    tracked.write_steps(folder, 1, 20)
    tracked.finish(folder, val_bpb_last=bpb, steps=20, tokens_per_second=100.0 * seed)
    if has_report:
        report = base / "reports" / name
        report.mkdir(parents=True)
        write_json(report / "report.json", {"stages": {"pretrain": {"folder": f"pretrain/{folder.name}"}}})
    return folder


@pytest.fixture
def two(base: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two runs with reports, and an MLflow that does not answer."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    return make_run(base, "old", seed=1, bpb=1.5), make_run(base, "new", seed=2, bpb=1.25)


def rows(found: Any) -> dict[str, list[str]]:
    return {row.name: list(row.cells) for row in found}


def test_the_newest_two_are_compared_without_a_server(base: Path, two: tuple[Path, Path]) -> None:
    runs, _ = find_runs(base, [])
    assert {run.name for run in runs} == {"old", "new"}
    runs, trouble = find_runs(base, ["old", "new"])
    assert trouble is None  # it was not asked
    assert rows(different_params(runs)) == {"pretrain.seed": ["1", "2"]}
    found = {row.name: row for row in scores(runs)}
    assert found["pretrain: val_bpb_last"].cells == ["1.5", "1.25"]
    assert found["pretrain: val_bpb_last"].best == {1}
    assert found["pretrain: tokens_per_second"].best == {1}
    assert "pretrain: steps" not in found  # equal, and no measure of quality


def test_curves_are_drawn_over_whatever_was_asked(base: Path, two: tuple[Path, Path]) -> None:
    stage = stage_in(two[0])
    assert stage.curve("train/loss", "steps")[:2] == [(1.0, 9.99), (2.0, 9.98)]
    assert stage.curve("train/loss", "tokens")[:2] == [(100.0, 9.99), (200.0, 9.98)]
    assert stage.curve("train/loss", "flops")[1] == (2e6, 9.98)
    assert stage.curve("val/bpb", "tokens") == []
    runs, _ = find_runs(base, ["old", "new"])
    assert [(chart.stage, chart.metric, len(chart.curves)) for chart in charts(runs, "tokens")] == [
        ("pretrain", "train/loss", 2)
    ]


def test_a_run_that_only_mlflow_knows_is_read_from_there(
    base: Path, mlflow_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    folder = make_run(base, "unused", seed=3, bpb=1.75, has_report=False)
    tracker = tracked.tracker(base, "tracked-only", owner="tracked-only")
    tracker.start()
    tracked.begin(tracker, folder).finish(tracked.finish(folder, val_bpb_last=1.75))
    tracker.finish("FINISHED")
    by_name = RunFinder(base).find("tracked-only").stages["pretrain"]
    assert (by_name.params["model.depth"], by_name.metrics["val_bpb_last"]) == ("4", 1.75)
    for path in folder.iterdir():
        path.unlink()
    remote = RunFinder(base).find(str(tracker.run_id)).stages["pretrain"]
    assert (remote.params["seed"], remote.metrics["val_bpb_last"]) == ("1", 1.75)
    assert remote.curve("train/loss", "tokens") == by_name.curve("train/loss", "tokens")


def test_bad_input_is_one_line_with_what_comes_close(base: Path, two: tuple[Path, Path]) -> None:
    for arguments, text in {
        ("old", "knew"): "did you mean 'new'",
        ("old",): "One run alone cannot be compared",
        ("old", "new", "--by=flop"): "did you mean 'flops'",
        ("old", "new", f"--html={base}/no/such/page.html"): "name a file in a folder that exists",
    }.items():
        result = CliRunner().invoke(app, ["compare", *arguments])
        assert result.exit_code == 2, result.output
        assert text in result.output and "Traceback" not in result.output


def test_the_command_prints_tables_and_a_plot_and_writes_a_page_that_needs_no_other_file(
    base: Path, tmp_path: Path, two: tuple[Path, Path]
) -> None:
    result = CliRunner().invoke(app, ["compare", "old", "new", "--by", "tokens", "--html", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "pretrain.seed" in result.output and "1.25 *" in result.output
    page = (tmp_path / "page.html").read_text()
    assert "<svg" in page and "val_bpb_last" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)


def test_without_colors_a_letter_marks_each_run(base: Path, two: tuple[Path, Path]) -> None:
    for folder, last in zip(two, (1.5, 1.25), strict=True):
        lines = [{"step": step, "time": 9e9, "attempt": 1, "val/bpb": bpb} for step, bpb in ((0, 3.0), (20, last))]
        with open(folder / "metrics.jsonl", "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    runs, _ = find_runs(base, [str(folder) for folder in two])
    console = Console(width=80, record=True, color_system=None)
    compare.print_comparison(runs, "steps", console)
    text = console.export_text()
    drawing, _, legend = text.partition("pretrain: val/bpb over steps")[2].partition("Legend")
    assert "A" in drawing and "B" in drawing and "⠤A⠤ pretrain/1000000000000000" in legend
    assert max(map(len, text.splitlines())) <= 80


def test_fewer_than_two_runs_are_named_with_the_way_out(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(SpecError, match="fewer than 2 runs"):
        find_runs(base, [])
    with pytest.raises(SpecError, match=r"There is no run in .* MLflow could not be asked"):
        find_runs(base, ["a", "b"])
