"""lm-eval on an exported model and our scorer on the checkpoint: the same log-likelihoods of CORE's real prompts."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from nanochat_core.conversion.exporting import export
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.interface import GenerateRequest, LoglikelihoodRequest
from nanochat_core.inference.load import EngineModel
from tasks_eval.core.bundle import read_bundle
from tasks_eval.core.prompts import render_prompts
from tasks_eval.core.score import make_requests
from tests.nanochat_core.inference.model_folder import write_model_folder
from tests.tasks_eval.test_against_slow_scorer import TOKENIZER, model_of

TOLERANCE = 1e-3  # nats
ITEMS = 14  # of each task
BOS = "<|bos|>"

pytestmark = [pytest.mark.slow, pytest.mark.hub]


@dataclass(frozen=True)
class Pair:
    """A request of our scorer, and the same as context and continuation."""

    task: str
    index: int
    request: LoglikelihoodRequest
    context: str
    continuation: str


def pair(task: str, index: int, request: LoglikelihoodRequest) -> Pair:
    decode = TOKENIZER.decode
    return Pair(
        task, index, request, BOS + decode(request.ids[1 : request.start]), decode(request.ids[request.start :])
    )


def pairs_of(model: EngineModel, bundle: Path) -> list[Pair]:
    """Return the requests of the first items of all tasks, and for some prompts what the model itself says next."""
    pairs = []
    for task in read_bundle(bundle):
        items = task.items()
        for index in range(ITEMS):
            requests = make_requests(model.bos, task, model.encode_batch(render_prompts(task, items, index)))
            pairs += [pair(task.label, index, request) for request in requests]
    asked = pairs[:: max(1, len(pairs) // 60)]
    prompts = [
        GenerateRequest(text=TOKENIZER.decode(own.request.ids[1:]), max_new_tokens=2, use_tools=False) for own in asked
    ]
    for own, (answer,) in zip(asked, model.generate(prompts), strict=True):
        ids = (*own.request.ids, *answer.ids)
        pairs.append(pair("its own words", own.index, LoglikelihoodRequest(ids, len(own.request.ids))))
    return [own for own in pairs if len(own.request.ids) < model.max_context]


def test_lm_eval_gives_our_log_likelihoods_and_finds_the_same_answers_greedy(tmp_path: Path, hub_mirror: Path) -> None:
    """Compared is what both split alike: lm-eval cuts a text into context and continuation by its characters."""
    gpt = model_of("classic", sequence_len=2048, width=128)
    export(*write_model_folder(tmp_path, gpt, TOKENIZER), tmp_path / "exported", is_checked=False)
    ours = EngineModel(Engine(gpt, TOKENIZER))
    theirs = HFLM(str(tmp_path / "exported"), device="cpu", dtype="float32", batch_size=4, max_length=2048)
    pairs = [own for own in pairs_of(ours, hub_mirror / "eval_bundle") if is_split_alike(theirs, own)]
    instances = [Instance("loglikelihood", {}, (own.context, own.continuation), 0) for own in pairs]
    answers = theirs.loglikelihood(instances, disable_tqdm=True)
    for own, mine, (logprob, is_greedy) in zip(
        pairs, ours.loglikelihood([own.request for own in pairs]), answers, strict=True
    ):
        assert mine.logprob_sum == pytest.approx(logprob, rel=0, abs=TOLERANCE), own
        assert mine.is_greedy == is_greedy, own
    examples = Counter(task for task, _ in {(own.task, own.index) for own in pairs})
    assert len(examples) > 15 and sum(examples.values()) > 200
    assert sum(is_greedy for _, is_greedy in answers) > 20


def is_split_alike(theirs: HFLM, own: Pair) -> bool:
    context, continuation = theirs._encode_pair(own.context, own.continuation)
    return (*context, *continuation) == own.request.ids and len(context) == own.request.start
