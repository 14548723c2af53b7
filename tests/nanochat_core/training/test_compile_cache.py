"""The compiler's cache is private, and below the base folder."""

import os
from pathlib import Path

import pytest

from nanochat_core.errors import SpecError
from nanochat_core.training.compile_cache import use_compile_cache


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # for monkeypatch to put back
        monkeypatch.delenv(name)


def test_it_is_the_owner_s_alone_and_is_made_so_again(tmp_path: Path) -> None:
    folder = tmp_path / "base" / "compile"
    use_compile_cache(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder / "inductor")
    folder.chmod(0o777)
    use_compile_cache(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_the_user_s_choice_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    use_compile_cache(tmp_path / "compile")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"


def test_another_user_s_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(SpecError, match="belongs to another user"):
        use_compile_cache(tmp_path)
