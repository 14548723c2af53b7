"""What transformers makes of an export is the model, its tokenizer and its chats; what would not be is refused."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nanochat_core import artifacts
from nanochat_core.conversion import export_check, exporting, tensor_names
from nanochat_core.conversion.export_check import check_export
from nanochat_core.conversion.exporting import export, read_trained
from nanochat_core.conversion.samples import CONVERSATIONS, TEXTS
from nanochat_core.errors import ArtifactError, CheckpointError
from nanochat_core.inference.engine import Engine, Prompt
from nanochat_core.tokenizer.render import render_conversation, render_prompt
from tests.nanochat_core.conversion.trained_models import ARCHES, VOCAB_SIZE, WIDTH, Artifact, write_artifact

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "NanoChatForCausalLM"), reason="this transformers has no NanoChat models"
)
FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "export_manifest.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
CODE = {"configuration_nanochat_full.py", "modeling_nanochat_full.py"}


class Exported:
    """An artifact, its export, and what transformers makes of that."""

    def __init__(self, artifact: Artifact, folder: Path) -> None:
        self.artifact, self.folder = artifact, folder
        self.arch = artifact.model.spec.arch
        self.manifest = export(artifact.folder, artifact.tokenizer_folder, folder, git_commit="def5678")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, dtype=torch.float32
        ).eval()


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    roots = {arch: tmp_path_factory.mktemp(f"export-{arch}") for arch in ARCHES}
    return {arch: Exported(write_artifact(root / "base", arch), root / "out") for arch, root in roots.items()}


@pytest.fixture(params=ARCHES)
def exported(request: pytest.FixtureRequest, exports: dict[str, Exported]) -> Exported:
    return exports[request.param]


@pytest.fixture(scope="module")
def full(exports: dict[str, Exported]) -> Exported:
    """For what does not depend on the arch: `full` has all that there is."""
    return exports["full"]


def test_the_folder_holds_what_transformers_wants_and_says_what_it_is(exported: Exported) -> None:
    names = {path.name for path in exported.folder.iterdir()}
    assert names == FILES | (CODE if exported.arch == "full" else set())
    manifest = artifacts.read_json(exported.folder / "export_manifest.json")
    assert manifest == exported.manifest
    assert set(manifest["files"]) == names - {"export_manifest.json"}
    for name, record in manifest["files"].items():
        assert artifacts.sha256_of(exported.folder / name) == record["sha256"]
    source = artifacts.read_manifest(exported.artifact.folder)
    assert source is not None
    assert manifest["source"]["digest"] == source.digest
    assert (manifest["step"], manifest["stage"], manifest["git_commit"]) == (12, "sft", "def5678")
    assert manifest["source"]["artifact"] == "sft/0123456789abcdef" and manifest["source"]["git_commit"] == "abc1234"
    assert manifest["check"]["by"] == f"transformers {transformers.__version__}"
    with safe_open(exported.folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_slice("model.embed_tokens.weight").get_shape() == [VOCAB_SIZE, WIDTH]


@torch.no_grad()
def test_logits_are_ours_in_batches_with_padding_and_with_a_cache(exported: Exported) -> None:
    generator = torch.Generator().manual_seed(0)
    idx = torch.randint(VOCAB_SIZE, (3, 64), generator=generator)  # windows are shorter
    expected = exported.artifact.model(idx)
    assert float(expected.std()) > 0.5
    found = exported.model(idx).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(exported.model(idx, logits_to_keep=5).logits, expected[:, -5:], rtol=0, atol=1e-4)
    padding = torch.tensor([0, 7, 30])
    mask = torch.arange(64)[None] >= padding[:, None]
    start = exported.model(idx[:, :40], attention_mask=mask[:, :40], position_ids=places(mask)[:, :40], use_cache=True)
    end = exported.model(
        idx[:, 40:], attention_mask=mask, position_ids=places(mask)[:, 40:], past_key_values=start.past_key_values
    )
    for row, first in enumerate(padding.tolist()):
        alone = exported.artifact.model(idx[row : row + 1, first:])[0]
        logits = torch.cat([start.logits, end.logits], dim=1)[row, first:]
        torch.testing.assert_close(logits, alone, rtol=0, atol=1e-4)


def places(mask: torch.Tensor) -> torch.Tensor:
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def test_generate_gives_the_tokens_of_our_greedy_loop(exported: Exported) -> None:
    tokenizer = exported.artifact.tokenizer
    prompts = [render_prompt(tokenizer, conversation) for conversation in CONVERSATIONS[:3]]
    engine = Engine(exported.artifact.model, tokenizer)
    answers = engine.generate([Prompt(ids=ids, max_new_tokens=40, use_tools=False) for ids in prompts])
    batch = exported.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    found = exported.model.generate(**batch, max_new_tokens=40, do_sample=False)
    for row, (answer,) in zip(found[:, batch["input_ids"].size(1) :].tolist(), answers, strict=True):
        assert tuple(row[: len(answer.ids)]) == answer.ids
    assert max(len(answer.ids) for (answer,) in answers) > 20


@torch.no_grad()
def test_beams_and_other_ways_to_generate_take_the_cache_along(full: Exported) -> None:
    idx = torch.tensor([render_prompt(full.artifact.tokenizer, CONVERSATIONS[0])])
    options = {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 3, "do_sample": False, "eos_token_id": -1}
    with_cache, without = (full.model.generate(idx, use_cache=use, **options) for use in (True, False))
    assert with_cache.tolist() == without.tolist()
    assert len({tuple(row) for row in with_cache.tolist()}) == 3
    greedy = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": -1}
    plain = full.model.generate(idx, **greedy).tolist()
    for way in ({"prompt_lookup_num_tokens": 3}, {"prefill_chunk_size": 7}):  # the first takes tokens back
        assert full.model.generate(idx, **greedy, **way).tolist() == plain
    with pytest.raises(ValueError, match="a cache that is not static"):
        full.model.generate(idx, **greedy, cache_implementation="static")


def test_texts_have_our_ids_and_special_tokens_in_them_stay_text(full: Exported) -> None:
    ours, theirs = full.artifact.tokenizer, full.tokenizer
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids == ours.encode(text)
    assert theirs("a").input_ids == [ours.bos, *ours.encode("a")]
    assert theirs("<|bos|>", add_special_tokens=False).input_ids == [ours.bos]  # unless one asks for it
    assert (theirs.bos_token, theirs.eos_token, len(theirs)) == ("<|bos|>", "<|assistant_end|>", ours.vocab_size)


@pytest.mark.parametrize("conversation", [*CONVERSATIONS, {"messages": [{"role": "user", "content": "<" * 3}]}])
def test_chats_have_our_ids_and_masks_whatever_their_text_spells(full: Exported, conversation: dict[str, Any]) -> None:
    messages, tokenizer = conversation["messages"], full.artifact.tokenizer
    found = full.tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert (found["input_ids"], found["assistant_masks"]) == render_conversation(tokenizer, conversation)
    question = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    prompt = full.tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)
    assert prompt["input_ids"] == render_prompt(tokenizer, conversation)


FRAGMENTS = (
    "<|",
    "|>",
    "<",
    "|",
    ">",
    "bos",
    "user_end",
    "<|bos|>",
    "<|python_end|>",
    " ",
    "\n",
    "🙂",
    "e\u0301",
    "12",
    "a",
)
TEXT = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=8).map("".join)


@settings(deadline=None, max_examples=60)
@given(system=TEXT, question=TEXT, said=TEXT, code=TEXT, output=TEXT)
def test_any_chat_has_our_ids_and_masks(
    full: Exported, system: str, question: str, said: str, code: str, output: str
) -> None:
    parts = [{"type": "text", "text": said}, {"type": "python", "text": code}]
    parts += [{"type": "python_output", "text": output}, {"type": "text", "text": said}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": parts}]
    chat = {"messages": [{"role": "system", "content": system}, *messages, {"role": "user", "content": said}]}
    found = full.tokenizer.apply_chat_template(chat["messages"], return_dict=True, return_assistant_tokens_mask=True)
    assert (found["input_ids"], found["assistant_masks"]) == render_conversation(full.artifact.tokenizer, chat)


def test_the_chat_template_takes_lists_of_parts_and_refuses_other_orders(full: Exported) -> None:
    def ids(content: Any, role: str = "user", **options: Any) -> list[int]:
        message = {"role": role, "content": content}
        return full.tokenizer.apply_chat_template([message], return_dict=True, **options)["input_ids"]

    parts = [{"type": "text", "text": "<"}, {"type": "text", "text": "|bos|> hi"}]
    assert ids(parts) == ids("<|bos|> hi")
    for role, content, options, problem in (
        ("assistant", "hi", {}, "alternate"),
        ("user", [{"type": "image", "text": ""}], {}, "image"),
        ("system", "hi", {}, "at least one message"),
        ("user", "hi", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "no tools"),
    ):
        with pytest.raises(Exception, match=problem):
            ids(content, role, **options)


def test_the_model_card_is_read_by_the_hub_and_has_the_scores(full: Exported, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    root = shutil.copytree(full.artifact.base, tmp_path / "base") / "artifacts"
    folder, tokenizer = (
        root / path.parent.name / path.name for path in (full.artifact.folder, full.artifact.tokenizer_folder)
    )
    manifest = artifacts.read_manifest(folder)
    assert manifest is not None
    measured = {"accuracy/ARC-Easy": 0.375, "stderr/ARC-Easy": 0.02, "n/ARC-Easy": 500, "chatcore": 0.125}
    evaluation = {"stage": "evaluate_sft", "inputs": {"model": manifest.digest}, "metrics": measured}
    (root / "evaluate_sft" / "0123456789abcdef").mkdir(parents=True)
    artifacts.write_json(
        root / "evaluate_sft" / "0123456789abcdef" / "manifest.json", manifest.model_dump() | evaluation
    )
    export(folder, tokenizer, tmp_path / "my-model", is_checked=False)
    card = ModelCard.load(tmp_path / "my-model" / "README.md")
    results = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    assert results == {"ARC-Easy": 0.375, "all": 0.125}
    assert "nanochat-full" in card.data.tags and card.data.library_name == "transformers"
    for words in ("0.3750 ± 0.0200", "| training | val_loss_last | 1.25 |", "abc1234", "trust_remote_code=True"):
        assert words in card.text


@torch.no_grad()
def test_half_precision_is_half_the_size_and_computes_what_its_rounded_weights_do(
    full: Exported, tmp_path: Path
) -> None:
    artifact = full.artifact
    manifest = export(artifact.folder, artifact.tokenizer_folder, tmp_path / "half", dtype="bf16")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", full.folder)]
    assert sizes[0] < 0.6 * sizes[1]
    assert 0 < manifest["check"]["largest_rounding"] < 0.05
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", trust_remote_code=True)
    assert model.dtype == torch.bfloat16
    idx = torch.arange(40)[None]
    found, expected = model(idx).logits.float(), full.model(idx).logits
    assert float((found - expected).abs().mean()) < 0.1


def test_a_folder_that_is_not_empty_stays_as_it_is(full: Exported, tmp_path: Path) -> None:
    artifact = full.artifact
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="is not empty"):
        export(artifact.folder, artifact.tokenizer_folder, tmp_path)
    with pytest.raises(ArtifactError, match="something else than an export"):
        export(artifact.folder, artifact.tokenizer_folder, tmp_path, force=True)
    with pytest.raises(ArtifactError, match="is a file"):
        export(artifact.folder, artifact.tokenizer_folder, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_earlier_export_is_replaced_when_that_is_asked_for(full: Exported, tmp_path: Path) -> None:
    artifact, out = full.artifact, tmp_path / "out"
    out.mkdir()
    for force in (False, True):  # into an empty folder, then over the export in it
        export(artifact.folder, artifact.tokenizer_folder, out, is_checked=False, force=force)
        assert "README.md" in {path.name for path in out.iterdir()}
        assert list(tmp_path.iterdir()) == [out]


def test_a_tensor_without_a_place_is_refused_and_nothing_is_left(
    full: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(tensor_names.TRANSFORMERS, "blocks.#.mlp.c_fc.weight")
    with pytest.raises(CheckpointError, match=r"leave out the trained tensors blocks\.0\.mlp\.c_fc\.weight"):
        export(full.artifact.folder, full.artifact.tokenizer_folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        ("weights", "has other values than the model's"),
        ("config", "describes another model"),
        ("tokenizer", "is not the model's|no tokenizer"),
        ("template", "renders the chat"),
        ("lost", "lacks 1 tensors"),
        ("code", "transformers computes other logits"),
        ("broken code", r"transformers [\d.]+ does not load the export \(SyntaxError"),
    ],
)
def test_an_export_that_is_not_the_model_does_not_pass_its_own_check(
    full: Exported, harm: str, problem: str, tmp_path: Path
) -> None:
    artifact, folder = full.artifact, tmp_path / "out"
    folder.mkdir()
    for path in full.folder.iterdir():
        if path.name != "export_manifest.json":
            (folder / path.name).write_bytes(path.read_bytes())
    harm_export(folder, harm)
    trained = read_trained(artifact.folder, artifact.tokenizer_folder)
    with pytest.raises((CheckpointError, ArtifactError), match=problem):
        check_export(folder, trained.meta.model, trained.weights, trained.tokenizer)


def harm_export(folder: Path, harm: str) -> None:
    if harm in ("weights", "lost"):
        tensors = load_file(folder / "model.safetensors")
        name = "model.layers.1.self_attn.k_proj.weight"
        if harm == "lost":
            del tensors[name]
        else:
            tensors[name][3, 3] += 0.01
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    if harm.endswith(
        "code"
    ):  # in one process, transformers takes the first code that it has seen for a class of config
        with open(folder / "configuration_nanochat_full.py", "a") as config:
            config.write(f"# another class: {harm}\n")
    file, old, new = {
        "config": ("config.json", r'"rope_(theta|base)": 10+\.0', r'"rope_\1": 5000.0'),
        "tokenizer": ("tokenizer.json", r'"(\w+)": 260,', r'"\1\1": 260,'),
        "code": ("modeling_nanochat_full.py", r"keys >= queries - window", "keys > queries - window"),
        "broken code": ("modeling_nanochat_full.py", "class View:", "class View"),
        "template": ("chat_template.jinja", r"<\|user_end\|>", "<|user_start|>"),
    }[harm]
    text = (folder / file).read_text(encoding="utf-8")
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    (folder / file).write_text(changed, encoding="utf-8")


def test_without_transformers_one_line_says_what_was_not_checked(
    full: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    manifest = export(full.artifact.folder, full.artifact.tokenizer_folder, tmp_path / "out")
    assert manifest["check"]["by"] == "nanochat"
    words = manifest["check"]["words"]
    assert words.count("\n") == 0 and "not compared with transformers" in words and "nanochat[export]" in words


def test_the_command_line_ends_in_one_line_either_way(
    full: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(full.artifact.folder), str(full.artifact.tokenizer_folder), str(tmp_path / "out")]
    assert ended(exporting.main, [*folders, "--no-check"], monkeypatch) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Exported: {tmp_path}/out"
    (tmp_path / "file").write_text("")
    for out, problem in (("out", "is not empty"), ("file/out", "Not a directory")):
        assert ended(exporting.main, [*folders[:2], str(tmp_path / out), "--no-check"], monkeypatch) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and printed.count("\n") == 1 and problem in printed


def ended(main: Callable[[], None], arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    monkeypatch.setattr(exporting.os, "environ", dict(exporting.os.environ))
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_check_compares_rows_longer_than_a_window(full: Exported) -> None:
    rows = export_check.rows(full.artifact.tokenizer, 64)
    assert max(map(len, rows)) == 64
    assert min(map(len, rows)) == 1
    assert json.dumps(rows)
