"""From lines of metrics.jsonl to points."""

import json
from pathlib import Path

from flows.tracking_points import PointReader, metric_key, numbers


def lines(*items: dict[str, object]) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def curve(reader: PointReader, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in reader.new_points() if point.key == key]


def test_only_finite_numbers_that_make_a_curve_become_points() -> None:
    line = {"step": 3, "time": 1.0, "attempt": 1, "total_steps": 9, "loss": 2, "bad": float("nan"), "text": "x"}
    assert dict(numbers(line)) == {"loss": 2.0}


def test_metric_names_keep_to_mlflows_letters() -> None:
    assert metric_key("pass@4") == "pass_4"
    assert metric_key("accuracy/ARC-Easy") == "accuracy/ARC-Easy"


def test_a_growing_file_is_read_line_by_line_and_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = PointReader(path)
    assert reader.new_points() == []
    path.write_text(lines({"step": 1, "time": 5.0, "attempt": 1, "train/loss": 2.0}) + '{"step": 2, "ti')
    assert curve(reader, "train/loss") == [(1, 2.0)]
    with open(path, "a") as file:
        file.write('me": 6.0, "attempt": 1, "train/loss": 1.5}\n{"step": 3, "tim\n')  # killed in its third line
    assert curve(reader, "train/loss") == [(2, 1.5)]
    assert reader.new_points() == []


def test_steps_that_are_written_again_count_once_and_work_goes_on_without_the_gap(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        lines(
            {"step": 1, "time": 100.0, "attempt": 1, "tokens": 10, "train/loss": 4.0},
            {"step": 2, "time": 103.0, "attempt": 1, "tokens": 20, "train/loss": 3.0},
            {"step": 2, "time": 900.0, "attempt": 2, "tokens": 20, "train/loss": 3.0},
            {"step": 3, "time": 904.0, "attempt": 2, "tokens": 30, "train/loss": 2.0},
            {"step": 3, "time": 905.0, "attempt": 2, "tokens": 30, "val/bpb": 1.0},
        )
    )
    points = PointReader(path).new_points()
    series = {key: [(p.step, p.value) for p in points if p.key == key] for key in {p.key for p in points}}
    assert series == {
        "train/loss": [(1, 4.0), (2, 3.0), (3, 2.0)],
        "val/bpb": [(3, 1.0)],
        "progress/tokens": [(1, 10.0), (2, 20.0), (3, 30.0)],
        "progress/seconds": [(1, 0.0), (2, 3.0), (3, 7.0)],
    }
    assert {p.timestamp for p in points if p.step == 2} == {103_000}
