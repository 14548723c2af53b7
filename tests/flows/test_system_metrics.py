"""The machine's own curves: written beside the stage's, now and then."""

import json
from pathlib import Path

import pytest

from flows import system_metrics
from flows.system_metrics import SYSTEM_FILE, SystemMonitor
from flows.tracking_points import PointReader


def test_samples_come_every_ten_seconds_and_go_on_counting_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(system_metrics.time, "monotonic", lambda: now[0])
    for seconds in (0.0, 9.0, 1.0, 5.0):  # since the look before
        if seconds == 0.0:
            monitor = SystemMonitor()
        now[0] += seconds
        monitor.write([tmp_path])
    monitor = SystemMonitor()
    now[0] += 11
    monitor.write([tmp_path])
    lines = [json.loads(line) for line in (tmp_path / SYSTEM_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert 0 <= lines[1]["system/cpu_utilization_percentage"] <= 100
    assert 0 < lines[1]["system/system_memory_usage_percentage"] <= 100


def test_they_become_curves_of_their_own_and_count_as_no_work(tmp_path: Path) -> None:
    system_metrics.append(tmp_path / SYSTEM_FILE, {"system/cpu_utilization_percentage": 50.0})
    (point,) = PointReader(tmp_path / SYSTEM_FILE).new_points()
    assert (point.key, point.step, point.value) == ("system/cpu_utilization_percentage", 0, 50.0)
