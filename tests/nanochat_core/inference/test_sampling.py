"""Tokens come as often as the rules say: the uniform numbers are an even grid, so counts are exact up to 1 / GRID."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.inference.requests import Sampling
from nanochat_core.inference.sampling import FEW, Draw, choose, uniform_numbers

GRID = 2_000
LOGITS = [0.5, 2.0, -1.0, 1.0]


def frequencies(logits: list[float], sampling: Sampling) -> list[float]:
    rows = torch.tensor(logits).repeat(GRID, 1)
    chosen = choose(rows, [Draw(sampling, (place + 0.5) / GRID) for place in range(GRID)])
    return (torch.bincount(torch.tensor(chosen), minlength=len(logits)) / GRID).tolist()


def by_the_book(logits: list[float], sampling: Sampling) -> list[float]:
    """Return the probabilities, one rule after another, on a sorted list."""
    scaled = torch.tensor(logits, dtype=torch.float64) / sampling.temperature
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[: sampling.top_k or len(logits)]
    weights = torch.softmax(scaled[order], 0).tolist()
    kept, mass = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        if sampling.top_p < 1 and mass >= sampling.top_p:
            break
        mass += weight
        if weight >= sampling.min_p * weights[0]:
            kept.append((token, weight))
    total = sum(weight for _, weight in kept)
    return [dict(kept).get(token, 0.0) / total for token in range(len(logits))]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.5),
        Sampling(temperature=2.0),
        Sampling(temperature=1.0, top_k=2),
        Sampling(temperature=1.0, top_k=1_000),
        Sampling(temperature=1.0, top_p=0.7),
        Sampling(temperature=1.0, top_p=0.05),
        Sampling(temperature=1.0, min_p=0.3),
        Sampling(temperature=1.3, top_k=3, top_p=0.8, min_p=0.5),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_their_probability_says(sampling: Sampling) -> None:
    assert frequencies(LOGITS, sampling) == pytest.approx(by_the_book(LOGITS, sampling), abs=2 / GRID)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=9, unique=True),
    st.floats(0.2, 3),
    st.one_of(st.none(), st.integers(1, 9)),
    st.floats(0.05, 1),
    st.floats(0, 0.9, allow_subnormal=False),  # stages that ran before flush them to zero
)
def test_all_rules_together_are_those_of_the_book(
    eighths: list[int], temperature: float, top_k: int | None, top_p: float, min_p: float
) -> None:
    logits = [number / 8 for number in eighths]
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    wider = replace(sampling, top_p=min(1.0, top_p + 1e-5), min_p=max(0.0, min_p - 1e-5))  # float32 on the border
    possible = {token for token, share in enumerate(by_the_book(logits, wider)) if share > 0}
    rows = torch.tensor(logits).repeat(3, 1)
    found = choose(rows, [Draw(sampling, number) for number in (0.0, 0.37, 1 - 2**-53)])
    assert set(found) <= possible


def test_top_p_of_a_flat_distribution_keeps_its_share_of_all_tokens() -> None:
    size = 4 * FEW
    flat = (torch.arange(size) * -1e-5).tolist()
    chosen = choose(torch.tensor([flat, flat]), [Draw(Sampling(temperature=1.0, top_p=0.9), u) for u in (0.5, 0.9999)])
    assert chosen[0] == pytest.approx(0.45 * size, abs=10) and chosen[1] == pytest.approx(0.9 * size, abs=10)


def test_a_row_s_token_does_not_depend_on_the_rows_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 1_000, generator=generator)
    kinds = [
        Sampling(temperature=1.0, top_k=700, seed=1),
        Sampling(temperature=0.0),
        Sampling(temperature=1.0, top_p=0.5),
        Sampling(temperature=1.5),
        Sampling(temperature=1.0, min_p=0.02),
        Sampling(temperature=0.7, top_k=5, top_p=0.9),
    ]
    draws = [Draw(sampling, 0.1 * number + 0.05) for number, sampling in enumerate(kinds)]
    together = choose(logits.clone(), draws)
    assert together == [choose(logits[row : row + 1].clone(), [draws[row]])[0] for row in range(6)]


def test_temperature_zero_takes_the_likeliest_also_beside_rows_that_sample() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]])
    cold, warm = choose(logits, [Draw(Sampling(), 0.999), Draw(Sampling(temperature=1.0), 0.999)])
    assert cold == 1 and warm != 1


def test_the_greatest_and_the_least_number_choose_possible_tokens() -> None:
    logits = torch.tensor([[-150.0, 50.0, -160.0, -200.0]]).repeat(2, 1)
    assert choose(logits, [Draw(Sampling(temperature=1.0), number) for number in (0.0, 1 - 2**-53)]) == [1, 1]


def test_bias_and_penalties_change_the_logits_as_openai_says() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    assert choose(logits.clone(), [Draw(Sampling(logit_bias={0: 5.0}))]) == [0]
    often = Sampling(frequency_penalty=0.6)
    assert choose(logits.clone(), [Draw(often, counts={2: 1})]) == [2]
    assert choose(logits.clone(), [Draw(often, counts={2: 2})]) == [1]
    assert choose(logits.clone(), [Draw(Sampling(presence_penalty=1.1), counts={2: 9})]) == [1]


def test_uniform_numbers_belong_to_one_sample_of_one_seed() -> None:
    first = uniform_numbers(1, 0).random(5)
    assert (uniform_numbers(1, 0).random(9)[:5] == first).all()
    assert (uniform_numbers(1, 1).random(5) != first).any()
    assert (uniform_numbers(-1, 0).random(5) != first).any()
