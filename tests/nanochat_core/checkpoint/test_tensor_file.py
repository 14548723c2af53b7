"""Our safetensors files are those of the format's own writer, and are read one tensor at a time."""

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from torch import Tensor

from nanochat_core.checkpoint.tensor_file import DTYPES, StoredTensors, verify, write_tensors
from nanochat_core.errors import CheckpointError

CPU = torch.device("cpu")
SHAPES = st.sampled_from([(), (1,), (0, 3), (5,), (2, 3), (4, 1, 2)])
TENSORS = st.dictionaries(
    st.text("ab/@.é0", min_size=1, max_size=6), st.tuples(st.sampled_from(list(DTYPES)), SHAPES), max_size=6
)


def made(layout: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(0, 2 if dtype == torch.bool else 100, shape, generator=generator).to(dtype)
        for name, (dtype, shape) in layout.items()
    }


@given(layout=TENSORS)
def test_the_bytes_are_those_of_the_format_s_own_writer(
    layout: dict[str, tuple[torch.dtype, tuple[int, ...]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, tensors = tmp_path_factory.mktemp("file") / "x.safetensors", made(layout)
    digest = write_tensors(path, tensors)
    assert path.read_bytes() == save(tensors)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = StoredTensors([path], CPU)
    assert set(found) == set(tensors) and len(found) == len(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_views_and_transposed_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(12).view(3, 4)
    tensors = {"first": whole[0], "second": whole[1], "turned": whole.T}
    write_tensors(tmp_path / "x.safetensors", tensors)
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_the_tensors_of_several_files_are_one_mapping(tmp_path: Path) -> None:
    for name in "ab":
        write_tensors(tmp_path / name, {name: torch.full((2,), ord(name))})
    found = StoredTensors([tmp_path / "a", tmp_path / "b"], CPU)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [97, 97], "b": [98, 98]}


def test_a_file_that_is_truncated_or_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    digest = write_tensors(path, {"x": torch.zeros(100)})
    verify(path, digest)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"x\.safetensors has other bytes"):
        verify(path, digest)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"Cannot read .*x\.safetensors: No such file"):
        verify(path, digest)
