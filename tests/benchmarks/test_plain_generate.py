import pytest
import torch

from benchmarks.baselines.plain_generate import PlainGenerator
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import Arch, ModelSpec


@pytest.mark.parametrize("arch", ["classic", "full"])
@torch.inference_mode()
def test_the_baseline_says_what_our_model_says_with_all_logits_computed_anew_for_each_token(arch: Arch) -> None:
    spec = ModelSpec(arch=arch, depth=4, n_embd=128, n_head=1, n_kv_head=1, sequence_len=320)
    ours, plain = GPT(spec, 128), PlainGenerator(arch, 4, 128, 128, 320)
    init_weights(ours, 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in ours.parameters():  # so that no part of the model is without effect
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    plain.load_state_dict(ours.state_dict())
    ids = torch.randint(0, 128, (200,), generator=generator).tolist()  # beyond the window of 128
    said = list(plain.generate(ids, 8))
    for place, token in enumerate(said):
        logits = ours(torch.tensor([ids + said[:place]]))[0, -1]
        assert logits.max() - logits[token] < 1e-4
    drawn = [list(plain.generate(ids, 8, temperature=1.0, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
