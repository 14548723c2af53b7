"""The weights of `arch: classic`, renamed, are a NanoChat model of transformers with the same logits."""

from pathlib import Path

import pytest
import torch

from nanochat_core.model.gpt import GPT
from tests.parity import golden_model
from tests.parity.test_model import distance

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "NanoChatForCausalLM"):
    pytest.skip(f"transformers {transformers.__version__} has no NanoChatForCausalLM", allow_module_level=True)

RENAMED = {
    "wte": "model.embed_tokens",
    "blocks": "model.layers",
    "attn.c_q": "self_attn.q_proj",
    "attn.c_k": "self_attn.k_proj",
    "attn.c_v": "self_attn.v_proj",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def renamed(name: str) -> str:
    for ours, theirs in RENAMED.items():
        name = name.replace(ours, theirs)
    return name


def their_folder(model: GPT, folder: Path) -> Path:
    """Write a folder that transformers reads: config.json and model.safetensors."""
    spec = model.spec
    config = transformers.NanoChatConfig(
        vocab_size=model.vocab_size,
        hidden_size=spec.n_embd,
        intermediate_size=4 * spec.n_embd,
        num_hidden_layers=spec.depth,
        num_attention_heads=spec.n_head,
        num_key_value_heads=spec.n_kv_head,
        max_position_embeddings=spec.sequence_len,
        rms_norm_eps=torch.finfo(torch.float32).eps,
    )
    theirs = transformers.NanoChatForCausalLM(config)
    theirs.load_state_dict({renamed(name): tensor for name, tensor in model.state_dict().items()})
    theirs.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_transformers_computes_the_same_logits_from_our_weights_and_gives_them_back(tmp_path: Path) -> None:
    golden = golden_model.golden("classic")
    model = golden.model()
    theirs = transformers.NanoChatForCausalLM.from_pretrained(their_folder(model, tmp_path), dtype=torch.float32)
    logits = theirs(golden.idx).logits
    assert distance(logits, golden.arrays["logits"]) < 1e-5
    torch.testing.assert_close(logits, model(golden.idx), rtol=1e-4, atol=1e-4)
    state = theirs.state_dict()
    back = GPT(golden.spec, golden.vocab_size)
    back.load_state_dict({name: state[renamed(name)] for name in model.state_dict()})
    torch.testing.assert_close(back(golden.idx), logits, rtol=1e-4, atol=1e-4)
