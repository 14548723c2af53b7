"""What is refused, before anything starts, of stages that a pipeline names itself and of files in mixtures."""

from pathlib import Path
from typing import Any

import pytest

from nanochat_core.conflicts import conflicts, obstacles
from nanochat_core.errors import SpecError
from nanochat_core.recipes import derive, recipe
from nanochat_core.specs import with_changes


def own(name: str = "dolly", **fields: Any) -> dict[str, Any]:
    return {"name": name, "conversations": {"mixture": [{"task": "Facts"}]}, **fields}


def mixture(*items: dict[str, Any]) -> dict[str, Any]:
    return {"finetune": [own(conversations={"mixture": items})]}


def problems(changes: dict[str, Any]) -> list[str]:
    spec = derive(with_changes(recipe("demo"), changes))
    return [*conflicts(spec), *obstacles(spec, gpus=0)]


ALONE: list[tuple[dict[str, Any], str]] = [
    ({"finetune": [own("rl")]}, "finetune: 'rl' means a stage or model of every pipeline; choose another name"),
    ({"finetune": [own("mid")]}, "finetune: 'mid' means a stage or model"),
    ({"finetune": [own(), own(after="pretrain")]}, "finetune: 'dolly' is there more than once"),
    (
        {"midtrain": None, "finetune": [own(after="midtrain")]},
        "finetune.dolly.after: midtrain is left out of this pipeline; fill it in, or choose another",
    ),
    ({"finetune": [own()], "force": ["doly"]}, "force: there is no stage 'doly' (did you mean 'dolly'?)"),
    ({"force": ["dolly"]}, "force: there is no stage 'dolly'"),
    ({"finetune": [own(sequence_len=1024)]}, "finetune.dolly.sequence_len: 1024 tokens; the model is trained on 128"),
    (
        {"finetune": [own(sequence_len=512), own("more", sequence_len=4096)]},
        "finetune.more.sequence_len: 4096 tokens; the model is trained on 512",
    ),
    (
        {"finetune": [own(batch_rows=3)], "launch.nproc_per_node": 2},
        "finetune.dolly.batch_rows: 3 cannot be shared evenly by 2 ranks",
    ),
    (
        {"finetune": [own(steps=3, optimizer={"warmup_steps": 9})]},
        "finetune.dolly.optimizer.warmup_steps: the rate rises for 9 steps",
    ),
    (
        {"finetune": [own(evaluators=[{"name": "chatcor", "every": 5}])]},
        "finetune.dolly.evaluators: unknown evaluator 'chatcor' (did you mean 'chatcore'?)",
    ),
    (mixture({"rows": 3}), "finetune.dolly.conversations.mixture: item 1 names neither; expected a task, or the path"),
    (mixture({"task": "Fact"}), "finetune.dolly.conversations.mixture: unknown task 'Fact' (did you mean 'Facts'?)"),
    (
        mixture({"task": "Facts"}, {"path": "/nowhere.jsonl"}),
        "finetune.dolly.conversations.mixture: there is no '/nowhere.jsonl' on this machine",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), ALONE)
def test_what_cannot_work_is_one_line_and_no_other(changes: dict[str, Any], expected: str) -> None:
    found = problems(changes)
    assert len(found) == 1 and found[0].startswith(expected), found


def test_a_task_and_a_file_are_two_items(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").touch()
    path = str(tmp_path / "own.jsonl")
    (found,) = problems(mixture({"task": "Facts", "path": path}))
    assert found.startswith(f"finetune.dolly.conversations.mixture: item 1 names both 'Facts' and '{path}'")
    assert problems(mixture({"task": "Facts"}, {"path": path})) == []


def test_rl_has_no_use_for_a_file_which_nothing_can_grade(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").touch()
    items = [{"task": "Facts"}, {"path": str(tmp_path / "own.jsonl")}]
    conversations = {"mixture": items, "validation_rows": 384}
    (found,) = problems({"rl.conversations": conversations})
    assert found.startswith("rl.conversations.mixture: ") and "own.jsonl cannot be graded" in found


@pytest.mark.parametrize("name", ["Dolly", "my stage", "a/b", "a_b", "", "1st", "x" * 41])
def test_a_name_is_of_small_letters_digits_and_hyphens(name: str) -> None:
    with pytest.raises(SpecError, match=r"finetune\.0\.name: String should"):
        with_changes(recipe("demo"), {"finetune": [own(name)]})


def test_what_fits_is_not_refused() -> None:
    stages = [own(after="pretrain"), own("more-2", after="midtrain"), own("last")]
    assert problems({"finetune": stages, "force": ["last", "sft"]}) == []


@pytest.mark.parametrize("path", ["~no-such-user/x.jsonl", "a" * 5000, "\0"], ids=["user", "long", "null byte"])
def test_what_is_no_path_is_not_there(path: str) -> None:
    changes = mixture({"path": path}) | {"dpo": {"preferences": {"path": path}}, "task_data.persona_path": path}
    found = [problem.partition(":")[0] for problem in problems(changes) if "on this machine" in problem]
    assert sorted(found) == ["dpo.preferences.path", "finetune.dolly.conversations.mixture", "task_data.persona_path"]
