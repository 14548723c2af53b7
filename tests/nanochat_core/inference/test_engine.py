"""Batched decoding equals the obvious way: one full forward pass for each token of each row."""

import pytest
import torch

from nanochat_core.inference.engine import Engine, EngineLimits, Prompt
from nanochat_core.inference.tool_use import Tool
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.specs import Arch, ModelSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from tests.fakes import byte_tokenizer

TOKENIZER = byte_tokenizer()
PROMPTS = ["a", "hello there", "12*7", "the cat sat on the mat"]


def random_model(seed: int = 0, n_kv_head: int = 2, arch: Arch = "classic") -> GPT:
    """Return a model that says different things after different prompts."""
    spec = ModelSpec(arch=arch, depth=2, n_embd=32, n_head=4, n_kv_head=n_kv_head, sequence_len=32)
    model = GPT(spec, TOKENIZER.vocab_size)
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any() or parameter is model.lm_head.weight:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def prompt_ids(text: str) -> list[int]:
    return [TOKENIZER.bos, *TOKENIZER.encode(text)]


@torch.no_grad()
def slow_greedy(model: GPT, ids: list[int], count: int) -> list[int]:
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] in (TOKENIZER.bos, TOKENIZER.special("<|assistant_end|>")):
            break
    return ids[-count:] if len(ids) > count else ids


@pytest.mark.parametrize("n_kv_head", [1, 4])
def test_greedy_decoding_in_a_batch_equals_full_forward_passes(n_kv_head: int) -> None:
    model = random_model(n_kv_head=n_kv_head)
    answers = Engine(model, TOKENIZER).generate([Prompt(prompt_ids(text), max_new_tokens=20) for text in PROMPTS])
    for text, (answer,) in zip(PROMPTS, answers, strict=True):
        ids = prompt_ids(text)
        assert list(answer.ids) == slow_greedy(model, ids, 20)[-len(answer.ids) :]
        assert len(answer.ids) == 20 or answer.finish_reason == "stop"


def test_a_seed_gives_the_same_samples_whatever_else_is_in_the_batch() -> None:
    engine = Engine(random_model(), TOKENIZER)
    prompts = [
        Prompt(prompt_ids(text), num_samples=3, max_new_tokens=12, temperature=1.0, top_k=20, seed=number)
        for number, text in enumerate(PROMPTS)
    ]
    together = engine.generate(prompts)
    alone = [engine.generate([prompt])[0] for prompt in prompts]
    assert [[answer.ids for answer in row] for row in together] == [[answer.ids for answer in row] for row in alone]
    assert len({answer.ids for answer in together[0]}) > 1


def test_few_slots_and_pages_make_rows_wait_and_change_nothing() -> None:
    model = random_model()
    prompts = [Prompt(prompt_ids(text), num_samples=2, max_new_tokens=8, temperature=1.0, seed=5) for text in PROMPTS]
    limits = [EngineLimits(), EngineLimits(rows=3, kv_tokens=30, step_tokens=5)]
    wide, narrow = (Engine(model, TOKENIZER, limits=each).generate(prompts) for each in limits)
    assert [[answer.ids for answer in row] for row in wide] == [[answer.ids for answer in row] for row in narrow]


def test_a_prompt_too_long_is_cut_by_its_own_answer_s_length_whatever_else_is_in_the_batch() -> None:
    model = random_model()
    long = Prompt([TOKENIZER.bos, *range(120)], max_new_tokens=6)
    beside = Prompt(prompt_ids("a"), max_new_tokens=100)
    engine = Engine(model, TOKENIZER)
    ((alone,),), ((together,), _) = engine.generate([long]), engine.generate([long, beside])
    assert alone.ids == together.ids
    assert list(alone.ids) == slow_greedy(model, list(long.ids)[-(engine.max_length - 6) :], 6)[-len(alone.ids) :]


def scripted(text_and_specials: list[str], tool: Tool | None = None) -> Engine:
    """Return an engine whose model says a fixed text after any prompt; only what it says is not real."""
    script = [
        token
        for piece in text_and_specials
        for token in ([TOKENIZER.special(piece)] if piece.startswith("<|") else TOKENIZER.encode(piece))
    ]
    said = iter(script)

    def raw_logits(hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(hidden), TOKENIZER.vocab_size)
        logits[:, next(said)] = 1.0
        return logits

    engine = Engine(random_model(), TOKENIZER, tool=tool)
    engine.prepare(128)
    engine.runner.raw_logits = raw_logits  # type: ignore[method-assign]
    return engine


def test_a_tool_call_is_answered_by_forced_tokens_that_are_not_the_model_s() -> None:
    said = ["<|python_start|>", "12*7", "<|python_end|>", "ok", "<|assistant_end|>"]
    engine = scripted(said, tool=lambda expression: "84" if expression == "12*7" else None)
    (answer,) = engine.generate([Prompt([TOKENIZER.bos], max_new_tokens=40)])[0]
    assert answer.parts == (
        {"type": "python", "text": "12*7"},
        {"type": "python_output", "text": "84"},
        {"type": "text", "text": "ok"},
    )
    assert answer.finish_reason == "stop"
    forced = [token for token, is_own in zip(answer.ids, answer.mask, strict=True) if not is_own]
    assert forced == [
        TOKENIZER.special("<|output_start|>"),
        *TOKENIZER.encode("84"),
        TOKENIZER.special("<|output_end|>"),
    ]


def test_an_expression_that_the_tool_refuses_gets_no_output() -> None:
    engine = scripted(["<|python_start|>", "boo", "<|python_end|>", "no", "<|assistant_end|>"], tool=lambda _: None)
    (answer,) = engine.generate([Prompt([TOKENIZER.bos], max_new_tokens=40)])[0]
    assert answer.text == "no"
    assert set(answer.mask) == {1}


def test_an_answer_is_cut_at_its_limit_and_says_so() -> None:
    engine = scripted(["a long answer that goes on", "<|assistant_end|>"])
    (answer,) = engine.generate([Prompt([TOKENIZER.bos], max_new_tokens=6)])[0]
    assert (answer.text, answer.finish_reason) == ("a long", "length")


@torch.no_grad()
def test_scores_are_the_log_softmax_of_a_full_forward_pass() -> None:
    model = random_model()
    requests = [(prompt_ids(text), 1 + number) for number, text in enumerate(PROMPTS[1:])]
    found = {index: (logprobs, is_greedy) for index, logprobs, is_greedy in Engine(model, TOKENIZER).score(requests)}
    for index, (ids, start) in enumerate(requests):
        logits = model(torch.tensor([ids]))[0]
        expected = torch.log_softmax(logits, -1)[range(start - 1, len(ids) - 1), ids[start:]]
        torch.testing.assert_close(found[index][0], expected)
        assert found[index][1] == (logits[start - 1 : -1].argmax(-1).tolist() == ids[start:])


@torch.no_grad()
def test_the_next_token_s_logits_do_not_depend_on_the_padding() -> None:
    model = random_model()
    prompts = [prompt_ids(text) for text in PROMPTS]
    for index, logits in Engine(model, TOKENIZER).next_token_logits(prompts):
        torch.testing.assert_close(logits, model(torch.tensor([prompts[index]]))[0, -1])


def test_the_tokenizer_of_these_tests_is_a_real_one() -> None:
    assert isinstance(TOKENIZER, Tokenizer)
    assert TOKENIZER.decode(TOKENIZER.encode("12*7")) == "12*7"
