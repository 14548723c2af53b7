"""However requests begin alike and share batches: their log-probabilities are those of a forward pass of each alone."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.inference.engine import Engine, EngineLimits
from nanochat_core.inference.token_tree import MAX_PLACES, TokenTree, ToScore, token_trees
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import Arch
from tests.nanochat_core.inference.test_engine import TOKENIZER, random_model

TOLERANCE = 1e-4  # nats
LETTERS = TOKENIZER.encode("abcdefgh")
SHOTS = [TOKENIZER.bos, *TOKENIZER.encode("Q: one and one? A: two. Q: two and two? A: four. Q: ")]


@cache
def model_of(arch: Arch) -> GPT:
    """Return a model whose windows (full: 128 tokens, then 32) are shorter than some of the rows."""
    return random_model(seed=3, arch=arch)


def engine_of(model: GPT, batch_tokens: int = 16_384) -> Engine:
    return Engine(model, TOKENIZER, limits=EngineLimits(kv_tokens=batch_tokens))


@torch.no_grad()
def logits_of(model: GPT, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0].double()


def check(model: GPT, requests: list[tuple[list[int], int]], *, batch_tokens: int = 16_384) -> None:
    """Compare each request's scores, and the logits behind its last id, with those of a pass of its own."""
    engine = engine_of(model, batch_tokens)
    found = {index: (logprobs, is_greedy) for index, logprobs, is_greedy in engine.score(requests)}
    after = dict(engine.next_token_logits([ids for ids, _ in requests]))
    assert set(found) == set(after) == set(range(len(requests)))
    for index, (ids, start) in enumerate(requests):
        logits = logits_of(model, ids)
        expected = torch.log_softmax(logits, -1)[range(start - 1, len(ids) - 1), ids[start:]]
        logprobs, is_greedy = found[index]
        torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=TOLERANCE)
        assert is_greedy == (logits[start - 1 : -1].argmax(-1).tolist() == ids[start:])
        torch.testing.assert_close(after[index].double(), logits[-1], rtol=0, atol=TOLERANCE)


@st.composite
def question(draw: st.DrawFn, beginning: list[int]) -> list[tuple[list[int], int]]:
    """Draw requests that begin with `beginning` and some tokens more, and part ways at drawn places."""
    stem = [*beginning, *draw(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=70))]
    requests = []
    for _ in range(draw(st.integers(1, 4))):
        cut = draw(st.integers(max(1, len(stem) - 3), len(stem)))
        ids = stem[:cut] + draw(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=6))
        requests.append((ids, draw(st.integers(1, len(ids) - 1)) if draw(st.booleans()) else len(ids) - 1))
    return requests


@pytest.mark.parametrize("arch", ["classic", "full"])
@settings(max_examples=15, deadline=None)
@given(data=st.data(), has_shots=st.booleans(), batch_tokens=st.sampled_from([1, 64, 16_384]))
def test_scores_are_those_of_a_pass_of_each_request_alone(
    arch: Arch, data: st.DataObject, has_shots: bool, batch_tokens: int
) -> None:
    beginning = SHOTS if has_shots else [TOKENIZER.bos]
    questions = data.draw(st.lists(question(beginning), min_size=1, max_size=4))
    check(model_of(arch), [request for asked in questions for request in asked], batch_tokens=batch_tokens)


@pytest.mark.parametrize("arch", ["classic", "full"])
def test_what_all_requests_begin_with_is_kept_and_what_some_begin_with_is_shared(arch: Arch) -> None:
    """Twelve questions of four options each behind the same examples: they stand there once, and each question once."""
    questions = [[*SHOTS, *TOKENIZER.encode(f"{number} and {number} and {number}? A: ")] for number in range(10, 22)]
    requests = [([*ids, *TOKENIZER.encode(option)], len(ids)) for ids in questions for option in ("x", "yy", "x", "yz")]
    check(model_of(arch), requests)
    rows = [ToScore(index, np.array(ids), start) for index, (ids, start) in enumerate(requests)]
    trees = token_trees(rows, len(SHOTS), 64)
    assert len(trees) == len(questions)
    assert {len(tree) for tree in trees} == {len(questions[0]) - len(SHOTS) + len("x") + len("yy") + len("z")}


def test_a_request_joins_those_that_it_shares_enough_with_and_no_row_grows_without_end() -> None:
    def rows(count: int, shared: int, own: int) -> list[TokenTree]:
        stem = np.arange(shared)
        requests = [
            ToScore(number, np.concatenate([stem, 10_000 + number * own + np.arange(own)]), shared)
            for number in range(count)
        ]
        return token_trees(requests, 0, 64)

    assert len(rows(4, shared=400, own=10)) == 1  # options of a question
    assert len(rows(4, shared=2, own=100)) == 4  # questions that begin with "<bos>Q"
    assert max(tree.end for tree in rows(600, shared=1000, own=10)) <= MAX_PLACES


def test_nothing_to_score_is_no_trouble() -> None:
    engine = engine_of(model_of("classic"))
    assert list(engine.score([])) == [] and list(engine.next_token_logits([])) == []
