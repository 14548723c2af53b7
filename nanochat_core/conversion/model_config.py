"""config.json for a model of ours, and the shape of ours that a config.json means."""

from typing import Any

import torch

from nanochat_core.errors import SpecError
from nanochat_core.model.accounting import (
    SMEAR_CHANNELS,
    VALUE_GATE_CHANNELS,
    attention_windows,
    derive_shape,
    short_window,
    value_embedding_layers,
)
from nanochat_core.model.blocks import BLOCK_SETS, rope_base
from nanochat_core.model.gpt import LOGIT_CAP, VALUE_GATE_GAIN
from nanochat_core.specs import Arch, ModelSpec
from nanochat_core.tokenizer.bpe import Tokenizer

CLASSIC, FULL = "nanochat", "nanochat_full"
EPSILON = torch.finfo(torch.float32).eps  # what torch's rms_norm adds, in bfloat16 too
LARGEST_EPSILON = 1e-5  # of models from elsewhere: below it, another one changes nothing that shows
REMOTE_FILES = ("configuration_nanochat_full.py", "modeling_nanochat_full.py")


def end_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that end an answer, or a text."""
    return [tokenizer.special("<|assistant_end|>"), tokenizer.bos]


def config_of(model: ModelSpec, tokenizer: Tokenizer, dtype: torch.dtype) -> dict[str, Any]:
    """Return config.json of a model of `model`'s shape: native for classic, with its own code for full."""
    model = derive_shape(model)
    shared = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": model.n_embd,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.n_head,
        "num_key_value_heads": model.n_kv_head,
        "max_position_embeddings": model.sequence_len,
        "final_logit_softcapping": LOGIT_CAP,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": end_tokens(tokenizer),
        "pad_token_id": None,  # with one, its row of the embedding would not learn
        "dtype": str(dtype).removeprefix("torch."),
    }
    return (_classic(model) if model.arch == "classic" else _full(model)) | shared


def _classic(model: ModelSpec) -> dict[str, Any]:
    return {
        "model_type": CLASSIC,
        "architectures": ["NanoChatForCausalLM"],
        "intermediate_size": 4 * model.n_embd,
        "hidden_act": "relu2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_base(model)},
    }


def _full(model: ModelSpec) -> dict[str, Any]:
    return {
        "model_type": FULL,
        "architectures": ["NanoChatFullForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_nanochat_full.NanoChatFullConfig",
            "AutoModelForCausalLM": "modeling_nanochat_full.NanoChatFullForCausalLM",
        },
        "attention_windows": attention_windows(model),
        "value_embedding_layers": value_embedding_layers(model.depth),
        "backout_layer": model.depth // 2,
        "rope_base": rope_base(model),
        "qk_gain": BLOCK_SETS["full"].qk_gain,
        "value_gate_channels": VALUE_GATE_CHANNELS,
        "value_gate_gain": VALUE_GATE_GAIN,
        "smear_channels": SMEAR_CHANNELS,
    }


def shape_of(config: dict[str, Any]) -> ModelSpec:
    """Return the shape that a config.json of ours, or of a NanoChat model of transformers, describes.

    Raises SpecError that lists all that our model cannot compute.
    """
    kind = config.get("model_type")
    if kind not in (CLASSIC, FULL):
        raise SpecError(f"config.json is of a model of type {kind!r}; expected {CLASSIC!r} or {FULL!r}.")
    arch: Arch = "classic" if kind == CLASSIC else "full"
    try:
        model = _shape(config, arch)
        wanted = _differences(config, model)
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"config.json does not describe a NanoChat model: {error!r}".splitlines()[0]) from None
    if wanted:
        raise SpecError.listing([f"config.json: {problem}" for problem in wanted])
    return model


def _shape(config: dict[str, Any], arch: Arch) -> ModelSpec:
    base = config["rope_base"] if arch == "full" else (config.get("rope_parameters") or {}).get("rope_theta")
    model = ModelSpec(
        arch=arch,
        depth=config["num_hidden_layers"],
        n_embd=config["hidden_size"],
        n_head=config["num_attention_heads"],
        n_kv_head=config.get("num_key_value_heads") or config["num_attention_heads"],
        sequence_len=config["max_position_embeddings"],
        rope_base=None if base in (None, BLOCK_SETS[arch].rope_base) else base,
    )
    if arch == "full" and model.depth > 1:
        first = config["attention_windows"][0]
        model = model.model_copy(update={"short_window": None if first == short_window(model) else first})
    return model


def _differences(config: dict[str, Any], model: ModelSpec) -> list[str]:
    """Return what the config says otherwise than a model of ours of this shape: field, value, what is expected."""
    ours = _classic(model) if model.arch == "classic" else _full(model)
    ours = {name: value for name, value in ours.items() if name not in ("architectures", "auto_map")}
    ours |= {"final_logit_softcapping": LOGIT_CAP, "tie_word_embeddings": False}
    defaults = {"intermediate_size": 8192, "rms_norm_eps": 1e-6} if model.arch == "classic" else {}
    problems = []
    for name, expected in ours.items():
        found = config.get(name, defaults.get(name, expected))
        if name == "rope_parameters":
            found, expected = (found or {}).get("rope_type", "default"), "default"
        if name == "rms_norm_eps" and 0 <= found <= LARGEST_EPSILON:
            continue
        if found != expected:
            problems.append(f"{name} is {found!r}, this project computes {expected!r}")
    return problems
