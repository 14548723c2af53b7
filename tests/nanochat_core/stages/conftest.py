from pathlib import Path

import pytest

from tests.nanochat_core.stages import stage_folders
from tests.nanochat_core.stages.stage_folders import Workbench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """Inputs for every training stage."""
    return Workbench.build(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="session")
def base_model(bench: Workbench) -> Path:
    """A finished pretraining that was never interrupted."""
    folder = bench.pretrain("whole")
    stage_folders.run(folder)
    return folder
