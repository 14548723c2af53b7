import math

import pytest
import torch
from torch import Tensor

from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.model.loss import loss_sum
from nanochat_core.specs import ModelSpec

SPEC = ModelSpec(depth=2, n_embd=128, n_head=4, n_kv_head=1, sequence_len=32)
VOCAB_SIZE = 300


def weights(seed: int) -> dict[str, Tensor]:
    model = GPT(SPEC, VOCAB_SIZE)
    init_weights(model, seed)
    return model.state_dict()


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first if first[name].any())


def test_what_torch_drew_before_does_not_matter() -> None:
    torch.manual_seed(7)
    first = weights(1)
    torch.randn(99)
    assert all(torch.equal(tensor, first[name]) for name, tensor in weights(1).items())


@pytest.mark.parametrize(
    ("suffix", "deviation"),
    [
        ("wte", 1.0),
        ("c_q", 1 / math.sqrt(128)),
        ("c_k", math.sqrt(32 / 128) / math.sqrt(128)),
        ("c_v", math.sqrt(32 / 128) / math.sqrt(128)),
        ("c_fc", 1 / math.sqrt(128)),
        ("c_proj", 0.0),
        ("lm_head", 0.0),
    ],
)
def test_weights_have_the_deviation_of_their_shape_and_projections_back_are_zero(suffix: str, deviation: float) -> None:
    chosen = [tensor for name, tensor in weights(0).items() if name.endswith(f"{suffix}.weight")]
    assert chosen
    for tensor in chosen:
        assert tensor.std().item() == pytest.approx(deviation, rel=0.05)
        assert tensor.mean().item() == pytest.approx(0, abs=0.1 * deviation + 1e-12)


def test_the_first_loss_is_that_of_a_guess_among_all_tokens() -> None:
    model = GPT(SPEC, VOCAB_SIZE)
    init_weights(model, 0)
    idx = torch.arange(32)[None]
    assert loss_sum(model, idx, idx).item() / 32 == pytest.approx(math.log(VOCAB_SIZE), rel=1e-6)
