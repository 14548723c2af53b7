"""What benchmarks/serve.py measures is the same work: equal weights, equal prompts, equal tokens."""

import doctest
from pathlib import Path

import pytest

from benchmarks import _generators, serve
from benchmarks._generators import Setup
from benchmarks._served_model import write_model
from nanochat_core.specs import Arch, ModelSpec

VOCAB_SIZE = 1024
PROMPTS = [[5, 300, 700, 2], list(range(256, 400))]  # the second is longer than the window


@pytest.mark.parametrize(("arch", "who"), [("classic", "plain"), ("full", "plain"), ("classic", "transformers")])
def test_all_contenders_say_the_same_tokens(arch: Arch, who: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = ModelSpec(arch=arch, depth=2, n_embd=128, n_head=1, n_kv_head=1, sequence_len=256)
    write_model(tmp_path, model, VOCAB_SIZE, "fp32")
    made = [_generators.CONTENDERS[name](Setup(who=name, folder=str(tmp_path))) for name in ("ours", who)]
    ours, theirs = (contender.answer(PROMPTS, 12) for contender in made)
    for contender in made:
        contender.close()
    assert [answer.ids for answer in ours] == [answer.ids for answer in theirs]
    assert all(len(answer.ids) == 12 for answer in ours)
    assert all(len(answer.times) == 12 and sorted(answer.times) == answer.times for answer in theirs)
    assert theirs[1].times[0] >= theirs[0].times[-1]  # the one that waits counts its wait


def test_examples_in_the_docstrings_hold() -> None:
    assert not any(doctest.testmod(module).failed for module in (serve, _generators))


def test_prompts_differ_between_turns_and_are_the_same_for_few_requests() -> None:
    all_ids, few, other = (serve.CHATS.prompts(seed, 32_768, count) for seed, count in ((0, None), (0, 2), (1, 2)))
    assert all_ids[:2] == few != other
    assert all(150 <= len(ids) <= 250 for ids in all_ids)


def test_a_ratio_compares_turns_that_stood_next_to_each_other() -> None:
    def turn(ours: float, plain: float) -> dict[str, dict[str, object]]:
        answer = {"ids": [[1, 2]], "first": [0.5], "last": [1.0], "prompt_tokens": 10}
        return {"ours": answer | {"seconds": ours}, "plain": answer | {"seconds": plain}}

    summary = serve._summary([turn(1.0, 4.0), turn(2.0, 10.0), turn(9.0, 9.0)])
    assert summary["over"] == {"plain": 4.0}
    assert summary["same_tokens"] == {"plain": 1.0}


def test_the_bars_of_a_gpu_that_is_not_there_are_not_reached() -> None:
    assert not any(bar["ok"] for bar in serve.cuda_bars({}).values())
