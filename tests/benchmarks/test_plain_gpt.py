import pytest
import torch

from benchmarks.baselines.plain_gpt import PlainGPT
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.model.loss import loss_sum
from nanochat_core.specs import ModelSpec


def test_the_baseline_is_the_same_model_as_ours() -> None:
    spec = ModelSpec(arch="full", depth=4, n_embd=128, n_head=1, n_kv_head=1, sequence_len=320)
    ours, plain = GPT(spec, 128), PlainGPT(4, 128, 128, 320)
    init_weights(ours, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # so that no part of the model is without effect
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    plain.load_state_dict(ours.state_dict())
    rows = torch.randint(0, 128, (2, 321), generator=generator)
    idx, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    our_loss, plain_loss = loss_sum(ours, idx, targets) / targets.numel(), plain(idx, targets)
    our_loss.backward()
    plain_loss.backward()
    assert our_loss.item() == pytest.approx(plain_loss.item(), rel=1e-5)
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-5)
