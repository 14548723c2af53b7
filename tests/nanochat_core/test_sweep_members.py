"""The runs of a sweep: their sizes, their steps, the text that they share, and everything that is refused."""

from typing import Any

import pytest

from nanochat_core.errors import SpecError
from nanochat_core.model.accounting import flops_per_token, parameter_counts
from nanochat_core.recipes import recipe
from nanochat_core.specs import PipelineSpec, with_changes
from nanochat_core.sweep_members import members_of
from nanochat_core.sweep_specs import SweepSpec

SHORT = with_changes(recipe("classic_d20"), {"pretrain.tokens_per_parameter": 1e-3})


def sweep(base: PipelineSpec | None = None, **fields: Any) -> SweepSpec:
    given = {"depths": (2, 3, 4), "budgets": (1e12, 3e12)} | fields
    return SweepSpec(base=base or recipe("demo"), **given)


def test_isoflop_trains_every_depth_at_every_budget_shallow_and_cheap_first() -> None:
    names = [member.name for member in members_of(sweep(depths=(4, 2, 3), budgets=(3e12, 1e12)))]
    assert names == ["d2-1e12", "d3-1e12", "d4-1e12", "d2-3e12", "d3-3e12", "d4-3e12"]


def test_steps_times_batch_times_flops_is_the_budget_to_half_a_step() -> None:
    for member in members_of(sweep()):
        pretrain = member.spec.pretrain
        flops = flops_per_token(pretrain.model, 2048)
        assert abs(member.steps * 2048 * flops - member.budget) <= 0.5 * 2048 * flops
        assert member.compute == member.steps * 2048 * flops
        assert member.tokens == member.steps * 2048
        assert member.parameters == parameter_counts(pretrain.model, 2048)["total"]
        assert pretrain.tokens_per_parameter == pytest.approx(member.budget / flops / member.parameters)


def test_a_given_width_grows_with_the_depth_and_keeps_the_size_of_a_head() -> None:
    shapes = {m.depth: m.spec.pretrain.model for m in members_of(sweep(depths=(1, 3, 8), budgets=(1e13,)))}
    assert {depth: (s.n_embd, s.n_head, s.n_kv_head) for depth, s in shapes.items()} == {
        1: (32, 1, 1),
        3: (96, 3, 3),
        8: (256, 8, 8),
    }


def test_an_empty_width_is_derived_from_each_depth() -> None:
    runs = members_of(sweep(recipe("classic_d20"), depths=(12, 20, 26), budgets=(1e19,)))
    assert [run.spec.pretrain.model.n_embd for run in runs] == [768, 1280, 1664]


def test_a_miniseries_trains_each_depth_for_its_own_horizon() -> None:
    base = with_changes(recipe("demo"), {"pretrain.tokens_per_parameter": 2.0})
    for member in members_of(sweep(base, kind="miniseries", budgets=())):
        assert member.budget is None
        assert member.name == f"d{member.depth}"
        assert member.tokens == pytest.approx(2 * member.parameters, abs=1024)


def test_all_runs_share_the_shards_that_the_longest_needs() -> None:
    base = with_changes(recipe("classic_d20"), {"download.train_shards": None})
    runs = members_of(sweep(base, depths=(4, 12, 20), budgets=(1e18, 1e19)))
    assert len({run.spec.download for run in runs}) == 1
    alone = [members_of(sweep(base, depths=(4, 12, 20), budgets=(budget,)))[0] for budget in (1e18, 1e19)]
    assert runs[0].spec.download.train_shards == alone[1].spec.download.train_shards > 10
    assert alone[0].spec.download.train_shards < alone[1].spec.download.train_shards


def test_runs_differ_in_their_pretraining_alone() -> None:
    first, *others = (run.spec for run in members_of(sweep()))
    assert all(spec.model_copy(update={"pretrain": first.pretrain}) == first for spec in others)


def test_n_is_counted_as_asked() -> None:
    counts = {
        which: members_of(sweep(counted=which))[0].parameters for which in ("horizon", "matrices_and_head", "total")
    }
    assert counts["horizon"] == counts["total"] == 2 * 12 * 64**2 + 2 * 2048 * 64
    assert counts["matrices_and_head"] == counts["total"] - 2048 * 64


def test_everything_that_does_not_fit_is_refused_at_once_with_its_field() -> None:
    base = with_changes(recipe("demo"), {"force": ["pretrain"], "pretrain.start_from": "pretrain/0123456789abcdef"})
    with pytest.raises(SpecError) as refusal:
        members_of(sweep(base, depths=(2, 2, 500), budgets=(-1.0, 1e12, 1e12), with_core=True))
    for problem in (
        "depths: kind isoflop needs 3 different depths or more, got 2",
        "depths: [500] are not between 1 and 128 layers",
        "depths: [2] are there more than once",
        "budgets: [1000000000000.0] are there more than once",
        "budgets: [-1.0] are no positive numbers of FLOPs",
        "with_core: base.evaluate.core_examples is 0",
        "with_core: the CORE bundle is not fetched; add 'core' to base.task_data.datasets (source hub)",
        "base.pretrain.start_from: the models of a sweep differ in shape",
        "base.force: a sweep reuses what is finished",
    ):
        assert problem in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"budgets": ()}, "budgets: kind isoflop needs one budget"),
        ({"kind": "miniseries"}, "budgets: kind miniseries takes none"),
        ({"kind": "miniseries", "budgets": (), "depths": (4,)}, "needs 2 different depths or more, got 1"),
        (
            {"base": with_changes(recipe("demo"), {"pretrain.total_batch_tokens": 1000})},
            "d2-1e12: pretrain.total_batch_tokens: 1000 is no multiple of sequence_len 128",
        ),
        (
            {"kind": "miniseries", "budgets": (), "base": SHORT},
            "raise base.pretrain.tokens_per_parameter",
        ),
    ],
)
def test_a_combination_that_cannot_work_names_its_field(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as refusal:
        members_of(sweep(**fields))
    assert problem in str(refusal.value)


def test_a_budget_below_one_step_says_what_a_step_costs() -> None:
    with pytest.raises(SpecError, match=r"d4-1e9: .* tokens are less than a step of 2,048: give a budget above 1\.4e"):
        members_of(sweep(budgets=(1e9, 1e12)))
