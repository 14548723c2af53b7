"""The reward model: a head of one number, trained on pairs, asked about answers."""

from pathlib import Path

import pytest
import torch

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.distributed import World
from nanochat_core.errors import CheckpointError
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.interface import Completion
from nanochat_core.model.gpt import GPT
from nanochat_core.model.reward_model import RewardModel
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import rates_at
from nanochat_core.specs import OptimizerSpec, RLSpec
from nanochat_core.tokenizer.render import render_conversation
from nanochat_core.training.finetune import rendered
from nanochat_core.training.pair_steps import bradley_terry
from nanochat_core.training.reward_scorer import PreferenceReward, score_by_head
from nanochat_core.training.rollouts import Sampler, reward_of_stage
from tests.fakes import byte_tokenizer, completion_of
from tests.nanochat_core.inference.test_engine import random_model
from tests.nanochat_core.training.pair_batches import pair_batch

TOKENIZER = byte_tokenizer()
CPU = torch.device("cpu")
QUESTION = {"messages": [{"role": "user", "content": "hm?"}]}


def reward_model() -> RewardModel:
    model = RewardModel.of(random_model())
    with torch.no_grad():
        model.reward_head.copy_(torch.randn(len(model.reward_head), generator=torch.Generator().manual_seed(0)))
    return model


def saved(model: GPT, folder: Path) -> Path:
    meta = CheckpointMeta(
        stage="reward_model",
        step=1,
        tokens=0,
        optimizer_steps=0,
        model=model.spec,
        vocab_size=model.vocab_size,
        precision="fp32",
        tokenizer_hash=TOKENIZER.hash,
        data_digest="",
    )
    found = Checkpoint(meta=meta, model=model.state_dict(), optimizer={}, loader={})
    checkpoint.save(folder / "checkpoints", found, World(0, 1, CPU), keep=1)
    return folder


def test_it_begins_with_the_chat_model_s_weights_and_finds_all_answers_equal() -> None:
    chat = random_model()
    model = RewardModel.of(chat)
    batch = pair_batch([([1, 2], [5], [6, 7])])
    assert score_by_head(model, batch).scores.tolist() == [0.0, 0.0]
    assert torch.equal(model(batch.idx), chat(batch.idx))
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} - set(
        chat.state_dict()
    ) == {"reward_head"}


def test_the_gradient_is_that_of_the_obvious_loss() -> None:
    batch, ours, slow = pair_batch([([1, 2], [5], [6, 7]), ([3], [9, 9, 9], [4])]), reward_model(), reward_model()
    scored = score_by_head(ours, batch)
    losses, slopes = bradley_terry(scored.scores)
    scored.weighted(slopes / 2).backward()
    rewards = torch.stack(
        [
            slow.hidden(row[None, : end + 1])[0, -1] @ slow.reward_head
            for row, end in zip(batch.idx, batch.last, strict=True)
        ]
    )
    loss = -torch.log(torch.sigmoid(rewards[:2] - rewards[2:])).mean()
    loss.backward()
    assert losses.mean().item() == pytest.approx(loss.item(), rel=1e-5)
    for (name, found), wanted in zip(ours.named_parameters(), slow.parameters(), strict=True):
        if name == "lm_head.weight":
            assert found.grad is None
        else:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)


def test_the_optimizer_moves_the_head_and_leaves_that_of_the_vocabulary_alone() -> None:
    model = reward_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = MuonAdamW(model)
    scored = score_by_head(model, pair_batch([([1, 2], [5], [6, 7])]))
    scored.weighted(bradley_terry(scored.scores)[1]).backward()
    optimizer.step(rates_at(OptimizerSpec(), model.spec.n_embd, 1.0, 0.9))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "reward_head" in changed and "lm_head.weight" not in changed
    assert "reward_head/m@0" in optimizer.pieces()


def test_a_finished_model_rewards_answers_as_training_scored_them(tmp_path: Path) -> None:
    model = reward_model()
    reward = PreferenceReward.of(saved(model, tmp_path), TOKENIZER, CPU)
    answers = ["yes", "", "no, never", "a" * 14]
    found = reward.rewards(QUESTION, [completion_of(text) for text in answers])
    for text, value in zip(answers, found, strict=True):
        message = {"role": "assistant", "content": text}
        ids, _ = render_conversation(TOKENIZER, {"messages": [*QUESTION["messages"], message]})
        with torch.no_grad():
            expected = model.rewards(torch.tensor([ids]), torch.tensor([len(ids) - 1])).item()
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert len(set(found)) == 4
    assert reward(QUESTION, completion_of("yes")) == pytest.approx(found[0], rel=1e-4)


def test_an_answer_with_its_stop_token_is_the_same_answer() -> None:
    reward, end = PreferenceReward(reward_model(), TOKENIZER), TOKENIZER.special("<|assistant_end|>")
    plain = completion_of("yes")
    stopped = Completion(
        ids=(*plain.ids, end), mask=(*plain.mask, 1), parts=plain.parts, finish_reason="stop", raw_text="yes"
    )
    assert reward(QUESTION, plain) == reward(QUESTION, stopped)


def test_a_chat_model_is_no_reward_model_and_the_other_way_round(tmp_path: Path) -> None:
    chat, ranking = saved(random_model(), tmp_path / "chat"), saved(reward_model(), tmp_path / "reward")
    with pytest.raises(CheckpointError, match=r"holds another model: reward_head is not there"):
        PreferenceReward.of(chat, TOKENIZER, CPU)
    with pytest.raises(CheckpointError, match=r"holds another model: reward_head is \(32,\), expected none"):
        checkpoint.load_model(ranking, tokenizer_hash=TOKENIZER.hash, device=CPU)


def test_rl_asks_a_registered_reward_model_for_all_answers_to_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, root = reward_model(), tmp_path / "artifacts"
    saved(model, root / "reward_model" / "r")
    (root / "tokenizer" / "t").mkdir(parents=True)
    TOKENIZER.save(root / "tokenizer" / "t")
    inputs = {"reward_model": "reward_model/r", "tokenizer": "tokenizer/t"}
    request = StageRequest(stage="rl", version=1, fingerprint="f", params={}, inputs=inputs)
    folder = root / "rl" / "f"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(request.model_dump_json())
    monkeypatch.setattr("nanochat_core.training.rollouts.load_reward", lambda name: PreferenceReward)
    reward = reward_of_stage("preference", StageFolder(folder), CPU)
    spec = RLSpec.model_validate(rendered({"max_new_tokens": 6, "temperature": 1.0, "reward": "preference"}))
    sampler = Sampler(Engine(random_model(), TOKENIZER), TOKENIZER, spec, reward)
    (answered,) = sampler.answer([QUESTION | {"meta": {}, "source": "Sums"}], [1], 4)
    expected = PreferenceReward(model, TOKENIZER).rewards(QUESTION, answered.completions)
    assert answered.rewards == pytest.approx(expected, rel=1e-4) and len(set(answered.rewards)) > 1
