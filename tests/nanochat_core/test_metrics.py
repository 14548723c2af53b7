"""metrics.jsonl: the last attempt of each step counts, and a torn line harms nothing."""

from pathlib import Path

from nanochat_core.metrics import MetricsWriter, read_metrics


def test_readers_keep_the_last_attempt_of_each_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsWriter(path)
    for step in (1, 2, 3):
        first.write(step, loss=10.0 + step)
    first.write(3, bpb=2.0)
    with open(path, "a") as file:
        file.write('{"step": 4, "loss"')  # killed while it wrote
    second = MetricsWriter(path)
    assert (first.attempt, second.attempt) == (1, 2)
    second.write(3, loss=20.0)
    second.write(4, loss=21.0, grad_norm=None)
    lines = read_metrics(path)
    assert [(line["step"], line["attempt"], line["loss"]) for line in lines] == [
        (1, 1, 11.0),
        (2, 1, 12.0),
        (3, 2, 20.0),
        (4, 2, 21.0),
    ]
    assert "bpb" not in lines[2]
    assert "grad_norm" not in lines[3]


def test_lines_of_one_step_and_attempt_are_one(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write(5, loss=1.0)
    writer.write(5, bpb=2.0)
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert (line["loss"], line["bpb"]) == (1.0, 2.0)
