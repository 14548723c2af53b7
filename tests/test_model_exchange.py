"""A demo of each arch, trained by the real pipeline, goes out to transformers and comes in again.

Slow: each trains a model of the demo's size for a few hundred steps, and starts a dozen processes.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch

from flows.model_ref import find_model
from nanochat_core import artifacts
from nanochat_core.checkpoint import load_model
from nanochat_core.data.shards import TextShards, documents
from nanochat_core.inference.engine import Engine, Prompt
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_conversation, render_prompt

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
CHANGES = {
    "download.local_characters": 2_000_000,
    "pretrain.steps": 120,
    "midtrain": None,
    "rl": None,
    "sft.steps": 100,
    "sft.conversations.validation_rows": 64,
    "evaluate.chat_examples": 20,
    "evaluate.chat_tasks": ["Arithmetic", "Facts"],
}


@dataclass(frozen=True)
class Demo:
    """A base folder with a trained chat model."""

    base: Path
    model: GPT
    tokenizer: Tokenizer
    texts: list[str]  # held out

    @property
    def chats(self) -> list[dict[str, list[dict[str, object]]]]:
        parts = [
            {"type": "python", "text": "12*7"},
            {"type": "python_output", "text": "84"},
            {"type": "text", "text": "12*7 is 84."},
        ]
        sums = [{"role": "user", "content": "What is 12*7?"}, {"role": "assistant", "content": parts}]
        talk = [({"role": "user", "content": a}, {"role": "assistant", "content": b}) for a, b in self.pairs()]
        return [{"messages": sums}, *({"messages": list(pair)} for pair in talk)]

    def pairs(self) -> Iterator[tuple[str, str]]:
        return zip(self.texts[::2], self.texts[1::2], strict=False)


def nanochat(base: Path, *arguments: str) -> str:
    """Run the command in a base folder and return what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=clean | {"NANOCHAT_BASE_DIR": str(base), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def last_word(printed: str, name: str) -> str:
    """Return what stands behind "name: " in the output."""
    found = re.search(rf"^{name}: (.+)$", printed, re.MULTILINE)
    assert found, printed
    return found[1]


@pytest.fixture(scope="module", params=["classic", "full"])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    base = tmp_path_factory.mktemp(f"demo-{request.param}")
    changes = CHANGES | {"pretrain.model.arch": request.param}
    nanochat(base, "run", "demo", *(f"--set={field}={json.dumps(value)}" for field, value in changes.items()))
    folders = find_model("sft", base)
    tokenizer = Tokenizer.load(folders.tokenizer)
    model, _ = load_model(folders.model, tokenizer_hash=tokenizer.hash, device=torch.device("cpu"))
    model.compute_dtype = torch.float32
    text = base / "artifacts" / artifacts.read_json(base / "newest_run.json")["folders"]["download"]
    texts = [text[:600] for text in islice(documents([TextShards.open(text).validation]), 40)]
    return Demo(base, model.eval(), tokenizer, texts)


@pytest.fixture(scope="module")
def exported(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "talker"
    assert "Checked with transformers" in nanochat(demo.base, "export", "sft", str(out))
    return out


@torch.no_grad()
def test_transformers_makes_the_same_of_it(demo: Demo, exported: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
    for text in demo.texts:
        assert theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids == demo.tokenizer.encode(
            text
        )
    for chat in demo.chats:
        found = theirs.apply_chat_template(chat["messages"], return_dict=True, return_assistant_tokens_mask=True)
        assert (found["input_ids"], found["assistant_masks"]) == render_conversation(demo.tokenizer, chat)
    model = transformers.AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True).eval()
    length = demo.model.spec.sequence_len
    rows = [ids for text in demo.texts if len(ids := [demo.tokenizer.bos, *demo.tokenizer.encode(text)]) >= length]
    idx = torch.tensor([row[:length] for row in rows[:8]])
    expected = demo.model(idx)
    torch.testing.assert_close(model(idx).logits, expected, rtol=0, atol=1e-4)
    best, second = expected.topk(2, dim=-1).values.unbind(-1)
    clear = best - second > 1e-4
    assert torch.equal(model(idx).logits.argmax(-1)[clear], expected.argmax(-1)[clear]) and clear.float().mean() > 0.99
    prompts = [render_prompt(demo.tokenizer, chat) for chat in demo.chats[:4]]
    answers = Engine(demo.model, demo.tokenizer).generate(
        [Prompt(ids, max_new_tokens=30, use_tools=False) for ids in prompts]
    )
    for ids, (answer,) in zip(prompts, answers, strict=True):
        said = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0, len(ids) :].tolist()
        assert tuple(said) == answer.ids


def test_it_comes_in_again_and_is_talked_with_evaluated_and_trained_further(
    demo: Demo, exported: Path, tmp_path: Path
) -> None:
    elsewhere = Path(last_word(nanochat(tmp_path, "import", str(exported)), "Imported"))
    question = ["-p", "What is 12*7?"]
    assert nanochat(tmp_path, "chat", str(elsewhere), *question) == nanochat(demo.base, "chat", "sft", *question)
    here = last_word(nanochat(demo.base, "import", str(exported)), "Imported")
    options = ["--tasks", "Arithmetic", "--examples", "30"]
    scores = [nanochat(demo.base, "eval", model, *options) for model in ("sft", here)]
    assert scores_in(scores[0]) == scores_in(scores[1]) != []
    start = ["--set", f"sft.start_from={here}", "--set", "sft.steps=2", "--set", "midtrain=null", "--set", "rl=null"]
    small = [f"--set={field}={json.dumps(CHANGES[field])}" for field in ("download.local_characters",)]
    assert "Completed" in nanochat(demo.base, "stage", "sft", "demo", *start, *small)


def scores_in(printed: str) -> list[str]:
    return re.findall(r"[\d.]+% ± [\d.]+% of \d+", printed)
