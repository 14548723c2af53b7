"""What the UI shows of a whole run."""

import base64
from pathlib import Path

from flows.run_artifacts import against_the_best, with_pictures
from nanochat_core.artifacts import write_json


def write_report(folder: Path, *, bpb: float, arithmetic: float | None = None, recipe: str = "demo") -> Path:
    """Write a report with these scores, as far as they are read."""
    own = {"base": {"bpb": {"value": bpb}}, "sft": {"Arithmetic": {"value": arithmetic}}}
    folder.mkdir(parents=True)
    write_json(folder / "report.json", {"run": {"name": folder.name, "recipe": recipe}, "scores": {"own": own}})
    return folder


def test_each_score_stands_beside_the_best_of_the_recipe_so_far(tmp_path: Path) -> None:
    write_report(tmp_path / "first", bpb=1.9, arithmetic=0.9)
    write_report(tmp_path / "second", bpb=1.7, arithmetic=0.5)
    write_report(tmp_path / "another-recipe", bpb=0.1, recipe="d12")
    own = write_report(tmp_path / "own", bpb=1.8, arithmetic=0.95)
    (tmp_path / "latest").symlink_to("own")
    bpb, arithmetic = against_the_best(own)
    assert bpb == {
        "score": "base bpb",
        "this run": "1.8000",
        "best before": "1.7000",
        "of": "second",
        "verdict": "worse",
    }
    assert (arithmetic["of"], arithmetic["verdict"]) == ("first", "better")


def test_the_first_run_and_a_missing_score_have_nothing_to_stand_beside(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "report.json").write_text("{")
    rows = against_the_best(write_report(tmp_path / "own", bpb=1.8))
    assert [(row["score"], row["verdict"], row["of"]) for row in rows] == [("base bpb", "first", "")]


def test_pictures_of_the_report_travel_inside_its_page(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "loss.svg").write_text("<svg></svg>")
    page = with_pictures("![loss](plots/loss.svg) ![gone](plots/gone.svg) ![far](https://host/x.svg)", tmp_path)
    drawing = '<svg><rect width="100%" height="100%" fill="white"/></svg>'
    assert f"![loss](data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()})" in page
    assert "![gone](plots/gone.svg) ![far](https://host/x.svg)" in page
