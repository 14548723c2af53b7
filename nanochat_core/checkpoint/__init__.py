"""Checkpoints: folders that are whole or absent, loadable at any world size, without unpickling.

    checkpoints/step_00000400/{model, optimizer.rank00000, loader.rank00000}.safetensors and meta.json

Each rank writes its own part of the optimizer's and of the loader's state. Written under a temporary name, fsynced,
renamed (`saver.py`). `meta.json` holds the step, the shape of the model, the hash of its tokenizer, the digest of its
data, and the SHA-256 of every other file and of itself: a changed byte is refused by name (`reading.py`). Formats of
earlier versions are brought up to date while they are loaded (`migration.py`).
"""

from nanochat_core.checkpoint.folders import MODEL_FILE, all_checkpoints, folder_name, latest
from nanochat_core.checkpoint.meta import FORMAT_VERSION, META_FILE, Checkpoint, CheckpointMeta, read_meta
from nanochat_core.checkpoint.reading import check_shapes, load, load_model, load_optimizer, load_weights
from nanochat_core.checkpoint.saver import Saver, save

__all__ = [
    "FORMAT_VERSION",
    "META_FILE",
    "MODEL_FILE",
    "Checkpoint",
    "CheckpointMeta",
    "Saver",
    "all_checkpoints",
    "check_shapes",
    "folder_name",
    "latest",
    "load",
    "load_model",
    "load_optimizer",
    "load_weights",
    "read_meta",
    "save",
]
