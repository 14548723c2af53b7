"""A finished stage's folder behind the calls that benchmarks make."""

import math
from pathlib import Path

import pytest
import torch

from nanochat_core.errors import CheckpointError, SpecError
from nanochat_core.inference.engine import Engine, Prompt
from nanochat_core.inference.interface import GenerateRequest, LoglikelihoodRequest
from nanochat_core.inference.load import EngineModel, load_text_model
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt
from tests.nanochat_core.inference.model_folder import write_model_folder
from tests.nanochat_core.inference.test_engine import TOKENIZER, random_model
from tests.nanochat_core.stages.stage_folders import documents

CPU = torch.device("cpu")
QUESTION = {"messages": [{"role": "user", "content": "1+1?"}]}


@pytest.fixture(scope="module")
def model() -> GPT:
    return random_model()


@pytest.fixture(scope="module")
def folders(model: GPT, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model_folder(tmp_path_factory.mktemp("stage"), model, TOKENIZER)


@pytest.fixture(scope="module")
def text_model(folders: tuple[Path, Path]) -> EngineModel:
    return load_text_model(*folders, device=CPU)


@torch.no_grad()
def slow_likelihood(model: GPT, ids: tuple[int, ...], start: int) -> float:
    logprobs = torch.log_softmax(model(torch.tensor([ids]))[0].double(), -1)
    return sum(float(logprobs[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_likelihoods_are_sums_over_the_scored_tokens_in_the_order_of_the_requests(
    model: GPT, text_model: EngineModel
) -> None:
    bos = text_model.bos
    requests = [
        LoglikelihoodRequest((bos, *text_model.encode(text)), start)
        for text, start in (("a longer text", 9), ("ab", 1), ("some text", 4))
    ]
    for request, found in zip(requests, text_model.loglikelihood(requests), strict=True):
        assert found.logprob_sum == pytest.approx(slow_likelihood(model, request.ids, request.start), rel=1e-4)
        assert found.num_tokens == len(request.ids) - request.start


def test_what_the_model_would_say_itself_is_greedy_and_anything_else_is_not(text_model: EngineModel) -> None:
    ((answer,),) = text_model.generate([GenerateRequest(text="ab", max_new_tokens=5, use_tools=False)])
    prompt = (text_model.bos, *text_model.encode("ab"))
    said = (*prompt, *answer.ids)
    other = (*said[:-1], (said[-1] + 1) % 256)
    found = text_model.loglikelihood([LoglikelihoodRequest(ids, len(prompt)) for ids in (said, other)])
    assert [score.is_greedy for score in found] == [True, False]


def test_a_text_beyond_the_context_is_cut_from_the_left_but_never_what_is_scored(
    model: GPT, text_model: EngineModel
) -> None:
    ids = (text_model.bos, *range(100))
    size = text_model.max_context
    cut, all_scored = text_model.loglikelihood([LoglikelihoodRequest(ids, 98), LoglikelihoodRequest(ids, 2)])
    assert cut.logprob_sum == pytest.approx(slow_likelihood(model, ids[-size:], size - 3), rel=1e-4)
    assert all_scored.num_tokens == 99 and math.isfinite(all_scored.logprob_sum)


@torch.no_grad()
def test_letters_have_the_logits_of_the_assistant_s_first_token(model: GPT, text_model: EngineModel) -> None:
    other = {"messages": [{"role": "user", "content": "a much longer question?"}]}
    found = text_model.choice_logits([QUESTION, other], [["A", "B"], ["D", "C", "A"]])
    for prompt, letters, logits in zip([QUESTION, other], [["A", "B"], ["D", "C", "A"]], found, strict=True):
        last = model(torch.tensor([render_prompt(TOKENIZER, prompt)]))[0, -1]
        assert logits == pytest.approx([last[ord(letter)].item() for letter in letters], abs=1e-4)


def test_a_letter_of_several_tokens_is_refused(text_model: EngineModel) -> None:
    with pytest.raises(SpecError, match="The letter 'AB' is 2 tokens"):
        text_model.choice_logits([QUESTION], [["AB"]])


def test_conversations_and_texts_are_continued_from_their_own_prompts(model: GPT, text_model: EngineModel) -> None:
    found = text_model.generate(
        [
            GenerateRequest(conversation=QUESTION, max_new_tokens=6, temperature=1.0, seed=3, num_samples=2),
            GenerateRequest(text="ab", max_new_tokens=4),
        ]
    )
    engine = Engine(model, TOKENIZER)
    expected = engine.generate(
        [
            Prompt(render_prompt(TOKENIZER, QUESTION), max_new_tokens=6, temperature=1.0, seed=3, num_samples=2),
            Prompt([TOKENIZER.bos, *TOKENIZER.encode("ab")], max_new_tokens=4),
        ]
    )
    assert [[answer.ids for answer in row] for row in found] == [[answer.ids for answer in row] for row in expected]


def test_another_tokenizer_and_a_folder_without_a_model_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    Tokenizer.train(documents(50, 1), 300).save(tmp_path)
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_text_model(folders[0], tmp_path, device=CPU)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_text_model(tmp_path, folders[1], device=CPU)


def test_a_model_whose_weights_are_no_numbers_is_not_scored() -> None:
    broken = random_model()
    with torch.no_grad():
        broken.lm_head.weight[0] = math.nan
    model = EngineModel(Engine(broken, TOKENIZER))
    with pytest.raises(CheckpointError, match="its weights are broken"):
        model.loglikelihood([LoglikelihoodRequest((model.bos, *model.encode("ab")), 1)])
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(CheckpointError, match="its weights are broken"):
        EngineModel(Engine(broken, TOKENIZER)).choice_logits([QUESTION], [["A", "B"]])
