"""What a sweep is told: which sizes, which budgets, and the pipeline that all its models share. Torch-free."""

from typing import Literal

from pydantic import Field

from nanochat_core.spec_base import Spec
from nanochat_core.specs import PipelineSpec

SweepKind = Literal["isoflop", "miniseries"]
CountedParameters = Literal["horizon", "matrices_and_head", "total"]


class SweepSpec(Spec):
    """A sweep over model sizes. Its models share text and tokenizer; each is pretrained once, and reused ever after."""

    kind: SweepKind = Field(
        "isoflop",
        description="isoflop: every depth at every budget, for scaling laws; miniseries: every depth once, at the "
        "ratio of base.pretrain.tokens_per_parameter",
    )
    depths: tuple[int, ...] = Field(
        min_length=1, max_length=64, description="layers of each model; width and heads grow along, as in the base"
    )
    budgets: tuple[float, ...] = Field(
        (), max_length=32, description="training FLOPs of one model, for example 1e18; one curve each (kind isoflop)"
    )
    counted: CountedParameters = Field(
        "horizon",
        description="which parameters are N: horizon: those that tokens_per_parameter counts; matrices_and_head: "
        "without embeddings; total: all",
    )
    with_core: bool = Field(False, description="also measure CORE on each model, as base.evaluate says")
    base: PipelineSpec = Field(
        description="the pipeline that the models share, its run_name the sweep's; depth, width, steps and "
        "tokens_per_parameter of each model follow from the sweep"
    )
