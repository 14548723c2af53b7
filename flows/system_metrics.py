"""What the machine does while a stage runs: a line in the stage's system.jsonl every few seconds, which MLflow shows.

The names are those of MLflow's own monitor, so that its page "System metrics" finds them. GPUs are read through NVML
where its Python binding is installed.
"""

import json
import time
from pathlib import Path
from typing import Any

import psutil

SYSTEM_FILE = "system.jsonl"
PERIOD_SECONDS = 10.0
MEGABYTE = 1e6


class SystemMonitor:
    """Samples the machine at most every PERIOD_SECONDS."""

    def __init__(self) -> None:
        self._gpus = gpu_handles()
        self._taken_at = time.monotonic()
        psutil.cpu_percent()  # the next call measures from here

    def write(self, folders: list[Path]) -> None:
        """Append a sample to the file of each folder, if it is time for one."""
        if not folders or time.monotonic() - self._taken_at < PERIOD_SECONDS:
            return
        self._taken_at = time.monotonic()
        values = sample(folders[0]) | self._gpu_sample()
        for folder in folders:
            append(folder / SYSTEM_FILE, values)

    def _gpu_sample(self) -> dict[str, float]:
        values = {}
        for number, handle in enumerate(self._gpus):
            import pynvml

            memory, use = pynvml.nvmlDeviceGetMemoryInfo(handle), pynvml.nvmlDeviceGetUtilizationRates(handle)
            values[f"system/gpu_{number}_utilization_percentage"] = float(use.gpu)
            values[f"system/gpu_{number}_memory_usage_megabytes"] = round(memory.used / MEGABYTE, 1)
            values[f"system/gpu_{number}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        return values


def sample(folder: Path) -> dict[str, float]:
    """Return the use of processors, memory and of the disk that holds `folder`."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": round((memory.total - memory.available) / MEGABYTE, 1),
        "system/system_memory_usage_percentage": memory.percent,
        "system/disk_usage_percentage": disk.percent,
        "system/disk_available_megabytes": round(disk.free / MEGABYTE, 1),
    }


def append(path: Path, values: dict[str, float]) -> None:
    """Add a line; its step is its number in the file, so that a resumed stage goes on counting."""
    step = path.read_bytes().count(b"\n") if path.exists() else 0
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")


def gpu_handles() -> list[Any]:
    """Return NVML's handles of the GPUs; none without a GPU or without the binding."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
