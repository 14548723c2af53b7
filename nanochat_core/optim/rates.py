"""The rates of one step: the spec's base rates under schedule, width and batch factor."""

from dataclasses import dataclass

from nanochat_core.optim.scaling import rate_width_factor
from nanochat_core.specs import OptimizerSpec


@dataclass(frozen=True)
class Rates:
    """Rates of one step, after schedule, width and batch factor; Muon's momentum and decay."""

    embedding: float
    head: float
    matrix: float
    momentum: float
    value_embedding: float = 0.0
    residual_scale: float = 0.0
    input_scale: float = 0.0
    smear_backout: float = 0.0
    decay: float = 0.0


def rates_at(
    spec: OptimizerSpec,
    n_embd: int,
    multiplier: float,
    momentum: float,
    *,
    decay: float = 0.0,
    batch_factor: float = 1.0,
) -> Rates:
    """Return the rates where the schedule's multiplier is `multiplier`; `batch_factor` spares smear and backout."""
    plain = spec.lr_scale * multiplier
    scale = plain * batch_factor
    table = scale * rate_width_factor(n_embd)
    return Rates(
        embedding=spec.embedding_lr * table,
        head=spec.head_lr * table,
        matrix=spec.matrix_lr * scale,
        momentum=momentum,
        value_embedding=spec.value_embedding_lr * table,
        residual_scale=spec.residual_scale_lr * scale,
        input_scale=spec.input_scale_lr * scale,
        smear_backout=spec.smear_backout_lr * plain,
        decay=decay,
    )
