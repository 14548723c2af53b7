import pytest
import torch

from nanochat_core.device import choose_device, compute_dtype
from nanochat_core.errors import SpecError

CPU = torch.device("cpu")


def test_the_argument_goes_before_the_environment_which_goes_before_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.delenv("NANOCHAT_DEVICE", raising=False)
    assert choose_device(local_rank=3) == torch.device("cuda", 3)
    monkeypatch.setenv("NANOCHAT_DEVICE", "cpu")
    assert choose_device() == CPU
    assert choose_device("cuda") == torch.device("cuda", 0)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setenv("NANOCHAT_DEVICE", "")
    assert choose_device() == CPU


@pytest.mark.parametrize("name", ["cuda", "tpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(SpecError, match=rf"The device '{name}' is not there; torch .* sees \['cpu'\]"):
        choose_device(name)


def test_only_fp32_computes_in_float32() -> None:
    assert [compute_dtype(precision) for precision in ("fp32", "bf16", "fp8")] == [
        torch.float32,
        torch.bfloat16,
        torch.bfloat16,
    ]
