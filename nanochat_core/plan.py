"""What a recipe takes: every derived number, and memory, time and cost on given hardware. Torch-free.

    time = FLOPs / (GPUs x peak x utilisation)

The utilisation (MFU) is what nanochat's runs on 8xH100 reached with 24 and 26 layers: 50 % of the bf16 peak in bf16,
and as much work as 59 % of the bf16 peak in FP8 (its leaderboard of March 2026). Smaller models reach less.
"""

from dataclasses import dataclass
from typing import Any

import psutil

from nanochat_core import hardware, recipes
from nanochat_core.data.lanes import busiest_rows
from nanochat_core.gpus import GPU, find_gpu, parse_hardware
from nanochat_core.model.accounting import flops_per_token, kv_bytes_per_token, parameter_counts, scaling_parameters
from nanochat_core.model.memory import MEMORY_SHARE, inference_memory, micro_rows, training_memory
from nanochat_core.model_chain import models_of
from nanochat_core.optim import scaling
from nanochat_core.specs import LaunchSpec, PipelineSpec, Precision

MFU: dict[Precision, float] = {"fp32": 0.50, "bf16": 0.50, "fp8": 0.59}  # of the peak in bf16, in fp32 of that in fp32
BENCHMARK = "benchmarks/train.py measures it"


@dataclass(frozen=True)
class Machine:
    """What a plan is for: so many ranks, each with a device of so much memory. `gpu` is None where none is known."""

    label: str
    ranks: int
    memory_bytes: int | None
    gpu: GPU | None
    is_cuda: bool


def plan(spec: PipelineSpec, asked: str | None = None) -> dict[str, Any]:
    """Return everything that can be said before a run, as JSON values; `asked` is hardware such as "8xH100".

    Raises SpecError for unknown hardware, and for what cannot work there.
    """
    machine = named_machine(asked) if asked is not None else machine_at_hand(recipes.resolve(spec).launch)
    launch = spec.launch.model_copy(
        update={"nproc_per_node": machine.ranks, "nnodes": 1, "mode": "local", "rdzv_endpoint": None}
    )
    names = [machine.gpu.name] if asked is not None and machine.gpu else None  # None: this machine's own
    resolved = recipes.resolve(spec.model_copy(update={"launch": launch}), names)
    arithmetic, notes = _arithmetic(resolved.pretrain.precision, machine)
    numbers = derived_numbers(resolved)
    memory = _memory(resolved, machine, arithmetic)
    time, unknown = _time_and_cost(resolved, machine, arithmetic, float(numbers["flops"]))
    notes += [note for note in (_too_large(memory, machine, resolved), unknown) if note]
    return numbers | {"hardware": _hardware(machine), "precision": arithmetic} | memory | time | {"notes": notes}


def derived_numbers(spec: PipelineSpec) -> dict[str, Any]:
    """Return every number of a resolved spec that does not depend on the hardware, by name.

    Raises TypeError where the spec is not resolved.
    """
    pretrain, vocab_size = spec.pretrain, spec.tokenizer.vocab_size
    model, total = pretrain.model, pretrain.total_batch_tokens
    counts = parameter_counts(model, vocab_size)
    flops, tokens = flops_per_token(model, vocab_size), pretrain.steps * total
    return {
        "recipe": spec.recipe,
        "models": [model.name for model in models_of(spec)],
        "arch": model.arch,
        "layers": model.depth,
        "width": model.n_embd,
        "query_heads": model.n_head,
        "key_value_heads": model.n_kv_head,
        "sequence_length": model.sequence_len,
        "vocabulary": vocab_size,
        "parameters": counts["total"],
        "parameters_by_group": {group: count for group, count in counts.items() if group != "total"},
        "scaling_parameters": scaling_parameters(model, vocab_size),
        "tokens": tokens,
        "tokens_per_step": total,
        "steps": pretrain.steps,
        "steps_from": _steps_from(spec),
        "flops_per_token": flops,
        "flops": float(flops * tokens),
        "weight_decay": pretrain.optimizer.weight_decay,
        "rate_factor_of_batch": scaling.rate_batch_factor(model, total),
        "rate_factor_of_width": scaling.rate_width_factor(model.n_embd),
        "shards": spec.download.train_shards,
        "tokenizer_shards": recipes.tokenizer_text(spec).train_shards,
        "token_file_bytes": recipes.token_file_bytes(spec),
        "kv_bytes_per_token": kv_bytes_per_token(model),
        "inference_bytes": inference_memory(model, vocab_size, rows=1, context=model.sequence_len).total,
    }


def named_machine(asked: str) -> Machine:
    """Return the machine that "8xH100" names; raises SpecError for unknown hardware."""
    count, gpu = parse_hardware(asked)
    return Machine(f"{count}x {gpu.name}", count, gpu.memory_bytes, gpu, is_cuda=True)


def machine_at_hand(launch: LaunchSpec) -> Machine:
    """Return this machine, times `launch.nnodes`, as a run would use it: its GPUs, else its processor."""
    here = hardware.describe()
    if here.gpus and launch.device in (None, "cuda"):
        count = launch.nproc_per_node or len(here.gpus)
        known = [gpu for name in here.gpus if (gpu := find_gpu(name))]
        gpu = min(known, key=lambda gpu: gpu.memory_gib) if len(known) == len(here.gpus) else None
        ranks = count * launch.nnodes
        return Machine(f"{ranks}x {here.gpus[0]}", ranks, gpu and gpu.memory_bytes, gpu, is_cuda=True)
    count = launch.nproc_per_node or 1
    memory = psutil.virtual_memory().total // count
    return Machine(f"{here.cores} cores ({here.cpu})", count * launch.nnodes, memory, None, is_cuda=False)


def _steps_from(spec: PipelineSpec) -> str:
    """Say where the steps come from, with the rounding.

    >>> _steps_from(recipes.resolve(recipes.recipe("classic_d20")))
    '11,219,763,200 / 524,288 = 21,400.0 -> 21,400'
    """
    pretrain = spec.pretrain
    horizon = scaling.horizon_tokens(pretrain.model, spec.tokenizer.vocab_size, pretrain.tokens_per_parameter)
    steps, total = pretrain.steps, pretrain.total_batch_tokens
    if steps != max(1, horizon // total):
        return "given (pretrain.steps)"
    return f"{horizon:,} / {total:,} = {horizon / total:,.1f} -> {steps:,}"


def _arithmetic(precision: Precision, machine: Machine) -> tuple[Precision, list[str]]:
    """Return the precision that the machine can train in, with a note where it is another than the recipe's."""
    has_none = not machine.is_cuda or (machine.gpu is not None and not machine.gpu.trains_in_fp8)
    if precision == "fp8" and has_none:
        return "bf16", [f"{machine.label} has no known FP8; planned in bf16."]
    return precision, []


def _hardware(machine: Machine) -> dict[str, Any]:
    gpu = machine.gpu
    return {
        "name": machine.label,
        "ranks": machine.ranks,
        "memory_bytes": machine.memory_bytes,
        "peak_flops_bf16": gpu and gpu.bf16_flops,
        "peak_flops_fp8": gpu and gpu.fp8_flops,
        "bandwidth_bytes_per_second": gpu and gpu.bandwidth,
        "data_sheet": gpu and gpu.sheet,
    }


def _memory(spec: PipelineSpec, machine: Machine, precision: Precision) -> dict[str, Any]:
    """Return the device batch size and what a rank's memory is taken by; of one row where not even that fits."""
    pretrain, vocab_size, ranks = spec.pretrain, spec.tokenizer.vocab_size, machine.ranks
    rows_per_rank = busiest_rows(pretrain.total_batch_tokens // pretrain.model.sequence_len, ranks)
    rows = pretrain.runtime.device_batch_size
    if rows is None and machine.memory_bytes:
        rows = micro_rows(
            pretrain.model,
            vocab_size,
            rows=rows_per_rank,
            memory_bytes=machine.memory_bytes,
            precision=precision,
            ranks=ranks,
            is_cuda=machine.is_cuda,
        )
    rows = min(rows or 1, rows_per_rank)
    parts = training_memory(
        pretrain.model, vocab_size, micro_rows=rows, precision=precision, ranks=ranks, is_cuda=machine.is_cuda
    )
    return {
        "device_batch_size": rows,
        "gradient_accumulation": -(-rows_per_rank // rows),
        "training_bytes": parts.total,
        "training_bytes_by_part": parts.as_dict(),
    }


def _too_large(memory: dict[str, Any], machine: Machine, spec: PipelineSpec) -> str | None:
    rows, needed, there = memory["device_batch_size"], memory["training_bytes"], machine.memory_bytes
    if there is None or needed <= MEMORY_SHARE * there:
        return None
    remedy = "lower pretrain.runtime.device_batch_size"
    if rows == 1:
        remedy = "use a smaller model, more GPUs (they share the optimizer's state) or GPUs with more memory"
    return (
        f"A micro-batch of {rows} x {spec.pretrain.model.sequence_len:,} tokens takes about {needed / 2**30:.1f} GiB, "
        f"more than {MEMORY_SHARE:.0%} of the {there / 2**30:.1f} GiB that are there; {remedy}."
    )


def _time_and_cost(
    spec: PipelineSpec, machine: Machine, precision: Precision, flops: float
) -> tuple[dict[str, Any], str | None]:
    """Return seconds and dollars of the pretraining with what they rest on, and a note where they are unknown."""
    gpu = machine.gpu
    unknown = {"mfu": None, "tokens_per_second": None, "seconds": None, "dollars": None, "dollars_per_gpu_hour": None}
    if gpu is None:
        what = "this GPU" if machine.is_cuda else "a processor"
        return unknown, f"Time and cost are unknown: no rate of {what} ({machine.label}) is in the table; {BENCHMARK}."
    peak = gpu.fp32_flops if precision == "fp32" else gpu.bf16_flops
    if peak is None:
        return unknown, f"Time and cost are unknown: {gpu.name} has no {precision} of its own; {BENCHMARK}."
    rows = spec.pretrain.total_batch_tokens // spec.pretrain.model.sequence_len
    waiting = busiest_rows(rows, machine.ranks) * machine.ranks / rows  # all ranks wait for the busiest
    seconds = flops * waiting / (machine.ranks * peak * MFU[precision])
    price, source = _price(spec.launch, gpu)
    tokens = spec.pretrain.steps * spec.pretrain.total_batch_tokens
    return {
        "mfu": MFU[precision],
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "dollars": seconds / 3600 * machine.ranks * price,
        "dollars_per_gpu_hour": price,
        "price_from": source,
    }, None


def _price(launch: LaunchSpec, gpu: GPU) -> tuple[float, str]:
    """Return dollars for a GPU hour and where they are from: the user's own, else the table's."""
    if launch.gpu_hour_dollars != LaunchSpec.model_fields["gpu_hour_dollars"].default:
        return launch.gpu_hour_dollars, "launch.gpu_hour_dollars"
    return gpu.dollars_per_hour, gpu.price_source
