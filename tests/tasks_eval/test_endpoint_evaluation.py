"""The same tasks over our engine and over a server with the same model: every answer is the same."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nanochat_core.distributed import World
from nanochat_core.errors import SpecError
from nanochat_core.inference.endpoint import EndpointModel
from nanochat_core.inference.interface import TextModel
from nanochat_core.inference.load import load_text_model
from nanochat_core.inference.service import EngineOptions, load_engine
from nanochat_core.specs import EvaluateSpec
from tasks_eval.blocks import Answering
from tasks_eval.plan import plan_of
from tasks_eval.records import Record, read_records
from tasks_eval.run import Scores, measure
from tasks_eval.task_data import TaskData
from tests.deployments.serving.tiny_model import write_tiny_model
from tests.foreign_server import running_stranger
from tests.live_server import LiveServer, running_server
from tests.tasks_eval.conftest import MINIATURE, write_task_data
from tests.tasks_eval.core.bundle_files import write_bundle

SPEC = EvaluateSpec(
    core_examples=4,
    chat_tasks=("ARC-Easy", "GSM8K"),
    chat_examples=4,
    max_new_tokens=8,
    num_samples=2,
    temperature=0.8,
)
SPECIAL = re.compile(r"<\|\w+\|>")
TASKS = ("capitals", "pronouns", "endings", "ARC-Easy", "GSM8K")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def live(folders: tuple[Path, Path]) -> Iterator[LiveServer]:
    with running_server(load_engine(*folders, options=EngineOptions(max_batch=8, max_waiting=64))) as live:
        yield live


@pytest.fixture(scope="module")
def whole_data(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    """Every data set in miniature, and a bundle of CORE."""
    folder = tmp_path_factory.mktemp("task_data")
    data = write_task_data(folder, MINIATURE)
    root = write_bundle(folder / "bundle").relative_to(folder)
    return TaskData(folder, data.datasets | {"core": {"root": str(root)}})


def measured(model: TextModel, data: TaskData, folder: Path) -> tuple[Scores, dict[str, list[Record]]]:
    """Return the scores and the records of each task."""
    (folder / "records").mkdir(parents=True)
    answering = Answering(model, World(0, 1, torch.device("cpu")), folder / "log", lambda count: None)
    scores = measure(plan_of(SPEC, ["core", "samples", "chat"], data), answering, folder)
    return scores, {task: read_records(folder / "records" / f"{task}.parquet") for task in TASKS}


def test_a_server_gets_the_scores_of_the_model_that_it_serves(
    folders: tuple[Path, Path], live: LiveServer, whole_data: TaskData, tmp_path: Path
) -> None:
    wanted_scores, wanted = measured(load_text_model(*folders), whole_data, tmp_path / "engine")
    scores, found = measured(EndpointModel(live.url), whole_data, tmp_path / "endpoint")
    for task in TASKS:
        assert scores["tasks"][task]["prompt_hash"] == wanted_scores["tasks"][task]["prompt_hash"]
        for record, other in zip(found[task], wanted[task], strict=True):
            assert (record.answer, record.correct, record.completion) == (other.answer, other.correct, other.completion)
            assert record.logprobs == pytest.approx(other.logprobs, abs=1e-4)
            assert record.num_tokens == other.num_tokens
    assert {name: row["accuracy"] for name, row in scores["tasks"].items()} == {
        name: row["accuracy"] for name, row in wanted_scores["tasks"].items()
    }
    for sample, other in zip(scores["samples"], wanted_scores["samples"], strict=True):
        assert sample["text"] == SPECIAL.sub("", other["text"])  # a server's texts are without special tokens


def test_a_server_without_log_probabilities_of_prompts_is_asked_nothing_of_core(whole_data: TaskData) -> None:
    with running_stranger(scores_prompts=False) as stranger, pytest.raises(SpecError, match="CORE cannot be measured"):
        plan_of(SPEC, ["core"], whole_data).core[0].ask(EndpointModel(stranger.url), [0])
