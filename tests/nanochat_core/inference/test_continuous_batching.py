"""Whatever shares the batch, whenever requests enter and leave: a greedy answer is that of full forward passes.

Hypothesis draws requests, when they come, which are taken back, and how little memory there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.inference.engine import Engine, EngineLimits
from nanochat_core.inference.requests import EngineFailed, Request, Sampling, ScoredToken, Update
from nanochat_core.inference.row import Row
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import Arch, ModelSpec
from tests.nanochat_core.inference.test_engine import TOKENIZER, random_model

TOLERANCE = 1e-4
SHARED = [TOKENIZER.bos, *TOKENIZER.encode("You are a helpful assistant who says little. ")]


@cache
def model_of(arch: Arch) -> GPT:
    """Return a model whose windows (full: 128 tokens, then 32) are shorter than some of the rows."""
    return random_model(seed=3, arch=arch)


@dataclass
class Asked:
    """A request, the step before which it comes, and after how many steps it is taken back (None: never)."""

    request: Request
    arrives: int
    leaves: int | None
    updates: dict[int, list[Update]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    own = draw(st.lists(st.integers(0, 255), min_size=0, max_size=50))
    ids = (SHARED if draw(st.booleans()) else [TOKENIZER.bos]) + own
    sampling = Sampling(
        max_new_tokens=draw(st.integers(1, 40)),
        ignore_eos=draw(st.booleans()),
        logprobs=0,
        prompt_logprobs=draw(st.sampled_from([None, None, 1])),
        use_tools=False,
    )
    leaves = draw(st.one_of(st.none(), st.none(), st.integers(1, 20)))
    return Asked(Request(tuple(ids), sampling, draw(st.integers(1, 3))), draw(st.integers(0, 25)), leaves)


@st.composite
def limits(draw: st.DrawFn) -> EngineLimits:
    return EngineLimits(draw(st.integers(1, 5)), draw(st.sampled_from([1, 300, 5_000])), draw(st.integers(1, 40)))


def drive(engine: Engine, all_asked: Sequence[Asked]) -> None:
    """Run all requests to their end, each entering and leaving at its step."""
    owners = {}
    for step in range(10_000):
        for each in all_asked:
            if each.arrives == step:
                each.rows = engine.submit(each.request)
                owners |= dict.fromkeys(each.rows, each)
            elif each.leaves is not None and step == each.arrives + each.leaves:
                for row in each.rows:
                    engine.cancel(row)
        if step > 50 and engine.is_idle:
            return
        for event in engine.step():
            assert event.error is None, event.error
            each = owners[event.row]
            assert each.leaves is None or step < each.arrives + each.leaves, "nothing comes after it was taken back"
            each.updates.setdefault(event.row.sample, []).extend(event.updates)
    raise AssertionError("the engine did not come to an end")


@torch.no_grad()
def check_answer(model: GPT, request: Request, updates: Sequence[Update]) -> None:
    """Compare the tokens and their log-probabilities with those of one full forward pass over all of them."""
    tokens = [token for update in updates for token in update.tokens]
    ids = [*request.ids, *(token.id for token in tokens)]
    logprobs = torch.log_softmax(model(torch.tensor([ids[:-1]]))[0], -1)
    for place, token in enumerate(tokens, start=len(request.ids) - 1):
        assert token.logprob == pytest.approx(float(logprobs[place, token.id]), abs=TOLERANCE)
        assert float(logprobs[place].max() - logprobs[place, token.id]) <= TOLERANCE, "not the likeliest token"
    prompt = updates[0].prompt_tokens
    if request.sampling.prompt_logprobs is not None and updates[0].sample == 0:
        assert [token.id for token in prompt] == list(request.ids)
        for place, token in enumerate(prompt[1:]):
            assert token.logprob == pytest.approx(float(logprobs[place, token.id]), abs=TOLERANCE)
            assert token.top[0][1] == pytest.approx(float(logprobs[place].max()), abs=TOLERANCE)
    else:
        assert prompt == ()
    reason = updates[-1].finish_reason
    ends = (TOKENIZER.bos, TOKENIZER.special("<|assistant_end|>"))
    is_ended = tokens[-1].id in ends and not request.sampling.ignore_eos
    assert reason == ("stop" if is_ended else "length")
    assert is_ended or len(tokens) == request.sampling.max_new_tokens


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["classic", "full"]), limits(), st.lists(asked(), min_size=1, max_size=6))
def test_answers_are_those_of_full_forward_passes_whatever_else_is_in_the_batch(
    arch: Arch, size: EngineLimits, all_asked: list[Asked]
) -> None:
    engine = Engine(model_of(arch), TOKENIZER, limits=size)
    engine.prepare(136)
    drive(engine, all_asked)
    for each in all_asked:
        for sample in range(each.request.num_samples):
            updates = each.updates.get(sample, [])
            if each.leaves is None:
                check_answer(model_of(arch), each.request, updates)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)
    assert stats.pages_cached <= stats.pages_total


def request_of(text: str, **sampling: object) -> Request:
    asked_for = Sampling(**{"max_new_tokens": 8, "ignore_eos": True} | sampling)  # type: ignore[arg-type]
    return Request((TOKENIZER.bos, *TOKENIZER.encode(text)), asked_for)


def run(engine: Engine, *requests: Request) -> list[Row]:
    rows = [row for request in requests for row in engine.submit(request)]
    while not engine.is_idle:
        engine.step()
    return rows


def new_engine(arch: Arch = "classic", **size: int) -> Engine:
    engine = Engine(model_of(arch), TOKENIZER, limits=EngineLimits(**size))
    engine.prepare(136)
    return engine


def test_a_prompt_that_goes_on_from_an_earlier_answer_computes_only_what_is_new() -> None:
    engine = new_engine()
    (first,) = run(engine, request_of("x" * 60))
    (second,) = run(engine, Request((*first.ids, *TOKENIZER.encode("and then?")), request_of("").sampling))
    assert second.cached_tokens == len(first.ids) - 1  # the answer's last token was said, but never read again
    assert engine.stats().cached_prompt_tokens == second.cached_tokens


def test_samples_and_requests_that_come_together_compute_what_they_share_once() -> None:
    engine = new_engine()
    system = "s" * 70
    rows = run(engine, Request(request_of(system).ids, request_of("").sampling, 3), request_of(system + "more"))
    assert [row.cached_tokens for row in rows] == [0, 70, 70, 71]


def test_weights_that_were_trained_since_make_all_that_was_computed_worthless() -> None:
    model = random_model(seed=5)
    engine = Engine(model, TOKENIZER)
    engine.prepare(136)
    run(engine, request_of("x" * 60))
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    engine.prepare(136)
    (again,) = run(engine, request_of("x" * 60, logprobs=0))
    assert again.cached_tokens == 0


def test_where_pages_end_the_youngest_is_computed_again_and_nothing_is_lost() -> None:
    engine = new_engine(rows=4, kv_tokens=1)  # pages for one row of 136 tokens
    requests = [request_of(letter * 30, max_new_tokens=100, logprobs=0) for letter in "abc"]
    rows = run(engine, *requests)
    assert engine.stats().restarts > 0
    for row, request in zip(rows, requests, strict=True):
        check_answer(model_of("classic"), request, [Update(0, _scored(row), finish_reason="length")])


@torch.no_grad()
def _scored(row: Row) -> tuple[ScoredToken, ...]:
    logprobs = torch.log_softmax(model_of("classic")(torch.tensor([row.ids]))[0], -1)
    new = range(row.prompt_length, len(row.ids))
    return tuple(ScoredToken(row.ids[place], float(logprobs[place - 1, row.ids[place]])) for place in new)


def test_a_request_that_breaks_takes_no_other_with_it() -> None:
    def tool(_: str) -> str:
        raise RuntimeError("the tool is broken")

    engine = Engine(model_of("classic"), TOKENIZER, tool=tool)
    engine.prepare(136)
    healthy, broken = engine.submit(request_of("good"))[0], engine.submit(request_of("bad"))[0]
    broken.take(ScoredToken(TOKENIZER.special("<|python_start|>")))
    broken.take(ScoredToken(TOKENIZER.special("<|python_end|>")))
    assert broken.call == ""
    broken.take = lambda _: (_ for _ in ()).throw(RuntimeError("a broken row"))  # type: ignore[method-assign,assignment]
    broken.call = None
    errors = []
    while not engine.is_idle:
        errors += [event.error for event in engine.step() if event.error is not None]
    assert [str(error) for error in errors] == ["a broken row"]
    assert len(healthy.completion().ids) == 8


def test_a_forward_pass_that_fails_is_done_again_one_by_one() -> None:
    engine = new_engine()
    good, bad = engine.submit(request_of("good"))[0], engine.submit(request_of("bad"))[0]
    bad.ids[1] = 10**6  # beyond the table: what a check should have caught
    errors = []
    while not engine.is_idle:
        errors += [event for event in engine.step() if event.error is not None]
    assert [event.row for event in errors] == [bad]
    assert len(good.completion().ids) == 8


def test_logits_that_are_no_numbers_end_the_request_and_say_so() -> None:
    model = random_model(seed=5)
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    engine = Engine(model, TOKENIZER)
    engine.prepare(136)
    engine.submit(request_of("a"))
    (event,) = engine.step()
    assert isinstance(event.error, EngineFailed) and "not numbers" in str(event.error)
    assert engine.is_idle


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(()), "at least one token"),
        (Request((1, 300)), "token ids are 0 to 264"),
        (Request((1, -1)), "token ids are 0 to 264"),
        (request_of("a" * 100, max_new_tokens=100), "more than the context of 192"),
    ],
)
def test_a_request_that_can_never_be_answered_is_refused_at_once(request_: Request, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_engine().submit(request_)


def test_the_spec_of_these_tests_has_windows_shorter_than_its_rows() -> None:
    spec: ModelSpec = model_of("full").spec
    assert [block.attn.window for block in model_of("full").blocks] == [128, 32] and spec.depth == 2
