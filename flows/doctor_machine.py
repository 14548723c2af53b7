"""Doctor's checks of this machine: versions, cores and memory, GPUs, disk, shared memory, file locks."""

import fcntl
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from flows import launch
from flows.doctor_finding import Check, Finding
from flows.serving import record as serving_record
from nanochat_core import hardware
from nanochat_core.errors import NanochatError

GIB = 1 << 30
SHOWN = ("torch", "prefect", "mlflow")
MIN_PYTHON = (3, 11)
DRIVER = Path("/proc/driver/nvidia/version")
SHARED_MEMORY = Path("/dev/shm")
LOW_DISK, NO_DISK, LOW_MEMORY, LOW_SHARED = 20 * GIB, 2 * GIB, 2 * GIB, GIB
LOW_INODES = 100_000
BUSY_SHARE = 0.1  # of a GPU's memory in use


def versions(base: Path) -> Iterator[Finding]:
    """Python and every package that nanochat declares, by their metadata: nothing is imported."""
    python = platform.python_version()
    is_new = sys.version_info >= MIN_PYTHON
    yield Finding("python", "ok" if is_new else "problem", python, "" if is_new else "install Python 3.11 or newer")
    if wrong := broken_pins():
        yield Finding("packages", "problem", "; ".join(wrong), "pip install -c constraints.txt -e .")
    else:
        yield Finding("packages", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN))


def broken_pins() -> list[str]:
    """Return each declared requirement that the installed packages do not meet."""
    wrong = []
    for line in metadata.requires("nanochat") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = "none"
        if version == "none" or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, needed {requirement.specifier}")
    return wrong


def processor(base: Path) -> Iterator[Finding]:
    """Cores that we may use, and memory."""
    free = psutil.virtual_memory().available
    machine = hardware.describe()
    found = f"{machine.cores} cores ({machine.cpu}), {free / GIB:.1f} of {machine.memory_gib} GiB free"
    if free < LOW_MEMORY:
        yield Finding("cpu, memory", "warning", found, "the demo needs about 2 GiB: end what else runs here")
    else:
        yield Finding("cpu, memory", "ok", found)


def gpus(base: Path) -> Iterator[Finding]:
    """NVIDIA's GPUs, its driver, and whether this torch can use them."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    there, visible = hardware.visible_gpus(None), hardware.visible_gpus(devices)
    if not there:
        if shutil.which("nvidia-smi"):
            yield Finding("gpu", "warning", "nvidia-smi is there, but no GPU of its driver", "reinstall the driver")
        else:
            yield Finding("gpu", "ok", "none: the demo runs on the CPU, real recipes want GPUs")
        return
    driver = driver_version(DRIVER)
    found = f"{len(visible)} of {len(there)} visible: {', '.join(sorted(set(there)))}; driver {driver}"
    if len(visible) < len(there):
        remedy = f"CUDA_VISIBLE_DEVICES={devices!r} hides the others: unset it, if that is not meant"
        yield Finding("gpu", "warning", found, remedy)
    else:
        yield Finding("gpu", "ok", found)
    yield from cuda_packages(len(visible))
    yield from gpu_memory(is_serving=bool(serving_record.living(base)))


def driver_version(path: Path) -> str:
    """Return the version in the driver's own words, "unknown" where it tells none."""
    words = path.read_text(errors="replace").split() if path.exists() else []
    return next((word for word in words if word.count(".") >= 1 and word.replace(".", "").isdigit()), "unknown")


def cuda_packages(visible: int) -> Iterator[Finding]:
    """Whether torch is built for CUDA, and NCCL is there for several GPUs."""
    torch = metadata.version("torch")
    if torch.endswith("+cpu"):
        yield Finding("torch", "problem", f"{torch} cannot use the GPUs", "install torch for CUDA: pytorch.org")
    nccl = next((d for d in metadata.distributions() if (d.name or "").startswith("nvidia-nccl")), None)
    if nccl is not None:
        yield Finding("nccl", "ok", f"{nccl.name} {nccl.version}")
    elif visible > 1:
        yield Finding("nccl", "problem", "not installed: several GPUs cannot train together", "install torch for CUDA")


def gpu_memory(*, is_serving: bool = False) -> Iterator[Finding]:
    """What nvidia-smi says of each GPU: is somebody there already? A server of ours is no stranger."""
    try:
        rows = launch.ask_nvidia("index", "memory.used", "memory.total")
    except NanochatError as error:
        yield Finding("gpu memory", "problem", str(error), "the driver does not answer: see dmesg, restart the machine")
        return
    sizes = [(index, float(used), float(total)) for index, used, total in rows if total.replace(".", "").isdigit()]
    found = ", ".join(f"{index}: {used / 1024:.1f} of {total / 1024:.0f} GiB used" for index, used, total in sizes)
    busy = any(used > BUSY_SHARE * total for _, used, total in sizes)
    if busy and is_serving:
        yield Finding("gpu memory", "ok", f"{found}; a model is served here, see below")
        return
    remedy = "nvidia-smi shows whose processes hold it; a training needs it free" if busy else ""
    yield Finding("gpu memory", "warning" if busy else "ok", found or "not told", remedy)


def disk(base: Path) -> Iterator[Finding]:
    """Space and inodes where the artifacts go."""
    place = nearest(base)
    free, inodes = shutil.disk_usage(place).free, os.statvfs(place).f_favail
    found = f"{free / GIB:.1f} GiB and {inodes:,} inodes free in {base}"
    if free < NO_DISK:
        yield Finding("disk", "problem", found, "free space (`nanochat gc`), or set NANOCHAT_BASE_DIR elsewhere")
    elif free < LOW_DISK:
        remedy = "enough for the demo; classic_d20 takes about 85 GiB, 25 of them tokens (`nanochat gc` frees some)"
        yield Finding("disk", "warning", found, remedy)
    elif 0 < inodes < LOW_INODES:
        yield Finding("disk", "warning", found, "few files can be made: remove small files, or use another file system")
    else:
        yield Finding("disk", "ok", found)


def shared_memory(base: Path) -> Iterator[Finding]:
    """/dev/shm, through which the ranks of a node talk."""
    if not SHARED_MEMORY.is_dir():
        yield Finding("shared memory", "ok", f"no {SHARED_MEMORY} here: nothing depends on it")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    is_low = free < LOW_SHARED and len(hardware.visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))) > 1
    remedy = "NCCL needs about 1 GiB: start the container with --shm-size=8g" if is_low else ""
    yield Finding("shared memory", "warning" if is_low else "ok", f"{free / GIB:.1f} GiB free in /dev/shm", remedy)


def file_locks(base: Path) -> Iterator[Finding]:
    """Can files be written there, and does a lock on one keep others out? (Not on every network file system.)"""
    place = nearest(base)
    if base.exists() and not base.is_dir():
        yield Finding("file locks", "problem", f"{base} is a file", "set NANOCHAT_BASE_DIR to a folder")
        return
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".nanochat-doctor-") as folder:
            excludes = lock_excludes(Path(folder) / "lock")
    except OSError as error:
        remedy = "make the folder writable, or set NANOCHAT_BASE_DIR to one that is"
        yield Finding("file locks", "problem", f"{place} cannot be written: {error}", remedy)
        return
    if excludes:
        yield Finding("file locks", "ok", f"work in {place}")
    else:
        remedy = "two runs would write one folder: mount it with locks (NFS: without nolock), or use a local disk"
        yield Finding("file locks", "problem", f"keep nobody out in {place}", remedy)


def lock_excludes(path: Path) -> bool:
    """Tell whether a lock on the file, made here, is refused to a second one who opens it."""
    with open(path, "w") as first, open(path, "w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def nearest(path: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


CHECKS: tuple[Check, ...] = (versions, processor, gpus, disk, shared_memory, file_locks)
