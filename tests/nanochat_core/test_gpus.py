import pytest

from nanochat_core.errors import SpecError
from nanochat_core.gpus import GPUS, find_gpu, parse_hardware


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("8xH100", 8, "H100"),
        (" 8 x h100 sxm ", 8, "H100"),
        ("2×H200", 2, "H200"),
        ("b200", 1, "B200"),
        ("4x4090", 4, "RTX 4090"),
        ("4090", 1, "RTX 4090"),
        ("8xA100-40", 8, "A100 40GB"),
        ("8xA100", 8, "A100 80GB"),
    ],
)
def test_hardware_is_a_number_and_a_name(text: str, count: int, name: str) -> None:
    found, gpu = parse_hardware(text)
    assert (found, gpu.name) == (count, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8xH10", r"Unknown hardware '8xH10' \(did you mean 'H100' or 'H100 NVL'\?\)"),
        ("8xMI300", "did you mean 'MI300X'"),
        ("abacus", r"known: B200, H200, H100, .*T4"),
        ("", "known: B200"),
        ("8x", "known: B200"),
        ("-8xH100", "Unknown hardware"),
        (f"{10**12}xH100", "Unknown hardware"),
        ("0xH100", "has no GPU; expected 1 or more"),
    ],
)
def test_unknown_hardware_is_refused_with_close_names(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_hardware(text)


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("AMD Instinct MI300X OAM", "MI300X"),
    ],
)
def test_names_of_drivers_are_known(driver_name: str, name: str) -> None:
    gpu = find_gpu(driver_name)
    assert gpu and gpu.name == name


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA L40"])
def test_a_name_that_only_resembles_a_gpu_is_another_gpu(name: str) -> None:
    assert find_gpu(name) is None


def test_the_table_is_of_dense_rates_in_the_right_units() -> None:
    names = [name for gpu in GPUS for name in (gpu.name, *gpu.aliases)]
    assert len(names) == len(set(names))
    for gpu in GPUS:
        assert 10 <= gpu.memory_gib <= 512 and gpu.memory_bytes == gpu.memory_gib * 2**30
        assert 1e11 < gpu.bandwidth < 1e13
        assert 0.1 < gpu.dollars_per_hour < 15 and gpu.price_source and gpu.sheet
        assert 5e12 < gpu.fp32_flops < 2e14
        if gpu.bf16_flops:
            assert 1.9 < gpu.bf16_flops / gpu.fp32_flops < 35
        if gpu.fp8_flops:
            assert gpu.bf16_flops and gpu.fp8_flops / gpu.bf16_flops == pytest.approx(2, abs=0.03)
