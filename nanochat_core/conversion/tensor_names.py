"""Which of our tensors is which of another format's. Every tensor has a name there, or is refused: none is dropped."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from nanochat_core.errors import CheckpointError

COMPILED = "_orig_mod."  # torch.compile puts it before the names

# Patterns of our names, and what they are called there; "#" is the number of a layer. Gates and scalars: `full` alone.
TRANSFORMERS = {
    "wte.weight": "model.embed_tokens.weight",
    "lm_head.weight": "lm_head.weight",
    "blocks.#.attn.c_q.weight": "model.layers.#.self_attn.q_proj.weight",
    "blocks.#.attn.c_k.weight": "model.layers.#.self_attn.k_proj.weight",
    "blocks.#.attn.c_v.weight": "model.layers.#.self_attn.v_proj.weight",
    "blocks.#.attn.c_proj.weight": "model.layers.#.self_attn.o_proj.weight",
    "blocks.#.attn.value_gate.weight": "model.layers.#.self_attn.value_gate.weight",
    "blocks.#.mlp.c_fc.weight": "model.layers.#.mlp.fc1.weight",
    "blocks.#.mlp.c_proj.weight": "model.layers.#.mlp.fc2.weight",
    "value_embeds.#.weight": "model.value_embeds.#.weight",
    "residual_scale": "model.residual_scale",
    "input_scale": "model.input_scale",
    "smear_gate.weight": "model.smear_gate.weight",
    "smear_scale": "model.smear_scale",
    "backout_scale": "model.backout_scale",
}
REFERENCE = {
    "wte.weight": "transformer.wte.weight",
    "lm_head.weight": "lm_head.weight",
    "blocks.#.attn.c_q.weight": "transformer.h.#.attn.c_q.weight",
    "blocks.#.attn.c_k.weight": "transformer.h.#.attn.c_k.weight",
    "blocks.#.attn.c_v.weight": "transformer.h.#.attn.c_v.weight",
    "blocks.#.attn.c_proj.weight": "transformer.h.#.attn.c_proj.weight",
    "blocks.#.attn.value_gate.weight": "transformer.h.#.attn.ve_gate.weight",
    "blocks.#.mlp.c_fc.weight": "transformer.h.#.mlp.c_fc.weight",
    "blocks.#.mlp.c_proj.weight": "transformer.h.#.mlp.c_proj.weight",
    "value_embeds.#.weight": "value_embeds.#.weight",
    "residual_scale": "resid_lambdas",
    "input_scale": "x0_lambdas",
    "smear_gate.weight": "smear_gate.weight",
    "smear_scale": "smear_lambda",
    "backout_scale": "backout_lambda",
}
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def to_theirs(names: Iterable[str], table: Mapping[str, str]) -> dict[str, str]:
    """Return {our name: theirs}; raises CheckpointError where one of ours has none there: it would be dropped.

    >>> to_theirs(["blocks.3.mlp.c_fc.weight"], TRANSFORMERS)
    {'blocks.3.mlp.c_fc.weight': 'model.layers.3.mlp.fc1.weight'}
    """
    return _renamed(names, table, "the export would leave out the trained tensors")


def to_ours(names: Iterable[str], table: Mapping[str, str]) -> dict[str, str]:
    """Return {their name: ours}; raises CheckpointError where one of theirs has none here.

    >>> to_ours(["transformer.h.11.attn.ve_gate.weight", "x0_lambdas"], REFERENCE)
    {'transformer.h.11.attn.ve_gate.weight': 'blocks.11.attn.value_gate.weight', 'x0_lambdas': 'input_scale'}
    """
    return _renamed(names, {theirs: ours for ours, theirs in table.items()}, "this project has no place for")


def _renamed(names: Iterable[str], table: Mapping[str, str], problem: str) -> dict[str, str]:
    found, unknown = {}, []
    for name in names:
        layer = LAYER.search(name)
        other = table.get(LAYER.sub("#", name, count=1))
        if other is None:
            unknown.append(name)
        else:
            found[name] = other.replace("#", layer.group()) if layer else other
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise CheckpointError(f"Nothing was written: {problem} {', '.join(sorted(unknown)[:3])}{more}.")
    return found


def is_table(name: str) -> bool:
    """Tell whether a tensor of ours has a row for each token, and perhaps more, which pad it.

    >>> [is_table(name) for name in ("wte.weight", "value_embeds.3.weight", "blocks.3.mlp.c_fc.weight")]
    [True, True, False]
    """
    return name in ("wte.weight", "lm_head.weight") or name.startswith("value_embeds.")


def without_compiled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefix that a compiled model gives to its names."""
    return {name.removeprefix(COMPILED): tensor for name, tensor in state.items()}
