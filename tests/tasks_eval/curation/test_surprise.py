"""Perplexity: answers are scored, nothing else, and of each task the worst go."""

from functools import partial

import numpy as np

from nanochat_core.chat_format import SPECIAL_TOKENS
from nanochat_core.inference.interface import Loglikelihood, LoglikelihoodRequest
from nanochat_core.tokenizer.render import render_row
from tasks_eval.curation.surprise import CHUNK, Surprise, worst
from tests.fakes import FakeTextModel, byte_tokenizer
from tests.tasks_eval.curation.made import chat, picks_of

TOKENIZER = byte_tokenizer()
SPECIALS = frozenset(map(TOKENIZER.special, SPECIAL_TOKENS))


def letters_cost(request: LoglikelihoodRequest) -> Loglikelihood:
    """A model to which z is worth three nats, and any other byte one."""
    scored = request.ids[request.start :]
    return Loglikelihood(-float(sum(3 if token == ord("z") else 1 for token in scored)), len(scored), False)


def surprise(max_context: int = 1 << 20) -> Surprise:
    model = FakeTextModel(score=letters_cost, max_context=max_context)
    return Surprise(model, partial(render_row, TOKENIZER), SPECIALS)


def test_only_answers_count_and_each_token_as_much_as_another() -> None:
    reported: list[int] = []
    picks = picks_of([chat("zzzz", "abab"), chat("a", "zz", "zzz", "aaaaaa"), chat("no answer"), chat("a", "")])
    assert surprise().nats(picks, reported.append).tolist() == [1.0, 1.5, np.inf, np.inf]
    assert reported == [4]


def test_the_tool_s_output_is_not_scored_and_what_only_chats_have_is_a_line_end() -> None:
    parts = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "zz"}, {"type": "text", "text": "2"}]
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": parts}]
    requests = list(surprise().requests(*render_row(TOKENIZER, {"messages": messages})))
    assert [bytes(request.ids[request.start :]) for request in requests] == [b"1+1", b"2"]
    assert all(request.ids[0] == TOKENIZER.bos and not SPECIALS & set(request.ids[1:]) for request in requests)
    assert bytes(requests[-1].ids[1:]) == b"\n?\n\n\n1+1\n\nzz\n2"


def test_a_long_conversation_is_scored_as_far_as_the_context_goes() -> None:
    picks = picks_of([chat("a", "aaaazzzz"), chat("a" * 50, "z")])
    assert surprise(max_context=9).nats(picks, lambda count: None).tolist() == [1.0, np.inf]


def test_scores_come_in_the_order_of_the_picks_however_they_are_sorted() -> None:
    sizes = np.random.default_rng(0).integers(1, 40, 2 * CHUNK + 10).tolist()
    picks = picks_of([chat("?", "a" * size + "z") for size in sizes])
    reported: list[int] = []
    expected = [(size + 3) / (size + 1) for size in sizes]
    assert np.allclose(surprise().nats(picks, reported.append), expected)
    assert reported == [CHUNK, CHUNK, 10]


def test_the_worst_of_each_task_go_and_no_task_vanishes() -> None:
    picks = picks_of([chat("a", "b")] * 10, "A") + picks_of([chat("a", "b")] * 4, "B")
    nats = np.array([*range(10), 100.0, 103.0, 102.0, np.inf])
    assert set(worst(picks, nats, 0.3)) == {*picks[7:10], picks[13]}
    assert worst(picks, nats, 0.05) == []
    assert set(worst(picks, np.zeros(14), 0.5)) == {*picks[5:10], *picks[12:]}
