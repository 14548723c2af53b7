"""What every spec is: frozen, closed, its fields named in words in a form; and what of it is fingerprinted.

Torch-free. The specs themselves: `specs.py`, `sweep_specs.py`.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

TITLES = {  # in a form, of the names that do not read as words
    "n_embd": "Width (n_embd)",
    "n_head": "Query heads (n_head)",
    "n_kv_head": "Key/value heads (n_kv_head)",
    "nproc_per_node": "Ranks on a node (nproc_per_node)",
    "nnodes": "Machines (nnodes)",
    "rdzv_endpoint": "Meeting point (rdzv_endpoint)",
    "matrix_lr": "Rate of the matrices (matrix_lr)",
    "embedding_lr": "Rate of the embedding (embedding_lr)",
    "head_lr": "Rate of the head (head_lr)",
    "lr_scale": "Scale of the rates (lr_scale)",
    "final_lr_ratio": "Final rate (final_lr_ratio)",
    "grad_clip": "Gradient clipping (grad_clip)",
    "bpb_tokens": "Tokens for bpb (bpb_tokens)",
    "gpu_hour_dollars": "GPU hour (gpu_hour_dollars)",
    "core_bundle_url": "CORE bundle URL",
    "words_url": "Words URL",
    "cors_origins": "CORS origins",
    "api_keys_file": "API keys file",
    "kv_memory_gb": "Memory for keys and values (kv_memory_gb)",
    "arch": "Architecture (arch)",
    "midtrain": "Mid-training (midtrain)",
    "sft": "Fine-tuning (sft)",
    "finetune": "Fine-tuning stages of your own (finetune)",
    "dpo": "Direct preference optimization (dpo)",
    "rl": "Reinforcement learning (rl)",
}


def form_title(name: str, _info: object) -> str:
    """Return a field's name as it stands in a form.

    >>> form_title("total_batch_tokens", None)
    'Total batch tokens'
    """
    return TITLES.get(name, name.replace("_", " ").capitalize())


def runtime_field(default: Any, **keywords: Any) -> Any:
    """A field that changes how a stage runs but not what it makes (micro-batch, cadence of logs, ports, …)."""
    return Field(default, json_schema_extra={"runtime": True}, **keywords)


def added_field(default: Any, **keywords: Any) -> Any:
    """A field that came late: at its default, which alters nothing, it stays out of the fingerprint.

    So what was made before it came counts as made.
    """
    return Field(default, json_schema_extra={"added": True}, **keywords)


class Spec(BaseModel):
    """Frozen, closed, and described field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, field_title_generator=form_title)

    def output_params(self, *, exclude: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return the fields that change the output, nested specs included, as JSON values: what is fingerprinted."""
        params: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            marks, value = extra if isinstance(extra, dict) else {}, getattr(self, name)
            if name in exclude or marks.get("runtime") or (marks.get("added") and value == info.default):
                continue
            params[name] = _output_value(value)
        return params


def _output_value(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.output_params()
    if isinstance(value, tuple | list):
        return [_output_value(item) for item in value]
    return value
