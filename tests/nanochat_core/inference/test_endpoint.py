"""A model behind a URL: over our own server it says what the engine says, and of other servers what they can."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat_core.errors import DataError, SpecError, Unreachable
from nanochat_core.inference.endpoint import EndpointModel
from nanochat_core.inference.interface import GenerateRequest, LoglikelihoodRequest
from nanochat_core.inference.load import EngineModel, load_text_model
from nanochat_core.inference.openai_api import ApiClient
from nanochat_core.inference.service import EngineOptions, load_engine
from tests.deployments.serving.tiny_model import write_tiny_model
from tests.foreign_server import ForeignServer, logprob_of, running_stranger
from tests.live_server import LiveServer, running_server

KEY = "a-key-that-nobody-guesses"
QUESTION = {"messages": [{"role": "user", "content": "Which is a fruit?\n- pear=A\n- chair=B"}]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny_model(tmp_path_factory.mktemp("endpoint"))


@pytest.fixture(scope="module")
def engine(folders: tuple[Path, Path]) -> EngineModel:
    return load_text_model(*folders)


@pytest.fixture(scope="module")
def live(folders: tuple[Path, Path]) -> Iterator[LiveServer]:
    with running_server(load_engine(*folders, options=EngineOptions(max_batch=8, max_waiting=64))) as live:
        yield live


@pytest.fixture(scope="module")
def ours(live: LiveServer) -> EndpointModel:
    return EndpointModel(live.url)


def scoring(model: EndpointModel, *texts: tuple[str, str]) -> list[LoglikelihoodRequest]:
    """Return requests to score the second of two texts after the first."""
    before = [len(model.encode(text)) for text, _ in texts]
    rows = model.encode_batch([text + rest for text, rest in texts])
    return [LoglikelihoodRequest((model.bos, *row), 1 + start) for row, start in zip(rows, before, strict=True)]


def test_over_our_server_prompts_have_the_engines_log_probabilities(ours: EndpointModel, engine: EngineModel) -> None:
    long = "And the river runs, " * 20  # longer than the model's context: both cut it from the left
    requests = scoring(ours, ("Is water", " wet? Yes"), ("2+2", "=4"), ("ä€", "🎉 <|bos|>"), (long, "to the sea"))
    assert [request.ids[0] for request in requests] == [engine.bos] * 4
    assert ours.encode("a <|bos|> b") == engine.encode("a <|bos|> b")
    for found, wanted in zip(ours.loglikelihood(requests[:3]), engine.loglikelihood(requests[:3]), strict=True):
        assert found.logprob_sum == pytest.approx(wanted.logprob_sum, abs=1e-4)
        assert (found.num_tokens, found.is_greedy) == (wanted.num_tokens, wanted.is_greedy)
    assert ours.loglikelihood(requests[3:])[0].num_tokens == len("to the sea")
    with pytest.raises(DataError, match=r"what is scored has 400 tokens, more than fit .* context of 256: serve"):
        ours.loglikelihood(scoring(ours, ("a", long)))


def test_over_our_server_a_greedy_continuation_is_known_as_one(ours: EndpointModel, engine: EngineModel) -> None:
    ids = list(engine.encode("The"))
    (completion,) = engine.generate([GenerateRequest(text="The", max_new_tokens=4, use_tools=False)])[0]
    request = LoglikelihoodRequest((engine.bos, *ids, *completion.ids), 1 + len(ids))
    assert engine.loglikelihood([request])[0].is_greedy
    assert ours.loglikelihood([request])[0].is_greedy


def test_over_our_server_letters_and_answers_are_the_engines(ours: EndpointModel, engine: EngineModel) -> None:
    letters = [list("ABCDEFG"), list("AB")]
    for found, wanted in zip(
        ours.choice_logits([QUESTION] * 2, letters), engine.choice_logits([QUESTION] * 2, letters), strict=True
    ):
        shifts = [one - other for one, other in zip(found, wanted, strict=True)]
        assert shifts == pytest.approx([shifts[0]] * len(shifts), abs=1e-4)
    requests = [
        GenerateRequest(conversation=QUESTION, max_new_tokens=9),
        GenerateRequest(conversation=QUESTION, max_new_tokens=9, num_samples=3, temperature=1.0, top_k=5, seed=11),
        GenerateRequest(text="Once", max_new_tokens=9, use_tools=False),
    ]
    found_texts, wanted_texts = (
        [[sample.text for sample in row] for row in model.generate(requests)] for model in (ours, engine)
    )
    assert found_texts[:2] == wanted_texts[:2]
    assert len(set(found_texts[1])) == 3
    assert found_texts[2] == [row.raw_text for row in engine.generate(requests[2:])[0]]
    with pytest.raises(SpecError, match="'AB' is 2 tokens there"):
        ours.choice_logits([QUESTION], [["AB", "C"]])


def test_a_question_that_does_not_fit_gets_an_empty_answer(ours: EndpointModel) -> None:
    long = {"messages": [{"role": "user", "content": "so " * 400}]}
    (answer,) = ours.generate([GenerateRequest(conversation=long, max_new_tokens=4)])[0]
    assert (answer.text, answer.finish_reason) == ("", "length")


def test_a_server_that_hides_its_tokens_scores_texts() -> None:
    with running_stranger() as stranger:
        model = EndpointModel(stranger.url)
        likely, unlikely = model.loglikelihood(scoring(model, ("Is water wet?", " yes"), ("Is water wet?", " no way")))
        assert (likely.logprob_sum, likely.num_tokens, likely.is_greedy) == (logprob_of(" yes"), 1, True)
        expected = logprob_of(" no") + logprob_of(" way")
        assert (unlikely.logprob_sum, unlikely.num_tokens, unlikely.is_greedy) == (expected, 2, False)
        path, body = stranger.asked[-1]
        assert (path, body["model"]) == ("/v1/completions", "stranger") and body["prompt"].startswith("Is water wet?")


def test_what_a_server_cannot_do_is_said_with_what_it_can() -> None:
    request = GenerateRequest(conversation=QUESTION, num_samples=3, temperature=0.5, seed=4)
    with running_stranger(scores_prompts=False) as stranger:
        model = EndpointModel(stranger.url)
        with pytest.raises(SpecError, match=r"echo is not supported\): CORE cannot be measured there. Chat tasks can"):
            model.check_scores()
        with pytest.raises(SpecError, match="CORE cannot be measured"):
            model.loglikelihood([LoglikelihoodRequest((model.bos, *model.encode("a b")), 2)])
        assert model.choice_logits([QUESTION], [["A", "B", "C"]]) == [[-1.5, -0.5, -1.5]]
        assert [sample.text for sample in model.generate([request])[0]] == ["#### 7"] * 3
        seeds = [body["seed"] for path, body in stranger.asked if "seed" in body]
        assert seeds == [4, 5, 6]  # it gives one sample at a time
        stranger.chat_logprobs = False
        with pytest.raises(SpecError, match=r"This model has no logprobs\): multiple choice .* cannot be measured"):
            model.choice_logits([QUESTION], [["A", "B"]])


def test_a_busy_server_is_asked_again_and_the_key_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_API_KEY", KEY)
    busy = (429, {"message": "slowly"}, {"Retry-After": "0"})
    with running_stranger() as stranger:
        model = EndpointModel(stranger.url + "/v1/", "stranger")
        stranger.refusals = [busy, (503, {"message": "later"}, {"Retry-After": "0"}), busy]
        assert model.generate([GenerateRequest(conversation=QUESTION)] * 2)[1][0].text == "#### 7"
        assert not stranger.refusals
        assert {header["Authorization"] for header in stranger.headers} == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((401, {"message": "no such key"}, {}), r"wants another API key \(no such key\): set NANOCHAT_API_KEY"),
        ((400, {"message": "Unrecognized request argument: top_k"}, {}), "refuses this with status 400: Unrecognized"),
        ((429, {"message": "you have used it up", "code": "insufficient_quota"}, {}), "status 429: you have used"),
        ((429, {"message": "slowly"}, {"Retry-After": "86400"}), "wants to be asked again in 86400 seconds"),
    ],
)
def test_what_no_repetition_mends_is_said_at_once(
    refusal: tuple[int, dict[str, str], dict[str, str]], said: str
) -> None:
    with running_stranger() as stranger:
        model = EndpointModel(stranger.url)
        stranger.refusals = [refusal]
        before = len(stranger.asked)
        with pytest.raises((SpecError, Unreachable), match=said):
            model.generate([GenerateRequest(conversation=QUESTION)])
        assert len(stranger.asked) == before + 1


def test_a_server_that_stays_broken_is_given_up() -> None:
    with running_stranger() as stranger:
        client = ApiClient(stranger.url, attempts=3)
        stranger.refusals = [(500, {"message": "the model is on fire"}, {"Retry-After": "0"})] * 5
        with pytest.raises(
            Unreachable, match=r"with status 500: the model is on fire\. Run the same again: it goes on"
        ):
            client.post("chat/completions", {})
        assert len(stranger.asked) == 3


def test_an_address_without_a_server_or_model_is_refused_in_one_line() -> None:
    with running_stranger() as stranger:
        with pytest.raises(SpecError, match=r"has no model 'strange' \(did you mean 'stranger'"):
            EndpointModel(stranger.url, "strange")
        url = stranger.url
    with pytest.raises(Unreachable, match="does not answer"):
        EndpointModel(url)
    with pytest.raises(SpecError, match="Keep passwords out of the address"):
        EndpointModel("http://me:secret@127.0.0.1:8000")
    for url in ("http://127.0.0.1:eight", "127.0.0.1:0", "http://[::1", "http://a..b", "http://a\0b", "http://"):
        with pytest.raises(SpecError, match="is no address of a server"):
            EndpointModel(url)


def test_answers_that_are_no_answers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_stranger() as stranger:
        model = EndpointModel(stranger.url)
        monkeypatch.setattr(ForeignServer, "_chat", lambda *_: (200, {"object": "list"}, {}))
        with pytest.raises(DataError, match="answers without choices"):
            model.generate([GenerateRequest(conversation=QUESTION)])
