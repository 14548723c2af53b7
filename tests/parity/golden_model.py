"""The arrays that the reference computed, in our names.

`python -m tests.parity.golden_model RANK RANKS FOLDER` takes three steps as one of several ranks,
and writes what it got.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.model.loss import IGNORED, loss_sum
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.rates import rates_at
from nanochat_core.specs import Arch, ModelSpec, OptimizerSpec

FOLDER = Path(__file__).parent / "golden"
ARCHES: tuple[Arch, ...] = ("classic", "full")
VOCAB_SIZE: dict[Arch, int] = {"classic": 512, "full": 500}
OPTIMIZER: dict[Arch, OptimizerSpec] = {
    "classic": OptimizerSpec(),
    "full": OptimizerSpec(embedding_lr=0.3, head_lr=0.008, weight_decay=0.28),
}
MOMENTUM, STEPS = 0.95, 3
MATRICES = {
    "attn.c_q": "w_q",
    "attn.c_k": "w_k",
    "attn.c_v": "w_v",
    "attn.c_proj": "w_o",
    "attn.value_gate": "value_gate",
    "mlp.c_fc": "w_1",
    "mlp.c_proj": "w_2",
}


class Golden(NamedTuple):
    """The arrays of one architecture; `weight` and the like are keyed by our names of the parameters."""

    spec: ModelSpec
    arrays: dict[str, Tensor]

    @property
    def vocab_size(self) -> int:
        return VOCAB_SIZE[self.spec.arch]

    @property
    def idx(self) -> Tensor:
        return self.arrays["idx"].long()

    @property
    def targets(self) -> Tensor:
        return self.arrays["targets"].long()

    def of(self, kind: str, parameter: str) -> Tensor:
        """Return weight, grad, after1 or after3 of a parameter of ours."""
        return self.arrays[f"{kind}.{their_name(parameter)}"]

    def model(self) -> GPT:
        model = GPT(self.spec, self.vocab_size)
        names = dict(model.named_parameters())
        model.load_state_dict({name: self.of("weight", name).view_as(tensor) for name, tensor in names.items()})
        return model

    def mean_loss(self, model: GPT, rows: slice = slice(None)) -> Tensor:
        """Return the summed loss of some rows, divided by the trained tokens of all."""
        return loss_sum(model, self.idx[rows], self.targets[rows]) / (self.targets != IGNORED).sum()

    def step(self, optimizer: MuonAdamW) -> float:
        spec = OPTIMIZER[self.spec.arch]
        return optimizer.step(rates_at(spec, self.spec.n_embd, 1.0, MOMENTUM, decay=spec.weight_decay or 0.0))


def golden(arch: Arch) -> Golden:
    spec = ModelSpec(arch=arch, depth=4, n_embd=64, n_head=2, n_kv_head=1, sequence_len=256)
    return Golden(spec, load_file(FOLDER / f"{arch}.safetensors"))


def their_name(parameter: str) -> str:
    """Return the reference's name of a parameter of ours."""
    first, _, rest = parameter.partition(".")
    if first == "blocks":
        layer, _, matrix = rest.removesuffix(".weight").partition(".")
        return f"layer.{layer}.{MATRICES[matrix]}"
    if first == "value_embeds":
        return f"value_embed.{rest.removesuffix('.weight')}"
    return {"wte": "embed", "lm_head": "head"}.get(first, first)


def train(arch: Arch, world: World) -> dict[str, Tensor]:
    """Return the losses and the weights after each step; a rank takes every `world.size`-th row as a micro-batch."""
    found, reference = {}, golden(arch)
    model = reference.model()
    optimizer, losses = MuonAdamW(model, world), []
    for step in range(1, STEPS + 1):
        total = torch.zeros(())
        rows = range(world.rank, len(reference.idx), world.size)  # there are two; each is a micro-batch
        for row in rows:
            loss = reference.mean_loss(model, slice(row, row + 1))
            if row == rows[-1]:
                optimizer.expect_last_backward()
            loss.backward()
            total += loss.detach()
        optimizer.start_reduction()
        losses.append(world.sum_(total))
        reference.step(optimizer)
        found |= {f"after{step}.{name}": tensor.detach().clone() for name, tensor in model.named_parameters()}
    return found | {"losses": torch.stack(losses)}


def main(rank: int, most_ranks: int, folder: Path) -> None:
    """Train both architectures as one of 1, 2, … `most_ranks` ranks; rank 0 writes FOLDER/ARCH-RANKS.safetensors."""
    torch.set_num_threads(1)
    for ranks in range(1, most_ranks + 1):
        if rank >= ranks:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/store{ranks}", rank=rank, world_size=ranks)
        for arch in ARCHES:
            found = train(arch, World(rank, ranks, torch.device("cpu")))
            if rank == 0:
                save_file(found, folder / f"{arch}-{ranks}.safetensors")
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
