"""On real examples of every task: our scorer says what one example at a time says, and makes the same choice."""

from pathlib import Path

import pytest
import torch

from nanochat_core.inference.engine import Engine, EngineLimits
from nanochat_core.inference.load import EngineModel
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import Arch, ModelSpec
from tasks_eval.chat import Sampling, prompt_of, score_examples
from tasks_eval.core.bundle import CoreTask, read_bundle
from tasks_eval.core.prompts import Item
from tasks_eval.core.score import score_items
from tasks_eval.task import make_task
from tasks_eval.task_data import TaskData
from tests.parity.golden_tokenizer import golden_tokenizer
from tests.slow_scorer import slow_core, slow_letters
from tests.task_data import mirror_task_data

TOLERANCE = 1e-4  # nats
TOKENIZER = golden_tokenizer()
Tasks = list[tuple[CoreTask, list[Item]]]

pytestmark = pytest.mark.hub


def model_of(arch: Arch, *, sequence_len: int, width: int = 32) -> GPT:
    """Return a small model that prefers some tokens to others, in contexts of `sequence_len` tokens."""
    model = GPT(
        ModelSpec(arch=arch, depth=2, n_embd=width, n_head=2, n_kv_head=1, sequence_len=sequence_len),
        TOKENIZER.vocab_size,
    )
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.eval()


def check_core(model: GPT, tasks: Tasks, examples: int) -> int:
    """Compare the first `examples` items of each task; return how many choices were compared."""
    fast = EngineModel(Engine(model, TOKENIZER, limits=EngineLimits(kv_tokens=4096)))
    compared = 0
    for task, items in tasks:
        indices = range(min(examples, len(items)))
        for index, record in zip(indices, score_items(fast, task, items, indices), strict=True):
            slow = slow_core(model, TOKENIZER, task, items, index)
            assert list(record.logprobs) == pytest.approx(slow.logprobs, rel=0, abs=TOLERANCE), (task.label, index)
            best = sorted(slow.means, reverse=True)
            if task.kind == "language_modeling" or best[0] - best[1] > TOLERANCE:
                compared += 1
                assert record.correct == slow.is_right, (task.label, index)
                assert slow.answer is None or record.answer == str(slow.answer)
    return compared


@pytest.fixture(scope="module")
def data(hub_mirror: Path) -> TaskData:
    return mirror_task_data(hub_mirror)


@pytest.fixture(scope="module")
def tasks(data: TaskData) -> Tasks:
    """Every task of CORE with its items: reading them takes longer than scoring some."""
    root = data.core_root()
    assert root is not None
    return [(task, task.items()) for task in read_bundle(root)]


@pytest.mark.parametrize(("arch", "sequence_len"), [("classic", 2048), ("full", 256)])
def test_core_is_scored_as_one_example_at_a_time(arch: Arch, sequence_len: int, tasks: Tasks) -> None:
    """In 256 tokens most prompts of ten examples are cut from the left."""
    assert check_core(model_of(arch, sequence_len=sequence_len), tasks, 1) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["classic", "full"])
def test_core_is_scored_as_one_example_at_a_time_on_many_examples(arch: Arch, tasks: Tasks) -> None:
    assert check_core(model_of(arch, sequence_len=2048, width=128), tasks, 12) >= 240


@pytest.mark.parametrize("name", ["ARC-Easy", "ARC-Challenge", "MMLU"])
def test_letters_are_scored_as_one_question_at_a_time(name: str, data: TaskData) -> None:
    model = model_of("full", sequence_len=2048)
    fast, task = EngineModel(Engine(model, TOKENIZER)), make_task(name, data, "test")
    for index, record in enumerate(score_examples(fast, task, range(24), Sampling())):
        example = task[index]
        slow = slow_letters(model, TOKENIZER, prompt_of(example), example["letters"])
        assert list(record.logprobs) == pytest.approx(slow, rel=0, abs=TOLERANCE)
        best = sorted(slow, reverse=True)
        if best[0] - best[1] > TOLERANCE:
            assert record.answer == example["letters"][slow.index(best[0])]
            assert record.correct == (record.answer == example["answer"])
