"""GPUs: memory, peak rates, bandwidth and the price of an hour. Torch-free; the one table of them.

Rates are dense (no structured sparsity), with float32 accumulation where a data sheet tells these apart; each sheet is
named beside its row. Memory is as on the sheet, in GiB, as drivers count; they and ECC keep up to a sixteenth of it.
Prices are dollars for an hour of one GPU, on demand, and a rough guide only: providers differ by a factor of four
(`launch.gpu_hour_dollars` is the place for your own).
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat_core.errors import SpecError
from nanochat_core.specs import Precision

TERA = 1e12
HOPPER = ("H100", "H200", "H800", "H20", "GH200")  # where training in FP8 has been measured to pay,
FP8_DEPTH = 16  # from so many layers on: below, the casts take longer than the products save
PUBLISHED_RUN = "as nanochat's d32 was billed"  # $1,000 for 41.6 h of eight
RUNPOD = "RunPod's list, March 2026"
LAMBDA = "Lambda's list, September 2026"
VENDORS = ("nvidia", "geforce", "tesla", "amd", "instinct")  # left out of names before they are compared


@dataclass(frozen=True)
class GPU:
    """One kind of GPU. Rates are in FLOP/s, None where the hardware lacks the type; bandwidth is in bytes/s."""

    name: str
    aliases: tuple[str, ...]  # other names, a driver's among them
    memory_gib: float
    fp32_flops: float
    bf16_flops: float | None
    fp8_flops: float | None
    bandwidth: float
    dollars_per_hour: float
    price_source: str
    sheet: str

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gib * 2**30)

    @property
    def trains_in_fp8(self) -> bool:
        """Whether training computes in its FP8: NVIDIA's formats, not those of AMD's Instinct."""
        return self.fp8_flops is not None and not self.name.startswith("MI")

    def peak_flops(self, precision: Precision) -> float | None:
        """Return the dense peak of matrix products in `precision`, or None where there is none."""
        return {"fp32": self.fp32_flops, "bf16": self.bf16_flops, "fp8": self.fp8_flops}[precision]


def _gpu(
    names: tuple[str, ...],
    memory_gib: float,
    teraflops: tuple[float, float | None, float | None],
    terabytes_per_second: float,
    price: tuple[float, str],
    sheet: str,
) -> GPU:
    """Return a row; `teraflops` are those of fp32, bf16 and fp8."""
    fp32, bf16, fp8 = (None if rate is None else rate * TERA for rate in teraflops)
    assert fp32 is not None
    return GPU(names[0], names[1:], memory_gib, fp32, bf16, fp8, terabytes_per_second * TERA, *price, sheet)


GPUS = (
    _gpu(("B200", "B200 SXM"), 180, (75, 2250, 4500), 8.0, (5.98, RUNPOD), "NVIDIA DGX B200 and HGX B200"),
    _gpu(("H200", "H200 SXM"), 141, (67, 989.5, 1979), 4.8, (3.59, RUNPOD), "NVIDIA H200"),
    _gpu(
        ("H100", "H100 SXM", "H100 SXM5", "H100 80GB HBM3"),
        80,
        (67, 989.5, 1979),
        3.35,
        (3.00, PUBLISHED_RUN),
        "NVIDIA H100",
    ),
    _gpu(("H100 NVL",), 94, (60, 835.5, 1670.5), 3.9, (2.59, RUNPOD), "NVIDIA H100 NVL"),
    _gpu(("H100 PCIe",), 80, (51, 756.5, 1513), 2.0, (1.99, RUNPOD), "NVIDIA H100"),
    _gpu(
        ("A100 80GB", "A100", "A100 SXM", "A100 SXM4 80GB", "A100-80"),
        80,
        (19.5, 312, None),
        2.039,
        (1.39, RUNPOD),
        "NVIDIA A100",
    ),
    _gpu(("A100 80GB PCIe", "A100 PCIe"), 80, (19.5, 312, None), 1.935, (1.19, RUNPOD), "NVIDIA A100"),
    _gpu(
        ("A100 40GB", "A100-40", "A100 SXM4 40GB", "A100 PCIE 40GB"),
        40,
        (19.5, 312, None),
        1.555,
        (1.99, LAMBDA),
        "NVIDIA A100 (2020)",
    ),
    _gpu(("L40S",), 48, (91.6, 362.05, 733), 0.864, (0.79, RUNPOD), "NVIDIA L40S"),
    _gpu(("L4",), 24, (30.3, 121, 242.5), 0.3, (0.44, RUNPOD), "NVIDIA L4"),
    _gpu(("T4",), 16, (8.1, None, None), 0.32, (0.35, "Google Cloud's list of GPU prices"), "NVIDIA T4"),
    _gpu(
        ("RTX 5090", "5090"), 32, (104.8, 209.5, 419), 1.792, (0.69, RUNPOD), "NVIDIA RTX Blackwell architecture paper"
    ),
    _gpu(("RTX 4090", "4090"), 24, (82.6, 165.2, 330.3), 1.008, (0.34, RUNPOD), "NVIDIA Ada architecture paper"),
    _gpu(("RTX 3090", "3090"), 24, (35.6, 71, None), 0.936, (0.22, RUNPOD), "NVIDIA Ampere GA102 architecture paper"),
    _gpu(
        ("MI300X", "MI300X OAM"),
        192,
        (163.4, 1307.4, 2614.9),
        5.3,
        (1.99, "the median of five providers, May 2026"),
        "AMD Instinct MI300X",
    ),
)


def find_gpu(name: str) -> GPU | None:
    """Return the GPU with this name, as people or drivers write it, or None.

    >>> find_gpu("NVIDIA H100 80GB HBM3").name, find_gpu("rtx4090").name, find_gpu("NVIDIA GeForce RTX 3090 Ti")
    ('H100', 'RTX 4090', None)
    """
    return _by_plain_name().get(_plain(name))


def default_precision(names: Sequence[str], depth: int) -> Precision:
    """Return fp8 for a model of so many layers where all GPUs are Hopper's, by their names; else bf16.

    >>> default_precision(["NVIDIA H100 80GB HBM3"] * 8, 24), default_precision([], 24)
    ('fp8', 'bf16')
    """
    are_hopper = bool(names) and all(set(re.split(r"[^A-Z0-9]+", name.upper())) & set(HOPPER) for name in names)
    return "fp8" if are_hopper and depth >= FP8_DEPTH else "bf16"


def parse_hardware(text: str) -> tuple[int, GPU]:
    """Return how many of which GPU "8xH100" names; "H100" is one. Raises SpecError with the closest known names.

    >>> count, gpu = parse_hardware("8xH100")
    >>> count, gpu.name, gpu.memory_gib
    (8, 'H100', 80)
    """
    match = re.fullmatch(r"\s*(?:(\d{1,6})\s*[x×*]\s*)?(\S.*?)\s*", text)
    count, name = (int(match[1] or 1), match[2]) if match else (1, text)
    gpu = find_gpu(name)
    if gpu is None:
        raise SpecError(
            f"Unknown hardware {text!r}{_close_names(name)}; expected a number of GPUs and their name, like 8xH100."
        )
    if count == 0:
        raise SpecError(f"Hardware {text!r} has no GPU; expected 1 or more, like 8xH100.")
    return count, gpu


def _close_names(name: str) -> str:
    """Return " (did you mean 'H100'?)" with the three closest GPUs at most, or the list of all.

    >>> _close_names("H10")
    " (did you mean 'H100' or 'H100 NVL'?)"
    """
    known = _by_plain_name()
    close = dict.fromkeys(known[plain].name for plain in difflib.get_close_matches(_plain(name), known, n=3))
    if close:
        return f" (did you mean {' or '.join(map(repr, close))}?)"
    return f" (known: {', '.join(gpu.name for gpu in GPUS)})"


def _by_plain_name() -> dict[str, GPU]:
    return {_plain(name): gpu for gpu in GPUS for name in (gpu.name, *gpu.aliases)}


def _plain(name: str) -> str:
    """Return a name without vendor, case, blanks and signs.

    >>> _plain("NVIDIA A100-SXM4-80GB"), _plain("Tesla T4")
    ('a100sxm480gb', 't4')
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "".join(word for word in words if word not in VENDORS)
