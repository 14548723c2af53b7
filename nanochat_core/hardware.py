"""What machine this is, read from the system's own files: no torch, no process started, nothing but the standard
library and psutil. The launcher counts GPUs with it, the report names them.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

CPU_INFO = Path("/proc/cpuinfo")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")  # one folder a GPU, made by the driver


@dataclass(frozen=True)
class Hardware:
    """One machine. `cores` are those that this process may use; `gpus` the names of the visible CUDA devices."""

    cpu: str
    cores: int
    memory_gib: float
    gpus: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line, for example "2x NVIDIA H100 80GB HBM3; 26 cores (Intel Xeon 8480+), 440.2 GiB"."""
        names = sorted(set(self.gpus))
        gpus = ", ".join(f"{self.gpus.count(name)}x {name}" for name in names)
        machine = f"{self.cores} cores ({self.cpu}), {self.memory_gib} GiB"
        return f"{gpus}; {machine}" if gpus else machine


def describe() -> Hardware:
    """Return this machine as the running process sees it."""
    return Hardware(
        cpu=cpu_name(),
        cores=usable_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")),
    )


def cpu_name(cpu_info: Path = CPU_INFO) -> str:
    """Return the processor's model, or its architecture where the system does not tell."""
    if cpu_info.is_file():
        for line in cpu_info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may run on (fewer than the machine has, in a container that pins it)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus(visible_devices: str | None, driver: Path = NVIDIA_GPUS) -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs that CUDA will show, in the order of their PCI addresses.

    `visible_devices` is the value of CUDA_VISIBLE_DEVICES: None shows all; "" and "-1" show none; a list shows as many
    as it names. Without the driver's files (no Linux, no NVIDIA driver), there are none.
    """
    names = [_gpu_name(folder) for folder in sorted(driver.iterdir())] if driver.is_dir() else []
    if visible_devices is None:
        return tuple(names)
    wanted = [item.strip() for item in visible_devices.split(",") if item.strip()]
    if "-1" in wanted:  # CUDA stops reading at the first invalid entry
        wanted = wanted[: wanted.index("-1")]
    if wanted and all(item.isdigit() for item in wanted):
        return tuple(names[int(item)] for item in wanted if int(item) < len(names))
    return tuple(names[: len(wanted)])


def _gpu_name(folder: Path) -> str:
    for line in (folder / "information").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Model":
            return value.strip()
    return "NVIDIA GPU"
