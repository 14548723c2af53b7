"""What every stage that trains is told beside its own: the optimizer, how it runs, and where it starts. Torch-free."""

from pydantic import Field

from nanochat_core.spec_base import Spec, runtime_field

START_FROM = Field(
    None,
    min_length=1,
    description="folder of a finished model to start from, with its tokenizer, for example an imported one; empty: the "
    "model of the stage before",
)


class OptimizerSpec(Spec):
    """Muon for matrices, AdamW for tables and scalars; base rates before width and batch rules."""

    matrix_lr: float = Field(0.02, gt=0, le=10, description="Muon's learning rate")
    embedding_lr: float = Field(0.2, gt=0, le=10, description="AdamW's learning rate of the token embedding")
    head_lr: float = Field(0.004, gt=0, le=10, description="AdamW's learning rate of the output head")
    value_embedding_lr: float = Field(0.15, gt=0, le=10, description="AdamW's rate of the value embeddings (arch full)")
    residual_scale_lr: float = Field(
        0.005, gt=0, le=10, description="AdamW's learning rate of the factors on the residual stream (arch full)"
    )
    input_scale_lr: float = Field(
        0.5, gt=0, le=10, description="AdamW's rate of each layer's share of the input (full)"
    )
    smear_backout_lr: float = Field(
        0.2, gt=0, le=10, description="AdamW's learning rate of smear and backout, whatever the batch (arch full)"
    )
    lr_scale: float = Field(1.0, gt=0, le=100, description="factor on all learning rates")
    warmup_steps: int = Field(0, ge=0, le=10**9, description="steps with a rising rate")
    warmdown_ratio: float = Field(0.2, ge=0, le=1, description="share of the steps with a falling rate")
    final_lr_ratio: float = Field(0.0, ge=0, le=1, description="rate at the last step, as a share of the full rate")
    momentum_peak: float = Field(
        0.95, ge=0, lt=1, description="share of Muon's momentum that a step keeps, after its rise from .85"
    )
    momentum_steps: int = Field(300, ge=0, le=10**9, description="steps in which Muon's momentum rises")
    momentum_final: float | None = Field(
        None, ge=0, lt=1, description="share that the last step keeps of Muon's momentum; empty: it stays at its peak"
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Muon's decay at first: times the rate, the share of a weight that a step takes away; then half a "
        "cosine to 0; empty: by arch and size",
    )
    grad_clip: float | None = Field(
        1.0, gt=0, le=1_000_000, description="largest norm of the whole gradient; empty: no clipping"
    )


class TrainingRuntime(Spec):
    """How training runs, not what it computes."""

    device_batch_size: int | None = runtime_field(
        None, ge=1, le=65_536, description="rows that one device takes at a time; empty: as many as fit, on a CPU 32"
    )
    use_compile: bool | None = runtime_field(None, description="torch.compile, in pretraining; empty: on CUDA")
    log_every: int = runtime_field(10, ge=1, le=10**9, description="steps between metric lines")
    checkpoint_every: int = runtime_field(1000, ge=1, le=10**9, description="steps between checkpoints")
    keep_checkpoints: int = runtime_field(2, ge=1, le=10**6, description="checkpoints that are kept, the newest")
    stall_minutes: float = runtime_field(
        30.0, gt=0, le=100_000, description="minutes without a new metric after which the stage is stopped"
    )
