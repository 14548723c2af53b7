"""A trained model as a folder of transformers: `python -m nanochat_core.conversion.exporting MODEL TOKENIZER OUT`.

The folder is written under a hidden name beside OUT, read back and checked there, and renamed in the end: OUT is whole
and true, or not there. `export_manifest.json` says what it was made from, what was checked, and the hash of each file.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor

from nanochat_core import artifacts, checkpoint
from nanochat_core.checkpoint import CheckpointMeta
from nanochat_core.conversion import model_config, tensor_names
from nanochat_core.conversion.command import run_as_command
from nanochat_core.conversion.export_check import check_export
from nanochat_core.conversion.model_card import model_card
from nanochat_core.conversion.provenance import Provenance, provenance_of
from nanochat_core.conversion.tokenizer_files import write_tokenizer
from nanochat_core.conversion.transformers_folder import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from nanochat_core.errors import ArtifactError, CheckpointError
from nanochat_core.tokenizer.bpe import Tokenizer

FORMAT_VERSION = 1
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Dtype = Literal["fp32", "bf16"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Trained:
    """What is exported: weights by our names, tables cut to the vocabulary."""

    meta: CheckpointMeta
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    tokenizer_folder: Path
    provenance: Provenance


def export(
    model_folder: Path,
    tokenizer_folder: Path,
    out: Path,
    *,
    dtype: Dtype = "fp32",
    is_checked: bool = True,
    force: bool = False,
    git_commit: str | None = None,
) -> dict[str, Any]:
    """Write the model as the folder `out` and return its manifest.

    Raises ArtifactError where `out` is not empty (with `force`: and holds no export), CheckpointError where a tensor
    would be lost, or where what was written is not the model. Then nothing is left of it.
    """
    check_target(out, force=force)
    trained = read_trained(model_folder, tokenizer_folder)
    with _work_folder(out) as work:
        _write(work, out.name, trained, dtype)
        checked = check_export(
            work, trained.meta.model, trained.weights, trained.tokenizer, with_transformers=is_checked
        )
        manifest = _manifest(work, trained, dtype, git_commit) | {"check": checked}
        artifacts.write_json(work / MANIFEST_FILE, manifest)
        _put_in_place(work, out)
    return manifest


def check_target(out: Path, *, force: bool = False) -> None:
    """Raise ArtifactError where the export may not be written there."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ArtifactError(f"{out} is a file; name a folder that is not there yet.")
    if not any(out.iterdir()):
        return
    if not force:
        raise ArtifactError(f"{out} is not empty; name another folder, or replace an earlier export with --force.")
    if not (out / MANIFEST_FILE).is_file():
        raise ArtifactError(f"{out} holds something else than an export, so --force does not replace it either.")


def read_trained(model_folder: Path, tokenizer_folder: Path) -> Trained:
    """Return the newest model of a folder. Raises CheckpointError for a damaged one, or one with values not finite."""
    tokenizer = Tokenizer.load(tokenizer_folder)
    model, meta = checkpoint.load_model(model_folder, tokenizer_hash=tokenizer.hash, device=CPU)
    weights = {
        name: tensor[: meta.vocab_size].contiguous() if tensor_names.is_table(name) else tensor
        for name, tensor in model.state_dict().items()
    }
    if strange := [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"{model_folder}: {strange[0]} has values that are no numbers; export an earlier one.")
    return Trained(meta, weights, tokenizer, tokenizer_folder, provenance_of(model_folder))


def _write(folder: Path, name: str, trained: Trained, dtype: Dtype) -> None:
    """Write all files but the manifest."""
    meta, is_chat = trained.meta, trained.meta.stage != "pretrain"
    names = tensor_names.to_theirs(trained.weights, tensor_names.TRANSFORMERS)
    tensors = {names[key]: tensor.to(DTYPES[dtype]) for key, tensor in trained.weights.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = model_config.config_of(meta.model, trained.tokenizer, DTYPES[dtype])
    artifacts.write_json(folder / CONFIG_FILE, config)
    artifacts.write_json(folder / "generation_config.json", generation_config(trained.tokenizer))
    write_tokenizer(folder, trained.tokenizer_folder, sequence_len=meta.model.sequence_len, is_chat=is_chat)
    (folder / "README.md").write_text(model_card(name, meta, trained.provenance), encoding="utf-8")
    if meta.model.arch == "full":
        for file in model_config.REMOTE_FILES:
            code = resources.files(__package__).joinpath("remote_code", file).read_bytes()
            (folder / file).write_bytes(code)


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return generation_config.json: an answer ends with <|assistant_end|>, a text with the BOS of the next."""
    ends = model_config.end_tokens(tokenizer)
    return {"bos_token_id": tokenizer.bos, "eos_token_id": ends, "pad_token_id": tokenizer.bos}


def _manifest(folder: Path, trained: Trained, dtype: Dtype, git_commit: str | None) -> dict[str, Any]:
    meta, found = trained.meta, trained.provenance
    return {
        "format_version": FORMAT_VERSION,
        "made_by": f"nanochat {version('nanochat')}",
        "git_commit": git_commit,
        "created": time.time(),
        "arch": meta.model.arch,
        "stage": meta.stage,
        "step": meta.step,
        "tokens": meta.tokens,
        "precision": meta.precision,
        "dtype": dtype,
        "source": {
            "artifact": found.artifact,
            "digest": found.digest,
            "fingerprint": found.fingerprint,
            "git_commit": found.git_commit,
            "checkpoint": meta.seal,
        },
        "tokenizer_sha256": trained.tokenizer.hash,
        "metrics": found.metrics,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": artifacts.sha256_of(path)}
            for path in sorted(folder.iterdir())
        },
    }


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Make a hidden folder beside `out`; whatever is left of it in the end goes."""
    work = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        work.mkdir(parents=True)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put_in_place(work: Path, out: Path) -> None:
    """Have the files reach the disk and rename the folder; an earlier export goes in the same moment."""
    for path in work.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    artifacts.sync_folder(work)
    earlier = work.with_suffix(".old")
    shutil.rmtree(earlier, ignore_errors=True)
    if out.exists():
        os.rename(out, earlier)
    os.rename(work, out)
    artifacts.sync_folder(out.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def run(
    model_folder: Path,
    tokenizer_folder: Path,
    out: Path,
    dtype: Annotated[str, typer.Option(help="fp32, or bf16: half the size, values rounded")] = "fp32",
    check: Annotated[bool, typer.Option(help="compare with what transformers makes of it")] = True,
    force: Annotated[bool, typer.Option("--force", help="replace an earlier export")] = False,
    git_commit: Annotated[str | None, typer.Option(help="of the code that exports, for the manifest")] = None,
) -> None:
    """Export the model of an artifact folder."""
    if dtype not in DTYPES:
        raise ArtifactError(f"Unknown --dtype {dtype!r}: expected fp32 or bf16.")
    out = out.absolute()
    manifest = export(
        model_folder,
        tokenizer_folder,
        out,
        dtype="fp32" if dtype == "fp32" else "bf16",
        is_checked=check,
        force=force,
        git_commit=git_commit,
    )
    print(manifest["check"]["words"])
    print(f"Exported: {out}")


def main() -> None:
    """Run the export; a user's mistake is one line. transformers stays off the network and leaves no code behind."""
    with tempfile.TemporaryDirectory() as modules:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules}
        os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        run_as_command(run, "exported")


if __name__ == "__main__":
    main()
