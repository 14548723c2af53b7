"""DPO and the reward model as stages: what they are made from, and what of that changes them."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flows.cli import PARTS
from flows.evaluate import evaluation_of, evaluations
from flows.finetune import SFT
from flows.pipeline import STAGE_FLOWS, pipeline
from flows.preferences import DPO, REWARD_MODEL, preferences_for
from flows.rl import RL
from nanochat_core.conflicts import conflicts, obstacles
from nanochat_core.errors import SpecError
from nanochat_core.model_chain import CALLED
from nanochat_core.preference_specs import DPOSpec, PreferencesSpec, RewardModelSpec
from nanochat_core.recipes import derive
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import PipelineSpec, with_changes
from tests.conftest import PROJECT
from tests.flows.tiny import tiny


def spec_of(path: Path, *, reward: str = "preference", **changes: Any) -> PipelineSpec:
    """Return the demo with both stages on the pairs at `path`."""
    pairs, spec = PreferencesSpec(path=str(path)), derive(demo(), ())
    parts = {
        "dpo": DPOSpec(preferences=pairs, **changes),
        "reward_model": RewardModelSpec(preferences=pairs),
        "rl": spec.rl.model_copy(update={"reward": reward}),
    }
    return spec.model_copy(update=parts)


def names(inputs: dict[str, Any]) -> dict[str, str]:
    return {name: stage.name for name, stage in inputs.items()}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}))
    return path


def test_both_begin_with_the_sft_model_and_rl_goes_on_from_dpo_and_pleases_the_reward_model(pairs: Path) -> None:
    spec = spec_of(pairs)
    expected = {"tokenizer": "tokenizer", "preferences": "preferences_dpo", "model": "sft"}
    assert names(DPO.inputs(spec)) == expected
    assert names(REWARD_MODEL.inputs(spec)) == expected | {"preferences": "preferences_reward_model"}
    assert {"model": "dpo", "reward_model": "reward_model"}.items() <= names(RL.inputs(spec)).items()
    assert "reward_model" not in RL.inputs(spec_of(pairs, reward="answer"))
    assert RL.inputs(demo())["model"] is SFT and evaluation_of(CALLED["dpo"]) not in evaluations(demo())
    assert evaluation_of(CALLED["dpo"]) in evaluations(spec) and {"dpo", "reward_model"} <= set(PARTS) & set(
        STAGE_FLOWS
    )


def test_a_model_that_a_spec_starts_from_is_the_input(pairs: Path) -> None:
    assert names(DPO.inputs(spec_of(pairs, start_from="sft/0123")))["model"] == "earlier_dpo"


def test_pairs_count_by_their_content_and_not_by_where_they_lie(pairs: Path, tmp_path: Path) -> None:
    stage = preferences_for("dpo")
    params = stage.params(spec_of(pairs))
    assert params.full["path"] == str(pairs) and "path" not in params.output
    before = params.output
    pairs.write_text(pairs.read_text() * 2)
    assert stage.params(spec_of(pairs)).output != before
    assert "preferences" not in DPO.params(spec_of(pairs)).full
    assert DPO.params(spec_of(pairs)).output["beta"] == 0.1


def test_what_cannot_work_is_said_before_anything_starts(pairs: Path, tmp_path: Path) -> None:
    assert not [line for line in conflicts(spec_of(pairs)) if "dpo" in line or "reward" in line]
    alone = spec_of(pairs).model_copy(update={"reward_model": None})
    assert any("fill reward_model in" in line for line in conflicts(alone))
    assert any(line.startswith("dpo.sequence_len: 1000000") for line in conflicts(spec_of(pairs, sequence_len=10**6)))
    gone = [line for line in obstacles(spec_of(tmp_path / "gone.jsonl"), gpus=0) if "preferences.path" in line]
    assert [line.split(".")[0] for line in gone] == ["dpo", "reward_model"]
    with pytest.raises(SpecError, match="has no stage dpo: choose another stage, or fill dpo in"):
        DPO.params(demo())


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rewards of pyproject.toml, as an installed package has them, for this process and those that it starts."""
    group = "nanochat.rewards"
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"][group]
    package = tmp_path / "installed" / "declared-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 0\n")
    lines = [f"{name} = {place}" for name, place in declared.items()]
    (package / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("registered")
def test_the_real_stages_run_from_pairs_to_rl_that_pleases_the_reward_model(
    base: Path, prefect_server: str, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n}+1=", "chosen": f"{n + 1}", "rejected": f"no, {n}"} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    short = {"preferences": {"path": str(path)}, "steps": 2, "batch_pairs": 4}
    changes = {"dpo": short, "reward_model": short, "rl.reward": "preference", "midtrain": None, "contamination": None}
    spec = with_changes(tiny(), changes)
    result = pipeline(spec)
    made = {outcome.stage: outcome for outcome in result.outcomes}
    assert {"preferences_dpo", "dpo", "evaluate_dpo", "preferences_reward_model", "reward_model", "rl"} <= set(made)
    assert made["dpo"].metrics["pairs"] == 36 and made["reward_model"].metrics["held_out_pairs"] == 4
    rewards = [
        json.loads(line)["rewards"] for line in (made["rl"].folder / "records/before.jsonl").read_text().splitlines()
    ]
    assert any(reward not in (0.0, 1.0) for answers in rewards for reward in answers), "a reward model gave them"
    report = json.loads((result.report / "report.json").read_text())
    assert report["dpo"]["val_margin_last"] and "reward_model" in report["stages"]
    assert {outcome.state for outcome in pipeline(spec).outcomes} == {"Cached"}
