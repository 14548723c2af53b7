"""A model from elsewhere becomes an artifact: `python -m nanochat_core.conversion.importing FOLDER --base-dir BASE`.

    artifacts/tokenizer/<fingerprint>/   its tokenizer, or one with the same bytes that is there already
    artifacts/<stage>/<fingerprint>/     a checkpoint, as a stage leaves one, with a manifest

Everything is written below a hidden name and renamed when whole. The same model imported again is the same folder.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from nanochat_core import artifacts, checkpoint, paths
from nanochat_core.artifacts import Manifest, StageFolder, StageRequest
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta
from nanochat_core.conversion import reference_checkpoint, transformers_folder
from nanochat_core.conversion.command import run_as_command
from nanochat_core.conversion.transformers_folder import Imported
from nanochat_core.distributed import World
from nanochat_core.errors import ArtifactError, SpecError, did_you_mean
from nanochat_core.model.accounting import derive_shape, parameter_counts
from nanochat_core.model_chain import CALLED
from nanochat_core.tokenizer.bpe import FILE_NAME, Tokenizer

VERSION = 1
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Adopted:
    """The folders of an imported model. `is_new`: it was not there before."""

    model: Path
    tokenizer: Path
    is_new: bool


def read_model(folder: Path, tokenizer_file: Path | None = None) -> Imported:
    """Return the model in a folder of transformers or of the original nanochat. Raises NanochatError for any other."""
    if not folder.is_dir():
        raise ArtifactError(f"There is no folder {folder}.")
    if transformers_folder.is_transformers_folder(folder):
        return transformers_folder.read_folder(folder, tokenizer_file)
    if reference_checkpoint.is_reference_folder(folder):
        return reference_checkpoint.read_reference(folder, tokenizer_file)
    if (folder / "manifest.json").is_file():
        raise ArtifactError(f"{folder} is an artifact of this project already: name it as it is.")
    raise ArtifactError(
        f"{folder} holds no model: expected config.json and safetensors, or the original's model_000123.pt and "
        "meta_000123.json."
    )


def adopt(model: Imported, base: Path, *, stage: str | None = None) -> Adopted:
    """Write the model below `base`/artifacts and return its folders.

    `stage`: base, mid, sft, dpo or rl; else what its source says, else base. Raises SpecError for another name.
    """
    if stage is not None and stage not in CALLED:
        raise SpecError(f"Unknown --as {stage!r}{did_you_mean(stage, CALLED)}.")
    root = paths.artifacts_dir(base)
    tokenizer = _adopt_tokenizer(model.tokenizer, root)
    manifest = artifacts.read_manifest(tokenizer)
    assert manifest is not None
    kind = CALLED[stage].stage if stage else model.stage or "pretrain"
    with _work_folder(root / kind) as work:
        meta = _write_checkpoint(work, model, kind)
        params = {"imported": model.source, "weights": meta.files[checkpoint.MODEL_FILE]}
        params |= {"model": derive_shape(model.model).model_dump(), "precision": model.precision}
        digests = {"tokenizer": manifest.digest}
        request = StageRequest(
            stage=kind,
            version=VERSION,
            fingerprint=artifacts.fingerprint_of(kind, VERSION, params, digests),
            params=params,
            inputs={"tokenizer": f"{tokenizer.parent.name}/{tokenizer.name}"},
            input_digests=digests,
        )
        outputs = [f"{CHECKPOINTS}/{checkpoint.folder_name(model.step)}/{name}" for name in _OUTPUTS]
        folder, is_new = _finish(work, request, outputs, _metrics(model), {"notes": list(model.notes)})
    return Adopted(folder, tokenizer, is_new)


_OUTPUTS = (checkpoint.MODEL_FILE, checkpoint.META_FILE)


def _metrics(model: Imported) -> dict[str, Any]:
    counts = parameter_counts(model.model, model.vocab_size)
    return {**model.metrics, "parameters": counts["total"], "steps": model.step, "tokens": model.tokens}


def _write_checkpoint(work: Path, model: Imported, stage: str) -> CheckpointMeta:
    meta = CheckpointMeta(
        stage=stage,
        step=model.step,
        tokens=model.tokens,
        optimizer_steps=model.step,
        model=derive_shape(model.model),
        vocab_size=model.vocab_size,
        precision=model.precision,
        tokenizer_hash=model.tokenizer.hash,
        data_digest="",
    )
    whole = Checkpoint(meta=meta, model=model.weights, optimizer={}, loader={})
    path = checkpoint.save(work / CHECKPOINTS, whole, World(0, 1, torch.device("cpu")), keep=1)
    return checkpoint.read_meta(path)


def _adopt_tokenizer(tokenizer: Tokenizer, root: Path) -> Path:
    """Return the artifact of this tokenizer: one that is there with the same bytes, else a new one."""
    for folder in sorted((root / "tokenizer").glob("[0-9a-f]*")):
        found = artifacts.read_manifest(folder)
        hashes = {record.path: record.sha256 for record in found.files} if found else {}
        if found and hashes == {FILE_NAME: tokenizer.hash} and not artifacts.damaged_files(folder, found):
            return folder
    with _work_folder(root / "tokenizer") as work:
        tokenizer.save(work)
        params = {"imported": tokenizer.hash, "vocab_size": tokenizer.vocab_size}
        fingerprint = artifacts.fingerprint_of("tokenizer", VERSION, params, {})
        request = StageRequest(stage="tokenizer", version=VERSION, fingerprint=fingerprint, params=params)
        return _finish(work, request, [FILE_NAME], {"vocab_size": tokenizer.vocab_size}, {})[0]


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """Make a hidden folder in `parent`; whatever is left of it in the end goes."""
    work = parent / f".import.{os.getpid()}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _finish(
    work: Path, request: StageRequest, outputs: list[str], metrics: dict[str, Any], details: dict[str, Any]
) -> tuple[Path, bool]:
    """Write request, result and manifest, and give the folder its name; return it, and whether it is new."""
    folder = work.parent / request.fingerprint[:16]
    artifacts.write_json(work / "spec.json", request.model_dump(mode="json"))
    opened = StageFolder(work)
    opened.write_result(metrics, outputs, details)
    manifest = artifacts.finish(opened)
    if _is_whole(folder, manifest):
        return folder, False
    shutil.rmtree(folder, ignore_errors=True)  # unfinished, damaged, or pruned
    os.rename(work, folder)
    artifacts.sync_folder(folder.parent)
    return folder, True


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    found = artifacts.read_manifest(folder)
    return (
        found is not None
        and found.digest == manifest.digest
        and not found.is_pruned
        and not artifacts.damaged_files(folder, found)
    )


def name_newest(record: Path, adopted: Adopted) -> None:
    """Have `base`, `mid`, `sft` or `rl` mean this model from now on; `record` is what the newest run left."""
    content = artifacts.read_json(record) if record.exists() else {"run_name": "import", "folders": {}}
    own = {adopted.model.parent.name: f"{adopted.model.parent.name}/{adopted.model.name}"}
    artifacts.write_json(record, content | {"folders": content["folders"] | own})


def import_model(
    folder: Path,
    base_dir: Annotated[Path, typer.Option(help="below it, artifacts/ gets the model")],
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json, or tiktoken's file of ranks")] = None,
    stage: Annotated[
        str | None, typer.Option("--as", help="base, mid, sft, dpo or rl; default: as its source says")
    ] = None,
    newest_record: Annotated[Path | None, typer.Option(help="file that says what the newest models are")] = None,
) -> None:
    """Make the model in FOLDER an artifact of this project."""
    model = read_model(folder.absolute(), tokenizer)
    for note in model.notes:
        print(note)
    named = model if stage or model.stage else replace(model, stage="pretrain")
    adopted = adopt(named, base_dir, stage=stage)
    if newest_record:
        name_newest(newest_record, adopted)
    print(f"{'Imported' if adopted.is_new else 'Imported before'}: {adopted.model}")


def main() -> None:
    """Run the import; a user's mistake ends in one line."""
    run_as_command(import_model, "imported")


if __name__ == "__main__":
    main()
