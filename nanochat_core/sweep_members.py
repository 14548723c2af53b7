"""SweepSpec -> the runs of the sweep: a resolved pipeline for each, that differ in their pretraining alone. Torch-free.

For a budget of C FLOPs and a model of F FLOPs a token, D = C / F tokens; the steps are D / batch, rounded.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nanochat_core import recipes
from nanochat_core.errors import SpecError
from nanochat_core.model.accounting import derive_shape, flops_per_token, parameter_counts, scaling_parameters
from nanochat_core.model_chain import base_alone
from nanochat_core.optim import scaling
from nanochat_core.specs import ModelSpec, PipelineSpec
from nanochat_core.sweep_specs import CountedParameters, SweepSpec

MAX_DEPTH = 128
MIN_ISOFLOP_DEPTHS = 3
MIN_MINISERIES_DEPTHS = 2


@dataclass(frozen=True)
class Member:
    """One run: its budget in FLOPs (None in a miniseries), the counted parameters N, and what is trained, resolved."""

    name: str
    depth: int
    budget: float | None
    parameters: int
    spec: PipelineSpec

    @property
    def steps(self) -> int:
        return int(self.spec.pretrain.steps or 0)

    @property
    def tokens(self) -> int:
        """D, in whole steps."""
        return self.steps * int(self.spec.pretrain.total_batch_tokens or 0)

    @property
    def compute(self) -> float:
        """FLOPs of the whole steps; the budget differs from it by half a step at most."""
        return float(flops_per_token(self.spec.pretrain.model, self.spec.tokenizer.vocab_size) * self.tokens)


def members_of(sweep: SweepSpec) -> list[Member]:
    """Return the runs, budget by budget and shallow models first. Raises SpecError with all that does not fit.

    >>> from nanochat_core.recipes_demo import demo
    >>> runs = members_of(SweepSpec(depths=(2, 4, 6), budgets=(1e12,), base=demo()))
    >>> [(run.name, run.spec.pretrain.model.n_embd, run.steps) for run in runs]
    [('d2-1e12', 64, 310), ('d4-1e12', 128, 69), ('d6-1e12', 192, 24)]
    """
    if problems := list(_conflicts(sweep)):
        raise SpecError("; ".join(problems))
    members, problems = [], []
    budgets: list[float | None] = [*sorted(sweep.budgets)]
    for budget in budgets or [None]:
        for depth in sorted(sweep.depths):
            try:
                members.append(_member(sweep, depth, budget))
            except SpecError as error:
                problems.append(f"{_name(depth, budget)}: {error}")
    if problems:
        raise SpecError("; ".join(problems))
    return _with_equal_text(members)


def _conflicts(sweep: SweepSpec) -> Iterator[str]:
    """Yield every combination of values that cannot work, each as field: reason."""
    needed = MIN_ISOFLOP_DEPTHS if sweep.kind == "isoflop" else MIN_MINISERIES_DEPTHS
    if len(set(sweep.depths)) < needed:
        yield f"depths: kind {sweep.kind} needs {needed} different depths or more, got {len(set(sweep.depths))}"
    if bad := [depth for depth in sweep.depths if not 1 <= depth <= MAX_DEPTH]:
        yield f"depths: {bad} are not between 1 and {MAX_DEPTH} layers"
    for name, values in (("depths", sweep.depths), ("budgets", sweep.budgets)):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            yield f"{name}: {twice} are there more than once"
    if bad_budgets := [budget for budget in sweep.budgets if not (math.isfinite(budget) and budget > 0)]:
        yield f"budgets: {bad_budgets} are no positive numbers of FLOPs"
    if sweep.kind == "isoflop" and not sweep.budgets:
        yield "budgets: kind isoflop needs one budget of FLOPs or more"
    if sweep.kind == "miniseries" and sweep.budgets:
        yield "budgets: kind miniseries takes none; base.pretrain.tokens_per_parameter sets how long each model trains"
    if sweep.with_core and not sweep.base.evaluate.core_examples:
        yield "with_core: base.evaluate.core_examples is 0, so there is no CORE to measure"
    data = sweep.base.task_data
    if sweep.with_core and (data.source != "hub" or "core" not in data.datasets):
        yield "with_core: the CORE bundle is not fetched; add 'core' to base.task_data.datasets (source hub)"
    if sweep.base.force:
        yield "base.force: a sweep reuses what is finished; to train a model again, remove its folder"
    if sweep.base.pretrain.start_from:
        yield "base.pretrain.start_from: the models of a sweep differ in shape and start from nothing; leave it empty"


def _member(sweep: SweepSpec, depth: int, budget: float | None) -> Member:
    """Return one run. Raises SpecError where its shape does not fit, or its horizon is less than a step."""
    base, vocab_size = sweep.base, sweep.base.tokenizer.vocab_size
    model = _scaled_shape(base.pretrain.model, depth)
    ratio = base.pretrain.tokens_per_parameter
    tokens = float(scaling.horizon_tokens(model, vocab_size, ratio))
    if budget is not None:
        tokens = budget / flops_per_token(model, vocab_size)
        ratio = tokens / scaling_parameters(model, vocab_size)
    batch = base.pretrain.total_batch_tokens or scaling.batch_tokens(model, vocab_size, ratio)
    if tokens < batch:
        raise SpecError(_too_short(tokens, batch, None if budget is None else budget / tokens * batch))
    changes = {
        "model": model,
        "tokens_per_parameter": ratio,
        "total_batch_tokens": batch,
        "steps": round(tokens / batch),
        "evaluators": base.pretrain.evaluators if sweep.with_core else (),
    }
    pretrain = base.pretrain.model_copy(update=changes)
    spec = recipes.resolve(base_alone(base).model_copy(update={"pretrain": pretrain}))
    return Member(_name(depth, budget), depth, budget, _counted(spec, sweep.counted), spec)


def _too_short(tokens: float, batch: int, needed: float | None) -> str:
    """Say what to do about a horizon of less than a step; `needed` is the budget in FLOPs that makes one."""
    remedy = "raise base.pretrain.tokens_per_parameter" if needed is None else f"give a budget above {needed:.2g} FLOPs"
    return (
        f"{tokens:,.0f} tokens are less than a step of {batch:,}: {remedy}, or a smaller "
        "base.pretrain.total_batch_tokens"
    )


def _scaled_shape(base: ModelSpec, depth: int) -> ModelSpec:
    """Return the base's model at another depth, width and heads in proportion, the size of a head kept.

    What the base leaves empty is derived from the depth, as ever.
    """
    if base.n_embd is None:
        return derive_shape(base.model_copy(update={"depth": depth}))
    shape = derive_shape(base)
    head_size = shape.n_embd // shape.n_head
    n_head = max(1, round(shape.n_head * depth / base.depth))
    n_kv_head = max(1, round(shape.n_kv_head * depth / base.depth))
    return base.model_copy(
        update={"depth": depth, "n_embd": n_head * head_size, "n_head": n_head, "n_kv_head": n_kv_head}
    )


def _counted(spec: PipelineSpec, which: CountedParameters) -> int:
    counts = parameter_counts(spec.pretrain.model, spec.tokenizer.vocab_size)
    if which == "total":
        return counts["total"]
    if which == "matrices_and_head":
        return counts["matrices"] + counts["head"]
    return scaling_parameters(spec.pretrain.model, spec.tokenizer.vocab_size)


def _with_equal_text(members: list[Member]) -> list[Member]:
    """Have all runs read the same shards: as many as the longest of them needs."""
    shards = max((member.spec.download.train_shards or 0 for member in members), default=0)
    if not shards:
        return members
    download = members[0].spec.download.model_copy(update={"train_shards": shards})
    return [replace(member, spec=member.spec.model_copy(update={"download": download})) for member in members]


def _name(depth: int, budget: float | None) -> str:
    """Return a run's name.

    >>> _name(4, 2.5e12), _name(12, 1e18), _name(8, None)
    ('d4-2.5e12', 'd12-1e18', 'd8')
    """
    if budget is None:
        return f"d{depth}"
    digits, _, exponent = f"{budget:.6e}".partition("e")
    return f"d{depth}-{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
