"""Checkpoints of earlier formats, brought to the present one while they are loaded.

Format 1 (until 2026): one `optimizer.safetensors` with `embedding.m`, `embedding.v`, `head.m`, `head.v`, and for each
shape of matrices `muon.{rows}x{columns}`: their momenta (K, rows, columns), stacked in the order of
`model.blocks.parameters()`. Only `arch: classic` existed.
"""

from collections.abc import Mapping

from torch import Tensor

OPTIMIZER_FILE_1 = "optimizer.safetensors"
TABLES_1 = {"embedding": "wte.weight", "head": "lm_head.weight"}


def pieces_of_format_1(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the optimizer's state of format 1 as pieces; `weights` are the model's, in the order of its parameters."""
    pieces = {
        f"{parameter}/{slot}@0": state[f"{table}.{slot}"]
        for table, parameter in TABLES_1.items()
        for slot in ("m", "v")
    }
    taken: dict[str, int] = {}
    for name in _matrices(weights):
        rows, columns = weights[name].shape
        stack = f"muon.{rows}x{columns}"
        pieces[f"{name}/momentum@0"] = state[stack][taken.get(stack, 0)]
        taken[stack] = taken.get(stack, 0) + 1
    return pieces


def _matrices(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the blocks' matrices in the order in which format 1 stacked them.

    >>> _matrices({"blocks.10.mlp.c_fc.weight": 0, "blocks.2.mlp.c_proj.weight": 0, "blocks.2.attn.c_q.weight": 0})
    ['blocks.2.attn.c_q.weight', 'blocks.2.mlp.c_proj.weight', 'blocks.10.mlp.c_fc.weight']
    """
    order = ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    names = [name for name in weights if name.startswith("blocks.")]

    def place(name: str) -> tuple[int, int]:
        _, layer, rest = name.split(".", 2)
        return int(layer), order.index(rest.removesuffix(".weight"))

    return sorted(names, key=place)
