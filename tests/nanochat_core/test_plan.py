"""The numbers of a plan, against the published ones, and what it says of hardware."""

from decimal import Decimal
from typing import Any

import pytest

from nanochat_core import hardware
from nanochat_core.errors import SpecError
from nanochat_core.gpus import parse_hardware
from nanochat_core.plan import MFU, derived_numbers, plan
from nanochat_core.recipes import recipe, resolve
from nanochat_core.specs import PipelineSpec, with_changes

GIB = 2**30

# Published for `full` at a vocabulary of 32,768 and 12 tokens for each counted parameter. M: millions, B: billions.
# One cell was published as 4.96e8, the FLOPs of d10: 6·(49,152,300 + 20,971,520 + 24) + 12·640·(3·2,048 + 7·512) =
# 495,454,104 rounds to 4.95e8 (to 4.96e8 only by way of 4.955e8).
COLUMNS = (
    *("layers", "width", "query_heads", "matrices", "head", "value_embeddings", "parameters", "scaling_parameters"),
    *("flops_per_token", "tokens", "tokens_per_step", "steps", "rate_factor_of_batch", "weight_decay", "flops"),
)
FULL = """
    4  256  2  3.1M    8.4M  16.8M   36.7M   11.5M   8.02e7  0.14B 262144  528   .707  1.890 1.1e16
    8  512  4  25.2M   16.8M 67.1M   125.8M  41.9M   2.96e8  0.50B 262144  1920  .707  .520  1.5e17
    10 640  5  49.2M   21.0M 104.9M  196.0M  70.1M   4.95e8  0.84B 524288  1605  1     .440  4.2e17
    12 768  6  84.9M   25.2M 151.0M  286.3M  110.1M  7.60e8  1.32B 524288  2520  1     .280  1.0e18
    16 1024 8  201.3M  33.6M 268.4M  536.9M  234.9M  1.59e9  2.82B 524288  5376  1     .131  4.5e18
    18 1152 9  286.7M  37.7M 339.7M  701.9M  324.4M  2.18e9  3.89B 1048576 3712  1.414 .134  8.5e18
    20 1280 10 393.2M  41.9M 419.4M  896.5M  435.2M  2.89e9  5.22B 1048576 4980  1.414 .100  1.5e19
    22 1408 11 523.4M  46.1M 507.5M  1123.2M 569.5M  3.76e9  6.83B 1048576 6517  1.414 .0766 2.6e19
    24 1536 12 679.5M  50.3M 604.0M  1384.1M 729.8M  4.78e9  8.76B 1048576 8352  1.414 .0597 4.2e19
    26 1664 13 863.9M  54.5M 708.8M  1681.8M 918.4M  5.99e9  11.0B 1048576 10510 1.414 .0475 6.6e19
    32 2048 16 1610.6M 67.1M 1073.7M 2818.6M 1677.7M 1.08e10 20.1B 2097152 9600  2     .0368 2.2e20
"""
ROWS = [line.split() for line in FULL.strip().splitlines()]


def agrees(value: float, shown: str) -> bool:
    """Return whether a value, rounded to the digits of a number as it is shown, is that number."""
    scale = {"M": 10**6, "B": 10**9}.get(shown[-1], 1)
    digits = Decimal(shown.rstrip("MB"))
    unit = Decimal(1).scaleb(int(digits.as_tuple().exponent))
    return abs(Decimal(value) / scale - digits) <= unit / 2


def test_a_number_agrees_with_the_digits_that_are_shown_and_no_others() -> None:
    assert agrees(36_712_000, "36.7M") and agrees(1.8899, "1.890") and agrees(8.0249e7, "8.02e7") and agrees(528, "528")
    assert not agrees(36_760_000, "36.7M") and not agrees(8.026e7, "8.02e7") and not agrees(529, "528")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"d{row[0]}")
def test_the_full_models_have_the_published_sizes_and_horizons(row: list[str]) -> None:
    changes = {"pretrain.model.arch": "full", "pretrain.model.depth": int(row[0]), "tokenizer.vocab_size": 32_768}
    spec = with_changes(recipe("d12"), changes | {"pretrain.tokens_per_parameter": 12.0})
    numbers = derived_numbers(resolve(spec))
    numbers |= numbers["parameters_by_group"]
    assert numbers["embedding"] == numbers["head"]
    wrong = {name: (numbers[name], shown) for name, shown in zip(COLUMNS, row, strict=True)}
    assert {name: pair for name, pair in wrong.items() if not agrees(*pair)} == {}


@pytest.mark.parametrize(
    ("name", "parameters", "steps", "shards", "flops_per_token", "flops"),
    [
        ("classic_d20", 560_988_160, 21_400, 240, "3.49e9", "3.92e19"),
        ("classic_d26", None, 41_275, 450, None, None),
        ("classic_d30", None, 60_225, 650, None, None),
        ("classic_d32", 1_879_048_192, 71_680, 800, "1.208e10", "4.54e20"),
    ],
)
def test_the_classic_tiers_have_the_published_counts(
    name: str, parameters: int | None, steps: int, shards: int, flops_per_token: str | None, flops: str | None
) -> None:
    numbers = derived_numbers(resolve(recipe(name)))
    assert (numbers["steps"], numbers["shards"], numbers["tokens_per_step"]) == (steps, shards, 524_288)
    assert numbers["tokens"] == steps * 524_288
    assert numbers["parameters"] == (parameters or numbers["parameters"])
    assert agrees(numbers["flops_per_token"], flops_per_token or str(numbers["flops_per_token"]))
    assert agrees(numbers["flops"], flops or str(numbers["flops"]))


def test_the_rounding_of_the_steps_is_shown_and_what_was_given_is_called_so() -> None:
    d26 = derived_numbers(resolve(recipe("classic_d26")))
    assert d26["steps_from"] == "21,639,987,200 / 524,288 = 41,275.0 -> 41,275"
    d22 = derived_numbers(resolve(recipe("d22")))
    assert d22["steps_from"] == "6,834,111,504 / 1,048,576 = 6,517.5 -> 6,517"
    given = resolve(with_changes(recipe("classic_d20"), {"pretrain.steps": 7}))
    assert derived_numbers(given)["steps_from"] == "given (pretrain.steps)"


def test_tokens_on_disk_take_two_bytes_four_of_a_large_vocabulary_or_none() -> None:
    def on_disk(spec: PipelineSpec) -> Any:
        return derived_numbers(resolve(spec))["token_file_bytes"]

    assert on_disk(recipe("classic_d20")) == 25_000_000_000
    assert on_disk(with_changes(recipe("demo"), {"download.local_characters": 4_800_000})) == 2_000_000
    large = with_changes(recipe("classic_d20"), {"tokenizer.vocab_size": 65_537})
    assert on_disk(large) == 50_000_000_000
    assert on_disk(with_changes(large, {"pretrain.runtime.tokens": "on_the_fly"})) == 0
    assert on_disk(recipe("classic_d20", data="path", path="/data")) is None


@pytest.mark.parametrize(
    ("name", "precision", "hours"),
    [("classic_d20", "bf16", 3.0), ("speedrun", "fp8", 5934 / 3600), ("d24", "bf16", 3.04)],
)
def test_the_time_on_eight_h100_is_near_the_published_one(name: str, precision: str, hours: float) -> None:
    numbers = plan(with_changes(recipe(name), {"pretrain.precision": precision}), "8xH100")
    assert numbers["seconds"] / 3600 == pytest.approx(hours, rel=0.1)
    assert numbers["dollars"] == pytest.approx(numbers["seconds"] / 3600 * 8 * 3.0)
    peak = parse_hardware("H100")[1].bf16_flops
    assert peak and numbers["seconds"] == numbers["flops"] / (8 * peak * MFU[numbers["precision"]])


def test_a_price_of_your_own_goes_before_the_table() -> None:
    own = plan(with_changes(recipe("classic_d20"), {"launch.gpu_hour_dollars": 1.5}), "8xH100")
    assert own["dollars_per_gpu_hour"] == 1.5 and own["price_from"] == "launch.gpu_hour_dollars"


def test_micro_batches_fill_a_step() -> None:
    numbers = plan(recipe("classic_d20"), "2xH100")
    rows = numbers["device_batch_size"] * numbers["gradient_accumulation"]
    assert rows * 2 * numbers["sequence_length"] == numbers["tokens_per_step"]
    given = plan(with_changes(recipe("classic_d20"), {"pretrain.runtime.device_batch_size": 3}), "2xH100")
    assert (given["device_batch_size"], given["gradient_accumulation"]) == (3, 43)


def test_all_ranks_wait_for_the_busiest() -> None:
    changes = {"sft.batch_rows": 24, "rl": None, "midtrain": None}
    two, three = (plan(with_changes(recipe("classic_d20"), changes), f"{count}xH100") for count in (2, 3))
    assert three["seconds"] / two["seconds"] == pytest.approx(88 / 128)  # 256 rows: 22, 21 and 21 lanes of 4


def test_what_does_not_fit_is_said_with_what_to_do() -> None:
    (note,) = plan(recipe("d32"), "rtx4090")["notes"]
    assert note.startswith("A micro-batch of 1 x 2,048 tokens takes about") and "more than 90% of the 24.0 GiB" in note
    wide = with_changes(recipe("d32"), {"pretrain.runtime.device_batch_size": 64})
    (note,) = plan(wide, "8xH100")["notes"]
    assert note.endswith("lower pretrain.runtime.device_batch_size.")


def test_fp8_is_planned_in_bf16_where_the_hardware_has_none() -> None:
    assert plan(recipe("speedrun"), "8xH100")["precision"] == "fp8"
    numbers = plan(with_changes(recipe("speedrun"), {"pretrain.precision": "fp8"}), "8xA100")
    assert numbers["precision"] == "bf16"
    assert "8x A100 80GB has no known FP8; planned in bf16." in numbers["notes"]


def test_a_gpu_without_bf16_has_no_time() -> None:
    numbers = plan(recipe("d12"), "T4")
    assert numbers["seconds"] is None and "T4 has no bf16 of its own" in numbers["notes"][0]


def at_hand(monkeypatch: pytest.MonkeyPatch, *gpus: str) -> None:
    here = hardware.Hardware(cpu="CPU", cores=4, memory_gib=8.0, gpus=gpus)
    monkeypatch.setattr(hardware, "describe", lambda: here)


def test_without_a_wish_the_plan_is_for_the_gpus_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    at_hand(monkeypatch, *["NVIDIA H100 80GB HBM3"] * 8)
    assert plan(recipe("classic_d20"))["seconds"] == plan(recipe("classic_d20"), "8xH100")["seconds"]
    two = plan(with_changes(recipe("classic_d20"), {"launch.nproc_per_node": 2}))
    assert two["hardware"]["ranks"] == 2
    nodes = {"launch.mode": "multinode", "launch.nnodes": 2, "launch.rdzv_endpoint": "head:29500"}
    assert plan(with_changes(recipe("classic_d20"), nodes))["hardware"]["ranks"] == 16


def test_a_gpu_that_the_table_does_not_have_gives_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_hand(monkeypatch, "NVIDIA GeForce RTX 3090 Ti")
    numbers = plan(recipe("d12"))
    assert numbers["seconds"] is numbers["dollars"] is numbers["hardware"]["memory_bytes"] is None
    assert "benchmarks/train.py measures it" in numbers["notes"][0]


def test_a_processor_has_memory_but_no_invented_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_hand(monkeypatch)
    numbers = plan(recipe("demo"))
    assert numbers["seconds"] is None and "a processor" in numbers["notes"][0]
    assert 0 < numbers["training_bytes"] < numbers["hardware"]["memory_bytes"]
    assert numbers["hardware"]["peak_flops_bf16"] is None


def test_a_launch_that_cannot_work_is_refused_in_a_plan_too(monkeypatch: pytest.MonkeyPatch) -> None:
    at_hand(monkeypatch)
    with pytest.raises(SpecError, match=r"launch\.nnodes: 2 machines need"):
        plan(with_changes(recipe("demo"), {"launch.nnodes": 2}))
    with pytest.raises(SpecError, match="fewer than 256 ranks"):
        plan(recipe("classic_d20"), "256xH100")
