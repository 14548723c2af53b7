from pathlib import Path

import pytest

from nanochat_core import hardware


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """The driver's folder of a machine with two GPUs."""
    for address, model in (("0000:1b:00.0", "NVIDIA H100 80GB HBM3"), ("0000:2c:00.0", "NVIDIA L4")):
        (tmp_path / address).mkdir()
        (tmp_path / address / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 45\n")
    return tmp_path


def test_all_gpus_are_seen_where_nothing_hides_them(driver: Path) -> None:
    assert hardware.visible_gpus(None, driver) == ("NVIDIA H100 80GB HBM3", "NVIDIA L4")


@pytest.mark.parametrize(
    ("visible_devices", "names"),
    [
        ("", ()),
        ("-1", ()),
        ("1", ("NVIDIA L4",)),
        ("1,0", ("NVIDIA L4", "NVIDIA H100 80GB HBM3")),
        ("0,-1,1", ("NVIDIA H100 80GB HBM3",)),
        ("7", ()),
        ("GPU-3f1c", ("NVIDIA H100 80GB HBM3",)),
    ],
)
def test_hidden_gpus_do_not_count(driver: Path, visible_devices: str, names: tuple[str, ...]) -> None:
    assert hardware.visible_gpus(visible_devices, driver) == names


def test_a_machine_without_a_driver_has_no_gpus(tmp_path: Path) -> None:
    assert hardware.visible_gpus(None, tmp_path / "missing") == ()


def test_the_processor_is_named_by_its_model(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A  Good   CPU\n")
    assert hardware.cpu_name(tmp_path / "cpuinfo") == "A Good CPU"
    assert hardware.cpu_name(tmp_path / "missing")


def test_this_machine_has_a_core_and_memory() -> None:
    here = hardware.describe()
    assert here.cores >= 1
    assert here.memory_gib > 0
    assert f"{here.cores} cores" in here.summary


def test_equal_gpus_are_counted_in_the_summary() -> None:
    machine = hardware.Hardware(cpu="CPU", cores=4, memory_gib=8.0, gpus=("L4", "L4"))
    assert machine.summary == "2x L4; 4 cores (CPU), 8.0 GiB"
