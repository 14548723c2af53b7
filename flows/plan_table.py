"""What `nanochat plan` prints for people: the numbers of a plan, in groups, with where they come from."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

GIB = 2**30
Row = tuple[str, str, str]  # what, how much, where from
PARTS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "low_precision_weights": "weights in low precision",
    "activations": "activations",
    "logits": "logits, a chunk",
}
GROUPS = {
    "embedding": "token embedding",
    "head": "output head",
    "matrices": "matrices of the layers",
    "value_embeddings": "value embeddings",
    "scalars": "scalars",
}


def table_of(plan: dict[str, Any], title: str) -> Table:
    """Return the plan as one table, a section for each group."""
    table = Table("", "", "", title=title, title_justify="left", show_header=False)
    table.columns[1].justify = "right"
    table.columns[2].style = "dim"
    for name, rows in (
        ("Model", _model(plan)),
        ("Training", _training(plan)),
        ("Data", _data(plan)),
        ("Memory of a device", _memory(plan)),
        ("Time and cost", _time(plan)),
    ):
        table.add_row(Text(name, style="bold"), "", "")
        for what, value, source in rows:
            table.add_row(f"  {what}", value, source)
        table.add_section()
    return table


def _model(plan: dict[str, Any]) -> Iterator[Row]:
    yield "blocks", plan["arch"], ""
    yield "layers x width", f"{plan['layers']} x {plan['width']:,}", ""
    yield "query, key/value heads", f"{plan['query_heads']}, {plan['key_value_heads']}", ""
    yield "sequence length", f"{plan['sequence_length']:,} tokens", ""
    yield "vocabulary", f"{plan['vocabulary']:,} tokens", ""
    yield "parameters", f"{plan['parameters']:,}", ""
    for group, count in plan["parameters_by_group"].items():
        yield f"  {GROUPS.get(group, group)}", f"{count:,}", f"{count / plan['parameters']:.1%}"
    yield "FLOPs per token", f"{plan['flops_per_token']:.4g}", "forward and backward"
    yield "to answer with", size(plan["inference_bytes"]), "at least: weights in 16 bits, and the cache of one row"


def _training(plan: dict[str, Any]) -> Iterator[Row]:
    yield "models, in order", str(len(plan["models"])), ", ".join(plan["models"])
    ratio, counted = plan["tokens"] / plan["scaling_parameters"], plan["scaling_parameters"]
    yield "tokens", f"{plan['tokens']:,}", f"{ratio:.3g} for each of {counted:,} parameters"
    yield "tokens a step", f"{plan['tokens_per_step']:,}", ""
    yield "steps", f"{plan['steps']:,}", plan["steps_from"]
    yield "FLOPs", f"{plan['flops']:.4g}", ""
    yield "arithmetic", plan["precision"], ""
    yield "Muon weight decay", f"{plan['weight_decay']:.4g}", ""
    yield "rate factor of the batch", f"{plan['rate_factor_of_batch']:.4g}", ""
    yield "rate factor of the width", f"{plan['rate_factor_of_width']:.4g}", "of embeddings and head"


def _data(plan: dict[str, Any]) -> Iterator[Row]:
    yield "training shards", _count(plan["shards"]), ""
    yield "shards for the tokenizer", _count(plan["tokenizer_shards"]), ""
    on_disk = plan["token_file_bytes"]
    yield "tokens on disk", "unknown" if on_disk is None else size(on_disk), ""


def _memory(plan: dict[str, Any]) -> Iterator[Row]:
    rows, ranks = plan["device_batch_size"], plan["hardware"]["ranks"]
    yield "hardware", plan["hardware"]["name"], ""
    yield "device batch", f"{rows} row{'s' * (rows > 1)}", f"{rows * plan['sequence_length']:,} tokens"
    micro = plan["gradient_accumulation"]
    yield "gradient accumulation", f"{micro:,}", f"micro-batches a step, on each of {ranks:,} rank{'s' * (ranks > 1)}"
    there = plan["hardware"]["memory_bytes"]
    yield "estimate", size(plan["training_bytes"]), f"of {size(there)}" if there else "of an unknown amount"
    for part, count in plan["training_bytes_by_part"].items():
        yield f"  {PARTS.get(part, part)}", size(count), ""


def _time(plan: dict[str, Any]) -> Iterator[Row]:
    if plan["seconds"] is None:
        yield "pretraining", "unknown", ""
        return
    peak = plan["hardware"]["peak_flops_bf16"] or 0
    base = "fp32" if plan["precision"] == "fp32" else f"{peak / 1e12:,.0f} TFLOP/s in bf16"
    yield "pretraining", duration(plan["seconds"]), f"at {plan['mfu']:.0%} of {base}; small models reach less"
    yield "tokens a second", f"{plan['tokens_per_second']:,.0f}", "all ranks together"
    price = f"${plan['dollars_per_gpu_hour']:.2f} a GPU hour"
    yield "cost", f"${plan['dollars']:,.2f}", f"{price} ({plan['price_from']})"


def _count(value: int | None) -> str:
    return "all" if value is None else f"{value:,}"


def size(count: int) -> str:
    """Return bytes as people read them.

    >>> size(85_899_345_920), size(5_000_000)
    ('80.0 GiB', '4.8 MiB')
    """
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Return a time as people read it.

    >>> duration(9900), duration(75), duration(400_000), duration(0.4)
    ('2 h 45 min', '1 min 15 s', '4 d 15 h', '1 s')
    """
    whole = max(1, round(seconds))
    for unit, name, smaller, smaller_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {smaller_name}"
    return f"{whole} s"
