"""A model that comes in again is the model that went out; what cannot be read is refused, and leaves nothing."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanochat_core import artifacts
from nanochat_core.checkpoint import load_model
from nanochat_core.conversion import importing
from nanochat_core.conversion.exporting import export
from nanochat_core.conversion.importing import Adopted, adopt, name_newest, read_model
from nanochat_core.errors import ArtifactError, NanochatError, SpecError
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import ModelSpec
from tests.nanochat_core.conversion.reference_folder import STEP, state_of, write_ranks, write_reference
from tests.nanochat_core.conversion.trained_models import ARCHES, CPU, VOCAB_SIZE, WIDTH, Artifact, write_artifact

PADDED = 320  # rows of the original's tables


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return {arch: write_artifact(tmp_path_factory.mktemp(arch), arch) for arch in ARCHES}


@pytest.fixture(scope="module")
def exports(made: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The export of each arch, not compared with transformers: other tests do that."""
    folders = {arch: tmp_path_factory.mktemp("exports") / arch for arch in ARCHES}
    for arch, artifact in made.items():
        export(artifact.folder, artifact.tokenizer_folder, folders[arch], is_checked=False)
    return folders


def loaded(adopted: Adopted) -> GPT:
    """Return the model of an imported artifact, as every stage loads it."""
    opened = artifacts.StageFolder(adopted.model)
    assert opened.input("tokenizer") == adopted.tokenizer
    manifest = artifacts.read_manifest(adopted.model)
    assert manifest is not None and artifacts.damaged_files(adopted.model, manifest, deep=True) == []
    tokenizer_hash = artifacts.sha256_of(adopted.tokenizer / "tokenizer.json")
    model, _ = load_model(adopted.model, tokenizer_hash=tokenizer_hash, device=CPU)
    model.compute_dtype = torch.float32
    return model.eval()


@torch.no_grad()
def logits(model: GPT) -> torch.Tensor:
    return model(torch.arange(3 * 60).view(3, 60) % VOCAB_SIZE)


@pytest.mark.parametrize("arch", ARCHES)
def test_an_export_comes_back_with_the_same_logits_and_its_own_stage(
    arch: str, made: dict[str, Artifact], exports: dict[str, Path], tmp_path: Path
) -> None:
    adopted = adopt(read_model(exports[arch]), tmp_path)
    assert torch.equal(logits(loaded(adopted)), logits(made[arch].model))
    assert (adopted.model.parent.name, adopted.is_new) == ("sft", True)
    manifest = artifacts.read_manifest(adopted.model)
    assert manifest is not None
    assert manifest.metrics["val_loss_last"] == 1.25 and manifest.metrics["steps"] == 12
    assert ModelSpec.model_validate(manifest.params["model"]) == made[arch].model.spec
    assert artifacts.sha256_of(adopted.tokenizer / "tokenizer.json") == made[arch].tokenizer.hash
    again = adopt(read_model(exports[arch]), tmp_path)
    assert again == dataclasses.replace(adopted, is_new=False)
    assert [path.name for path in (tmp_path / "artifacts" / "sft").iterdir()] == [adopted.model.name]


def test_a_tokenizer_that_is_there_already_is_used_again(made: dict[str, Artifact], exports: dict[str, Path]) -> None:
    adopted = adopt(read_model(exports["classic"]), made["classic"].base)
    assert adopted.tokenizer == made["classic"].tokenizer_folder


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("arch", ARCHES)
def test_a_checkpoint_of_the_original_comes_in_with_the_same_logits(
    arch: str, prefix: str, made: dict[str, Artifact], tmp_path: Path
) -> None:
    model, state = made[arch].model, state_of(made[arch].model)
    pattern = {"window_pattern": "SSSL"} if arch == "full" else {}
    if arch == "full":
        model = with_window(model, None)  # the original has no windows but those of its rows' length
        state |= {"smear_lambda": state["smear_lambda"].view(())}
    table = torch.cat([state["lm_head.weight"][:VOCAB_SIZE], torch.randn(PADDED - VOCAB_SIZE, WIDTH)])
    state |= {"lm_head.weight": table, "cos": torch.zeros(3)}
    write_reference(tmp_path / "chatsft_checkpoints" / "d3", model, state, prefix=prefix, step=7)
    folder = write_reference(tmp_path / "chatsft_checkpoints" / "d3", model, state, prefix=prefix, **pattern)
    ranks = write_ranks(tmp_path / "ranks.tiktoken", made[arch].tokenizer)
    found = read_model(folder, ranks)
    assert (found.step, found.stage, found.tokenizer.hash) == (STEP, "sft", made[arch].tokenizer.hash)
    assert torch.equal(logits(loaded(adopt(found, tmp_path / "base"))), logits(model))
    assert [note.split(":")[0] for note in found.notes] == (
        ["none of the newer tensors is there"] if arch == "classic" else []
    )


def with_window(model: GPT, window: int | None) -> GPT:
    """Return the same weights with other windows."""
    other = GPT(model.spec.model_copy(update={"short_window": window}), model.vocab_size)
    other.load_state_dict(model.state_dict())
    return other.eval()


NEUTRAL = {
    "residual_scale": ("resid_lambdas", 1.0),
    "input_scale": ("x0_lambdas", 0.0),
    "smear_scale": ("smear_lambda", 0.0),
    "backout_scale": ("backout_lambda", 0.0),
    "value_embeds": ("value_embeds", 0.0),
}


@pytest.mark.parametrize(
    "missing", [("smear_scale", "backout_scale"), ("residual_scale", "value_embeds"), ("input_scale",)]
)
def test_newer_tensors_that_a_checkpoint_lacks_are_neutral_and_said(
    missing: tuple[str, ...], made: dict[str, Artifact], tmp_path: Path
) -> None:
    model = with_window(made["full"].model, 64)  # no window_pattern: every layer sees the whole row
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(missing):
                parameter.fill_(NEUTRAL[name.split(".")[0]][1])
    gone = [NEUTRAL[name][0] for name in missing]
    companions = {"smear_lambda": "smear_gate", "value_embeds": "ve_gate"}
    gone += [companions[name] for name in gone if name in companions]
    state = {name: tensor for name, tensor in state_of(model).items() if not any(part in name for part in gone)}
    folder = write_reference(tmp_path / "d3", model, state)
    made["full"].tokenizer.save(folder)  # a tokenizer.json beside it needs no name
    found = read_model(folder)
    assert torch.equal(logits(loaded(adopt(found, tmp_path / "base"))), logits(model))
    assert "window_pattern is missing: every layer sees the whole row" in found.notes
    for name in missing:
        theirs, value = NEUTRAL[name]
        assert f"{theirs} is missing: set to its neutral value ({value:g})" in found.notes
    assert found.notes[-1].startswith("older than July 2026: assumed are a rotary base of 100000, a gain of 1.2")


def test_a_model_of_transformers_without_our_manifest_comes_in_from_several_files(
    made: dict[str, Artifact], exports: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    for path in exports["classic"].iterdir():
        if path.name not in ("export_manifest.json", "chat_template.jinja"):
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    edit(folder / "config.json", {"rms_norm_eps": 1e-6})
    found = read_model(folder)
    assert found.stage is None and found.notes[0].startswith("rms_norm_eps: 1e-06 there, 1.19e-07 here")
    adopted = adopt(found, tmp_path / "base", stage="mid")
    assert adopted.model.parent.name == "midtrain"
    assert torch.equal(logits(loaded(adopted)), logits(made["classic"].model))


def edit(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


class Program:
    """What a malicious pickle does when it is opened."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, ("opened",)


def bad_folder(kind: str, artifact: Artifact, exports: dict[str, Path], folder: Path) -> Path | None:
    """Write a folder with something wrong with it; return the tokenizer to name."""
    full = state_of(artifact.model)
    ranks = write_ranks(folder.parent / "ranks", artifact.tokenizer)
    of_reference: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "malicious": ({"transformer.wte.weight": Program()}, {}),
        "unknown tensor": (full | {"transformer.h.0.attn.novelty": torch.zeros(1)}, {}),
        "half a smear": ({name: full[name] for name in full if name != "smear_gate.weight"}, {}),
        "windows": (full, {"window_pattern": "SL"}),
        "shape": (full, {"window_pattern": "SSSL", "n_kv_head": 4}),
        "no numbers": (full | {"x0_lambdas": torch.full((3,), float("nan"))}, {"window_pattern": "SSSL"}),
        "vocabulary": (full, {"vocab_size": 290}),
        "no layers": (full, {"n_layer": None}),
        "cut off": (full, {}),
        "pickled tokenizer": (full, {}),
        "no tokenizer": (full, {}),
    }
    if kind in of_reference:
        state, config = of_reference[kind]
        write_reference(folder, artifact.model, state, **config)
        if kind == "cut off":
            data = (folder / f"model_{STEP:06d}.pt").read_bytes()
            (folder / f"model_{STEP:06d}.pt").write_bytes(data[: len(data) // 2])
        if kind == "pickled tokenizer":
            (folder / "tokenizer.pkl").write_bytes(b"\x80\x04.")
            return folder / "tokenizer.pkl"
        return None if kind == "no tokenizer" else ranks
    folder.mkdir()
    for path in exports["full"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if kind == "another kind":
        edit(folder / "config.json", {"model_type": "llama"})
    elif kind == "another gain":
        edit(folder / "config.json", {"qk_gain": 1.0, "backout_layer": 0})
    elif kind == "changed weights":
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model.safetensors").write_bytes(data)
    elif kind == "another split":
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        (folder / "tokenizer.json").write_text(text.replace("{1,2}", "{1,3}"), encoding="utf-8")
    elif kind == "empty":
        for path in folder.iterdir():
            path.unlink()
    return None


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("malicious", "cannot be read as tensors alone"),
        ("unknown tensor", "has no place for transformer.h.0.attn.novelty"),
        ("half a smear", "lacks 1 tensors of this model, smear_gate.weight first"),
        ("windows", "window_pattern 'SL': this project has 'SSSL'"),
        ("shape", r"is \(40, 80\), expected \(80, 80\)"),
        ("no numbers", "input_scale has values that are no numbers"),
        ("vocabulary", "The model has 290 tokens, the tokenizer 300"),
        ("no layers", "has no model_config.n_layer"),
        ("cut off", "cannot be read as tensors alone"),
        ("pickled tokenizer", "is a pickle, which can hold a program; it is not opened. Give a tokenizer.json"),
        ("no tokenizer", "The original keeps its tokenizer as a pickle.*give --tokenizer a tokenizer.json"),
        ("another kind", "a model of type 'llama'; expected 'nanochat' or 'nanochat_full'"),
        ("another gain", "2 problems:.*backout_layer is 0.*qk_gain is 1.0, this project computes 1.2"),
        ("changed weights", "has other bytes than were exported"),
        ("another split", "it splits text by"),
        ("empty", "holds no model: expected config.json"),
    ],
)
def test_what_cannot_be_read_ends_in_one_line_and_leaves_nothing(
    kind: str,
    problem: str,
    made: dict[str, Artifact],
    exports: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = bad_folder(kind, made["full"], exports, tmp_path / "folder")
    arguments = [str(tmp_path / "folder"), "--base-dir", str(tmp_path / "base")]
    assert ended([*arguments, *(["--tokenizer", str(tokenizer)] if tokenizer else [])], monkeypatch) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    with pytest.raises(NanochatError, match=f"(?s){problem}"):
        read_model(tmp_path / "folder", tokenizer)
    assert not (tmp_path / "base").exists() and not (tmp_path / "opened").exists()


def ended(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["import", *arguments])
    with pytest.raises(SystemExit) as end:
        importing.main()
    return int(end.value.code or 0)


def test_the_command_says_what_was_assumed_and_where_the_model_is(
    made: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made["classic"].model
    folder = write_reference(tmp_path / "elsewhere", model, state_of(model))
    ranks, record = write_ranks(tmp_path / "ranks", made["classic"].tokenizer), tmp_path / "base" / "newest_run.json"
    record.parent.mkdir()
    record.write_text('{"run_name": "mine", "folders": {"sft": "sft/0", "pretrain": "pretrain/0"}}')
    options = ["--base-dir", str(tmp_path / "base"), "--tokenizer", str(ranks), "--newest-record", str(record)]
    assert ended([str(folder), *options], monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    place = artifacts.read_json(record)["folders"]["pretrain"]  # nothing says that it is a chat model
    assert (
        lines[0].startswith("none of the newer tensors") and lines[1] == f"Imported: {tmp_path}/base/artifacts/{place}"
    )
    assert artifacts.read_json(record) == {"run_name": "mine", "folders": {"sft": "sft/0", "pretrain": place}}
    assert ended([str(folder), *options, "--as", "sff"], monkeypatch) == 2
    assert "did you mean 'sft'?" in capsys.readouterr().err


def test_the_newest_record_is_made_where_there_is_none(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path / "sft" / "1", tmp_path / "tokenizer" / "2", True)
    name_newest(tmp_path / "newest_run.json", adopted)
    assert artifacts.read_json(tmp_path / "newest_run.json")["folders"] == {"sft": "sft/1"}


def test_our_own_artifact_and_no_folder_are_told_apart(
    made: dict[str, Artifact], exports: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="is an artifact of this project already"):
        read_model(made["full"].folder)
    with pytest.raises(ArtifactError, match="There is no folder"):
        read_model(tmp_path / "nothing")
    with pytest.raises(SpecError, match="Unknown --as 'x'"):
        adopt(read_model(exports["full"]), tmp_path, stage="x")
