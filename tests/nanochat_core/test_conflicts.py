"""What is refused before anything starts."""

import re
from pathlib import Path
from typing import Any

import pytest

from nanochat_core import conflicts, recipes, task_table
from nanochat_core.errors import DataError, SpecError
from nanochat_core.inference import engine
from nanochat_core.recipes import RECIPES, derive, recipe
from nanochat_core.specs import PipelineSpec, with_changes
from tasks_eval.evaluators import CHEAP_TASKS
from tasks_eval.task import make_task, task_names
from tasks_eval.task_data import TaskData

MIXTURE = {"mixture": [{"task": "Arithmetic", "rows": 8}], "validation_rows": 40}


def changed(changes: dict[str, Any], name: str = "demo") -> PipelineSpec:
    return derive(with_changes(recipe(name), changes))


def problems(changes: dict[str, Any], *, gpus: int = 0) -> list[str]:
    spec = changed(changes)
    return [*conflicts.conflicts(spec), *conflicts.obstacles(spec, gpus=gpus)]


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_conflicts_with_itself(name: str) -> None:
    assert conflicts.conflicts(derive(recipe(name))) == []
    for gpus in (0, 1, 2, 4, 8):
        assert conflicts.obstacles(derive(recipe(name)), gpus=gpus) == []


ALONE: list[tuple[dict[str, Any], str]] = [
    ({"run_name": "../up"}, "run_name: '../up' cannot name a folder"),
    ({"run_name": "latest"}, "run_name: 'latest' cannot name a folder"),
    ({"midtrain": None, "force": ["midtrain"]}, "force: the stage midtrain is left out"),
    ({"pretrain.model.n_head": 3}, "pretrain.model.n_head: width 128 is not divisible by 3 heads"),
    ({"pretrain.model.n_embd": 20}, "pretrain.model.n_head: the head size 5 must be even"),
    (
        {"pretrain.model.n_embd": 1000, "pretrain.model.n_head": None, "pretrain.model.n_kv_head": None},
        "pretrain.model.n_head: the head size 125 must be even",
    ),
    (
        {"pretrain.model.n_embd": 257, "pretrain.model.n_head": None, "pretrain.model.n_kv_head": None},
        "pretrain.model.n_head: width 257 is not divisible by 3 heads",
    ),
    (
        {"pretrain.model.arch": "full", "pretrain.model.n_embd": 16, "pretrain.model.n_head": 4},
        "pretrain.model.n_embd: width 16; arch 'full' reads 24 channels of each token",
    ),
    ({"pretrain.model.n_kv_head": 3}, "pretrain.model.n_kv_head: 4 heads cannot share 3"),
    ({"download.source": "path"}, "download.path: the source 'path' needs a folder"),
    ({"download.path": "/data"}, "download.path: the source is 'local'; set download.source to 'path'"),
    ({"tokenizer.vocab_size": 900_000, "download.local_characters": 200_000}, "tokenizer.vocab_size: 900,000 tokens"),
    ({"tokenizer.max_characters": 1000}, "tokenizer.vocab_size: 2,048 tokens cannot be learned from 1,000 characters"),
    ({"pretrain.validation_tokens": 100}, "pretrain.validation_tokens: 100 tokens are less than one row; expected 128"),
    ({"evaluate.bpb_tokens": 100}, "evaluate.bpb_tokens: 100 tokens are less than one row"),
    ({"pretrain.total_batch_tokens": 100}, "pretrain.total_batch_tokens: 100 is no multiple of sequence_len 128"),
    (
        {"launch.nproc_per_node": 16, "rl": None, "sft.batch_rows": 48, "pretrain.total_batch_tokens": 1024},
        "pretrain.total_batch_tokens: its 8 rows of 128 tokens go to 8 lanes, fewer than 16 ranks",
    ),
    ({"launch.nproc_per_node": 2, "sft.batch_rows": 31}, "sft.batch_rows: 31 cannot be shared evenly by 2 ranks"),
    ({"launch.nproc_per_node": 2, "midtrain.batch_rows": 31}, "midtrain.batch_rows: 31 cannot be shared evenly"),
    ({"launch.nproc_per_node": 2, "rl.questions_per_step": 3}, "rl.questions_per_step: 3 cannot be shared evenly"),
    ({"sft.optimizer.warmup_steps": 50}, "sft.optimizer.warmup_steps: the rate rises for 50 steps and falls for 96"),
    (
        {"midtrain.sequence_len": 256, "sft.sequence_len": 2048},
        "sft.sequence_len: 2048 tokens; the model is trained on 256 and answers up to 1024",
    ),
    ({"pretrain.model.short_window": 64}, "pretrain.model.short_window: every layer of arch 'classic' sees the whole"),
    ({"sft.sequence_len": 1024}, "sft.sequence_len: 1024 tokens; the model is trained on 128 and answers up to 512"),
    ({"sft.conversations": MIXTURE}, "sft.batch_rows: the mixture has 8 rows, less than one step of 32"),
    ({"sft.conversations.validation_rows": 31}, "sft.conversations.validation_rows: 31 rows are less than one batch"),
    (
        {"sft.conversations.weighted_rows": 100},
        "sft.conversations.weighted_rows: no task of the mixture has a weight; give it one",
    ),
    (
        {"sft.conversations.order": "sequence", "sft.batching": "packed"},
        "sft.conversations.order: batching 'packed' puts conversations side by side by their length; for a sequence",
    ),
    (
        {"sft.conversations": {**MIXTURE, "mixture": [{"task": "Facts", "weight": 2}], "weighted_rows": 9}},
        "sft.batch_rows: the mixture has 9 rows, less than one step of 32",
    ),
    (
        {"sft.conversations": {**MIXTURE, "mixture": [{"task": "CustomJSON"}]}},
        "sft.conversations.mixture: CustomJSON needs the data set 'custom'; set task_data.custom_path to your file of",
    ),
    (
        {"contamination": {"chat_tasks": ["GSM8K"]}},
        "contamination.chat_tasks: GSM8K needs the data set 'gsm8k'; set task_data.source to 'hub'",
    ),
    (
        {"contamination": {"chat_tasks": ["Fact"]}},
        "contamination.chat_tasks: unknown task 'Fact' (did you mean 'Facts'",
    ),
    ({"force": ["contamination"]}, "force: the stage contamination is left out of this pipeline"),
    ({"task_data.persona_path": "/nowhere"}, "task_data.persona_path: there is no '/nowhere' on this machine"),
    ({"task_data.custom_path": "/nowhere"}, "task_data.custom_path: there is no '/nowhere' on this machine"),
    ({"sft.batch_tokens": 4096}, "sft.batch_tokens: the batching is 'padded'; set it to 'bucketed'"),
    (
        {"sft.batching": "bucketed", "sft.batch_tokens": 100, "sft.sequence_len": 256},
        "sft.batch_tokens: 100 are less than one row; expected 256 (sequence_len) or more",
    ),
    ({"rl.eval_questions": 385}, "rl.eval_questions: 385 questions; only 384 are held out"),
    ({"rl.max_new_tokens": 512}, "rl.max_new_tokens: 512 tokens leave no room for a question; the model holds 512"),
    ({"evaluate.max_new_tokens": 600}, "evaluate.max_new_tokens: 600 tokens leave no room"),
    ({"evaluate.chat_tasks": []}, "evaluate.chat_tasks: there is none; name at least one task"),
    ({"evaluate.chat_tasks": ["Facts", "Facts"]}, "evaluate.chat_tasks: Facts is there more than once"),
    ({"evaluate.gallery_prompts": ["Hi", "Hi"]}, "evaluate.gallery_prompts: 'Hi' is there more than once; ask it once"),
    ({"evaluate.chat_tasks": ["Greetings"]}, "evaluate.chat_tasks: Greetings cannot be graded; take it out"),
    ({"evaluate.chat_tasks": ["GSM8K"]}, "evaluate.chat_tasks: GSM8K needs the data set 'gsm8k'; set task_data.source"),
    ({"evaluate.chat_tasks": ["Fact"]}, "evaluate.chat_tasks: unknown task 'Fact' (did you mean 'Facts'?)"),
    (
        {"launch.dask_address": "tcp://a:8786"},
        "launch.dask_address: leave it empty, or set launch.shard_tasks to 'dask'",
    ),
    (
        {"launch.shard_tasks": "dask", "launch.dask_address": "tcp://a:8786", "launch.shard_workers": 2},
        "launch.shard_workers: leave it empty, the cluster of launch.dask_address has workers of its own",
    ),
    ({"evaluate.num_samples": 2}, "evaluate.num_samples: 2 answers at temperature 0 are all the same"),
    ({"sft.evaluators": [{"name": "cor"}]}, "sft.evaluators: unknown evaluator 'cor' (did you mean 'core'?)"),
    (
        {"sft.evaluators": [{"name": "chatcore", "tasks": ["Facts"]}] * 2},
        "sft.evaluators: chatcore is there more than once",
    ),
    ({"pretrain.evaluators": [{"name": "core"}]}, "pretrain.evaluators: the CORE bundle is not fetched; add 'core'"),
    (
        {"rl.evaluators": [{"name": "chatcore", "tasks": ["Facts", "MMLU"]}]},
        "rl.evaluators: chatcore: MMLU needs the data set 'mmlu'; set task_data.source to 'hub'",
    ),
    (
        {"rl.evaluators": [{"name": "chatcore", "tasks": ["Facts", "Greetings"]}]},
        "rl.evaluators: chatcore cannot grade Greetings; take it out",
    ),
    (
        {"rl.evaluators": [{"name": "chatcore", "tasks": ["Fact"]}]},
        "rl.evaluators: chatcore: unknown task 'Fact' (did you mean 'Facts'?)",
    ),
    (
        {"sft.evaluators": [{"name": "chatcore", "tasks": ["Facts"], "max_new_tokens": 600}]},
        "sft.evaluators: max_new_tokens: 600 tokens leave no room",
    ),
    ({"rl.reward": "anser"}, "rl.reward: unknown reward 'anser' (did you mean 'answer'?)"),
    ({"launch.nnodes": 2}, "launch.nnodes: 2 machines need launch.mode 'multinode'"),
    ({"launch.device": "cuda"}, "launch.device: no CUDA device is visible on this machine"),
    ({"launch.device": "mps"}, "launch.device: 'mps' is there on a Mac only"),
    ({"pretrain.precision": "fp8", "launch.device": "cpu"}, "pretrain.precision: 'fp8' needs a CUDA device"),
    ({"download.source": "path", "download.path": "/nowhere"}, "download.path: there is no folder '/nowhere'"),
]


@pytest.mark.parametrize(("changes", "expected"), ALONE, ids=[expected.split(" ")[0] for _, expected in ALONE])
def test_what_cannot_work_is_refused_with_its_field(changes: dict[str, Any], expected: str) -> None:
    (problem,) = problems(changes)
    assert problem.startswith(expected)


def test_of_core_everything_that_is_wrong_is_said() -> None:
    found = problems({"evaluate.core_tasks": ["hellaswag_zero"]})
    assert [problem.partition(";")[0] for problem in found] == [
        "evaluate.core_tasks: core_examples is 0, so none of them is measured",
        "evaluate.core_tasks: the CORE bundle is not fetched",
        "evaluate.core_tasks: the CORE bundle has no task 'hellaswag_zero' (did you mean 'hellaswag_zeroshot'?)",
    ]
    hub = {"evaluate.core_tasks": ["piqa"]}
    assert conflicts.conflicts(derive(with_changes(recipe("demo", data="hub"), hub))) == []
    other = hub | {"task_data.core_bundle_url": "https://example.org/mine.zip", "evaluate.core_tasks": ["mine"]}
    assert conflicts.conflicts(derive(with_changes(recipe("demo", data="hub"), other))) == []


def test_the_evaluators_have_the_tasks_that_chatcore_asks_where_none_is_named() -> None:
    assert task_table.CHEAP_TASKS == CHEAP_TASKS


def test_a_data_set_that_is_not_fetched_is_missed_by_each_task_that_reads_it() -> None:
    spec = derive(with_changes(recipe("demo", data="hub"), {"task_data.datasets": ["smoltalk", "mmlu", "arc"]}))
    found = conflicts.conflicts(spec)
    assert {problem.split(":")[0] for problem in found} == {
        *(f"{part}.conversations.mixture" for part in ("midtrain", "sft", "rl")),
        "evaluate.chat_tasks",
        "pretrain.evaluators",
    }
    assert "midtrain.conversations.mixture: GSM8K needs the data set 'gsm8k'; add 'gsm8k'" in "\n".join(found)


def test_with_conversations_of_the_users_own_the_task_that_reads_them_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").touch()
    own = {"task_data.custom_path": str(tmp_path / "own.jsonl")}
    assert problems(own | {"sft.conversations.mixture": [{"task": "CustomJSON", "epochs": 2}]}) == []


def test_ranks_are_counted_over_gpus_and_machines() -> None:
    assert problems({}, gpus=3)[0].startswith("midtrain.batch_rows: 16 cannot be shared evenly by 3 ranks")
    assert [problem.split(":")[0] for problem in problems({"launch.device": "cpu"}, gpus=3)] == []
    assert problems({"launch.nproc_per_node": 2}, gpus=1) == [
        "launch.nproc_per_node: 2 ranks need a GPU each, this machine has 1"
    ]
    two = {"launch.mode": "multinode", "launch.nnodes": 3, "launch.rdzv_endpoint": "head:29500"}
    assert any("by 3 ranks" in problem for problem in problems(two))


def test_everything_is_said_at_once_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    bad = {"recipe": "demi", "pretrain.model.n_head": 3, "pretrain.precision": "fp8", "evaluate.chat_tasks": ["Fact"]}
    with pytest.raises(SpecError) as refused:
        recipes.runnable(with_changes(recipe("demo"), bad))
    first, *lines = str(refused.value).splitlines()
    assert first == "4 problems:"
    assert [re.split("[ :]", line)[1] for line in lines] == [
        "recipe",
        "pretrain.model.n_head",
        "evaluate.chat_tasks",
        "pretrain.precision",
    ]


def test_problems_do_not_hide_each_other() -> None:
    fields = (
        "run_name",
        "pretrain.model.n_head",
        "sft.batch_rows",
        "rl.reward",
        "evaluate.num_samples",
        "launch.device",
    )
    chosen = [next(pair for pair in ALONE if pair[1].startswith(field)) for field in fields]
    together = problems({field: value for changes, _ in chosen for field, value in changes.items()})
    assert len(together) >= len(fields)
    for _, expected in chosen:
        assert any(problem.startswith(expected) for problem in together), expected


def test_dask_is_asked_for_only_where_its_extra_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems({"launch.shard_tasks": "dask"}) == []
    monkeypatch.setattr(conflicts, "find_spec", lambda name: None)
    assert problems({"launch.shard_tasks": "threads"}) == []
    (problem,) = problems({"launch.shard_tasks": "dask"})
    assert problem.startswith("launch.shard_tasks: 'dask' needs an extra; pip install 'nanochat[dask]'")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"sft.conversations.mixture": [{"task": "Documents"}]},
            "sft.conversations.mixture: Documents needs the data set 'documents'; set task_data.documents_path to your",
        ),
    ],
)
def test_a_task_of_ones_own_data_names_the_field_that_says_where(changes: dict[str, Any], expected: str) -> None:
    assert [problem for problem in problems(changes) if problem.startswith(expected)]


def test_the_persona_of_the_package_stands_in_for_ones_own() -> None:
    assert problems({"evaluate.chat_tasks": ["Identity"], "sft.conversations.mixture": [{"task": "Identity"}]}) == []


def test_the_tables_say_what_the_code_does(tmp_path: Path) -> None:
    assert engine.CONTEXT_MARGIN == conflicts.CONTEXT_MARGIN
    nothing = TaskData(tmp_path, {})
    for name in task_names():
        try:
            task = make_task(name, nothing, "test")
        except DataError as error:
            assert f"The data set {task_table.TASK_DATASETS[name]!r} was not fetched" in str(error)
        else:
            assert name not in task_table.TASK_DATASETS
            assert (task.grading is None) == (name in task_table.UNGRADED)
        if name in task_table.UNTRAINABLE:
            with pytest.raises(DataError, match="no training split"):
                make_task(name, nothing, "train")
