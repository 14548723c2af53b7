import pytest
import torch

from nanochat_core.inference.sampling import sample, uniform_numbers

GRID = 10_000


def frequencies(logits: list[float], temperature: float, top_k: int | None) -> list[float]:
    """Return how often each token comes when the uniform numbers are an even grid: exact up to 1 / GRID."""
    rows = torch.tensor(logits).expand(GRID, -1)
    uniform = (torch.arange(GRID) + 0.5) / GRID
    chosen = sample(rows, uniform, torch.full((GRID,), temperature), top_k)
    return (torch.bincount(chosen, minlength=len(logits)) / GRID).tolist()


def test_tokens_come_as_often_as_their_probability_says() -> None:
    logits = [0.5, 2.0, -1.0, 1.0]
    for temperature in (0.5, 1.0, 2.0):
        expected = torch.softmax(torch.tensor(logits) / temperature, 0).tolist()
        assert frequencies(logits, temperature, None) == pytest.approx(expected, abs=2 / GRID)


def test_top_k_leaves_the_others_out() -> None:
    expected = torch.softmax(torch.tensor([2.0, 1.0]), 0).tolist()
    assert frequencies([0.5, 2.0, -1.0, 1.0], 1.0, 2) == pytest.approx([0, expected[0], 0, expected[1]], abs=2 / GRID)


def test_temperature_zero_takes_the_likeliest_also_beside_rows_that_sample() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]])
    chosen = sample(logits, torch.tensor([0.999, 0.999]), torch.tensor([0.0, 1.0]), None)
    assert chosen.tolist()[0] == 1
    assert chosen.tolist()[1] != 1


def test_uniform_numbers_belong_to_one_sample_of_one_seed() -> None:
    assert (uniform_numbers(1, 0, 5) == uniform_numbers(1, 0, 9)[:5]).all()
    assert (uniform_numbers(1, 0, 5) != uniform_numbers(1, 1, 5)).any()
    assert (uniform_numbers(-1, 0, 5) != uniform_numbers(1, 0, 5)).any()
