"""DPO and the reward model as stages: what they are made from, and what of that changes them."""

import json
import os
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import PARTS, app, build_spec
from flows.evaluate import evaluation_of, evaluations
from flows.finetune import SFT
from flows.pipeline import STAGE_FLOWS, pipeline
from flows.preferences import DPO, REWARD_MODEL, dpo, preferences_for, reward_model
from flows.rl import RL
from flows.stage import Stage
from nanochat_core.conflicts import conflicts, obstacles
from nanochat_core.errors import SpecError
from nanochat_core.model_chain import CALLED
from nanochat_core.preference_specs import DPOSpec, PreferencesSpec, RewardModelSpec, SampledPairsSpec
from nanochat_core.recipes import derive
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import ConversationsSpec, MixtureItem, OptimizerSpec, PipelineSpec, with_changes
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


def sampled_spec(
    *, dpo: dict[str, Any] | None = None, reward_model: dict[str, Any] | None = None, **starts: Any
) -> PipelineSpec:
    """Return the demo with both stages on sampled pairs, each with its changes to the same group."""
    questions = ConversationsSpec(mixture=(MixtureItem(task="Arithmetic", rows=40),), validation_rows=8)
    groups = [SampledPairsSpec(conversations=questions, **(changes or {})) for changes in (dpo, reward_model)]
    pairs = [PreferencesSpec(sampled=group) for group in groups]
    parts = {"dpo": DPOSpec(preferences=pairs[0], **starts), "reward_model": RewardModelSpec(preferences=pairs[1])}
    return derive(demo(), ()).model_copy(update=parts)


def sampled_stages(spec: PipelineSpec) -> list[Stage]:
    """Return the stages that sample the pairs of dpo and of the reward model."""
    return [preferences_for(part).inputs(spec)["pairs"] for part in ("dpo", "reward_model")]


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


def test_sampled_pairs_are_of_the_model_that_training_starts_from_and_made_once_where_both_ask_for_the_same() -> None:
    spec = sampled_spec()
    first, second = sampled_stages(spec)
    expected = {"tokenizer": "tokenizer", "conversations": "conversations_dpo", "model": "sft"}
    assert names(first.inputs(spec)) == names(second.inputs(spec)) == expected
    assert first.name == second.name == "sampled_pairs" and first.part == second.part == "dpo"
    assert first.params(spec) == second.params(spec) and "conversations" not in first.params(spec).full
    assert first.inputs(spec)["conversations"].params(spec).full["mixture"][0]["task"] == "Arithmetic"
    alone = spec.model_copy(update={"dpo": None})
    (only,) = [preferences_for("reward_model").inputs(alone)["pairs"]]
    assert (only.name, only.params(alone)) == (second.name, second.params(spec)), "without dpo they are not made again"
    assert names(only.inputs(alone)) == expected | {"conversations": "conversations_reward_model"}


@pytest.mark.parametrize("changes", [{"dpo": {"seed": 1}}, {"reward_model": {"temperature": 0.5}}, {"start_from": "a"}])
def test_other_questions_answers_or_models_are_other_pairs(changes: dict[str, Any]) -> None:
    spec = sampled_spec(**changes)
    first, second = sampled_stages(spec)
    assert [first.name, second.name] == ["sampled_pairs", "sampled_pairs_reward_model"]
    assert names(first.inputs(spec))["model"] == ("earlier_dpo" if "start_from" in changes else "sft")
    assert names(second.inputs(spec))["model"] == "sft" and second.part == "reward_model"
    assert (first.params(spec).output == second.params(spec).output) == ("start_from" in changes)


def test_the_preparation_of_sampled_pairs_depends_on_nothing_but_them() -> None:
    stage, spec = preferences_for("dpo"), sampled_spec()
    assert stage.params(spec).output == stage.params(sampled_spec(dpo={"seed": 3})).output == {}


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
    assert not conflicts(sampled_spec()) and not obstacles(sampled_spec(), gpus=0)
    with pytest.raises(SpecError, match="has no stage dpo: choose another stage, or fill dpo in"):
        DPO.params(demo())


QUESTIONS = {"mixture": [{"task": "Arithmetic"}]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "dpo.preferences: neither path nor sampled is given; name a file"),
    (
        {"path": str(PROJECT / "README.md"), "sampled": {"conversations": QUESTIONS}},
        "dpo.preferences: path and sampled are both given",
    ),
    (
        {"sampled": {"conversations": {"mixture": [{"task": "Greetings"}]}}},
        "dpo.preferences.sampled.conversations.mixture: Greetings cannot be graded; take it out",
    ),
    (
        {"sampled": {"conversations": {"mixture": [{"task": "GSM8K"}]}}},
        "dpo.preferences.sampled.conversations.mixture: GSM8K needs the data set 'gsm8k'",
    ),
    (
        {"sampled": {"conversations": {"mixture": [{"task": "Aritmetic"}]}}},
        "dpo.preferences.sampled.conversations.mixture: unknown task 'Aritmetic' (did you mean 'Arithmetic'?)",
    ),
    (
        {"sampled": {"conversations": QUESTIONS, "pairs_per_question": 9}},
        "dpo.preferences.sampled.pairs_per_question: 9 pairs of 8 answers; expected no more",
    ),
    (
        {"sampled": {"conversations": QUESTIONS, "reward": "preference"}},
        "dpo.preferences.sampled.reward: a reward model learns from pairs",
    ),
    (
        {"sampled": {"conversations": QUESTIONS, "reward": "anser"}},
        "dpo.preferences.sampled.reward: unknown reward 'anser' (did you mean 'answer'?)",
    ),
    (
        {"sampled": {"conversations": QUESTIONS, "max_new_tokens": 600}},
        "dpo.preferences.sampled.max_new_tokens: 600 tokens leave no room for a question",
    ),
]


@pytest.mark.parametrize(("preferences", "expected"), REFUSED, ids=[line.split(" ")[0] for _, line in REFUSED])
def test_preferences_that_cannot_work_are_refused_with_their_field(preferences: dict[str, Any], expected: str) -> None:
    spec = derive(with_changes(demo(), {"dpo": {"preferences": preferences}}), ())
    (problem,) = [*conflicts(spec), *obstacles(spec, gpus=0)]
    assert problem.startswith(expected)


def documented(start: str) -> list[list[str]]:
    """Return the commands of docs/preferences.md that begin so, without that, as a shell splits them."""
    lines = (PROJECT / "docs" / "preferences.md").read_text().splitlines()
    return [shlex.split(line.removeprefix(start)) for line in lines if line.startswith(start)]


def test_the_commands_of_the_documentation_fit_together() -> None:
    runs = documented("nanochat run demo ")
    assert len(runs) > 2
    for arguments in runs:
        assert arguments[::2] == ["--set"] * (len(arguments) // 2)
        spec = derive(build_spec("demo", data=None, data_path=None, changes=arguments[1::2]), ())
        found = [line for line in (*conflicts(spec), *obstacles(spec, gpus=0)) if "no 'pairs.jsonl'" not in line]
        assert not found
    group: Any = typer.main.get_command(app)
    for arguments in documented("nanochat data pairs "):
        assert group.commands["data"].commands["pairs"].make_context("pairs", arguments).params["model"] == "sft"


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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("registered")
def test_the_real_stages_sample_pairs_once_for_both_and_keep_what_they_sampled(
    base: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = {"mixture": [{"task": "Arithmetic", "rows": 30}], "validation_rows": 12}
    sampled = {"conversations": questions, "samples_per_question": 32, "max_new_tokens": 48, "top_k": None}
    short = {"preferences": {"sampled": sampled}, "steps": 2, "batch_pairs": 4}
    spec = with_changes(tiny(), {"dpo": short, "reward_model": short, "midtrain": None})
    made = {outcome.stage: outcome for outcome in [*dpo(spec), *reward_model(spec)]}
    pairs = made["sampled_pairs"]
    assert pairs.is_cached, "the reward model has found what dpo made"
    assert "sampled_pairs_reward_model" not in made and "conversations_reward_model" not in made
    assert made["dpo"].metrics["pairs"] == made["reward_model"].metrics["pairs"] == pairs.metrics["train_pairs"] > 0
    assert made["dpo"].metrics["held_out_pairs"] == pairs.metrics["test_pairs"] > 0
    slower = spec.dpo.model_copy(update={"optimizer": OptimizerSpec(lr_scale=0.001)})
    again = {outcome.stage: outcome.is_cached for outcome in dpo(spec.model_copy(update={"dpo": slower}))}
    assert again["sampled_pairs"] and again["preferences_dpo"] and not again["dpo"]

    monkeypatch.setattr("flows.prefect_server.start", lambda base: lambda: None)  # there is one
    fields = [f"{name}={json.dumps(value)}" for name, value in sampled.items() if name != "samples_per_question"]
    ask = ["data", "pairs", "sft", "--samples", "32", "--out", str(base / "pairs.jsonl")]
    found = CliRunner().invoke(app, [*ask, "--tasks", "Arithmetic", *(f"--set={field}" for field in fields)])
    assert found.exit_code == 0, found.output
    written = (base / "pairs.jsonl").read_bytes()
    assert written == b"".join((pairs.folder / name).read_bytes() for name in ("train.jsonl", "test.jsonl"))
    refused = CliRunner().invoke(app, [*ask, "--tasks", "Greetings"])
    assert refused.exit_code == 2 and "conversations.mixture: Greetings cannot be graded" in refused.output
