"""A finished stage's folder and its tokenizer's, as small as they can be."""

from pathlib import Path

from nanochat_core import checkpoint
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.device import choose_device
from nanochat_core.distributed import World
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.bpe import Tokenizer


def write_model_folder(root: Path, model: GPT, tokenizer: Tokenizer) -> tuple[Path, Path]:
    """Write the model and the tokenizer below `root` and return the folders of both."""
    model_folder, tokenizer_folder = root / "model", root / "tokenizer"
    tokenizer_folder.mkdir(parents=True)
    tokenizer.save(tokenizer_folder)
    meta = CheckpointMeta(
        stage="sft",
        step=1,
        tokens=1,
        optimizer_steps=1,
        model=model.spec,
        vocab_size=model.vocab_size,
        precision="fp32",
        tokenizer_hash=tokenizer.hash,
        data_digest="none",
    )
    whole = Checkpoint(meta=meta, model=model.state_dict(), optimizer={}, loader={})
    checkpoint.save(model_folder / "checkpoints", whole, World(0, 1, choose_device("cpu")), keep=1)
    return model_folder, tokenizer_folder
