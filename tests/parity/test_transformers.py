"""The weights of `arch: classic`, renamed, are a NanoChat model of transformers with the same logits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nanochat_core.model.gpt import GPT
from tests.parity.test_classic import GOLDEN, NAMES, SPEC, VOCAB_SIZE, distance

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
    config = transformers.NanoChatConfig(
        vocab_size=model.vocab_size,
        hidden_size=SPEC.n_embd,
        intermediate_size=4 * SPEC.n_embd,
        num_hidden_layers=SPEC.depth,
        num_attention_heads=SPEC.n_head,
        num_key_value_heads=SPEC.n_kv_head,
        max_position_embeddings=SPEC.sequence_len,
        rms_norm_eps=torch.finfo(torch.float32).eps,
    )
    theirs = transformers.NanoChatForCausalLM(config)
    theirs.load_state_dict({renamed(name): tensor for name, tensor in model.state_dict().items()})
    theirs.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_transformers_computes_the_same_logits_from_our_weights(tmp_path: Path) -> None:
    golden: dict[str, Tensor] = load_file(GOLDEN)
    model = GPT(SPEC, VOCAB_SIZE)
    model.load_state_dict({ours: golden[f"weight.{theirs}"] for ours, theirs in NAMES.items()})
    theirs = transformers.NanoChatForCausalLM.from_pretrained(their_folder(model, tmp_path), dtype=torch.float32)
    idx = golden["idx"].long()
    assert distance(theirs(idx).logits, golden["logits"]) < 1e-5
    assert distance(theirs(idx).logits, model(idx)) < 1e-5
