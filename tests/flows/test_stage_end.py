"""What the end of a stage's process means."""

from pathlib import Path

import pytest

from flows.stage_end import check_end, last_lines
from nanochat_core.artifacts import write_json
from nanochat_core.errors import NanochatError, StageFailed

TORCHRUN = "E1121 05:00:01.2 1 torch/distributed/elastic/multiprocessing/api.py:986] failed (exitcode: {code})\n"


def end(folder: Path, code: int, log: str = "", stall_minutes: float | None = None) -> StageFailed:
    """Return what this end raises."""
    (folder / "log.txt").write_text(f"--- command\n{log}")
    with pytest.raises(StageFailed) as failure:
        check_end("pretrain", folder, code, log_start=0, stall_minutes=stall_minutes)
    return failure.value


def test_last_lines_leave_out_torchruns_own_account() -> None:
    text = f"step 1\n\nW1121 05:00:00.1 1 torch/distributed/run.py:1] note\nValueError: mine\n{TORCHRUN}Traceback\n"
    assert last_lines(text) == "  step 1\n  ValueError: mine"


def test_last_lines_are_those_of_the_ranks_where_there_are_several_speakers() -> None:
    assert last_lines("[rank 0] one\nmaster address\n[rank 1] two\n") == "  [rank 0] one\n  [rank 1] two"


@pytest.mark.parametrize(
    "log",
    [
        TORCHRUN.format(code=-9),
        TORCHRUN.format(code=-15),
        "[rank 0] RuntimeError: [..] Connection closed by peer [127.0.0.1]:4711\n",
        "torch.distributed.DistNetworkError: The client socket has timed out\n",
    ],
)
def test_a_killed_rank_or_a_lost_node_is_worth_another_try(tmp_path: Path, log: str) -> None:
    assert end(tmp_path, 1, log).is_transient


def test_a_killed_agent_and_a_stall_are_worth_another_try(tmp_path: Path) -> None:
    killed = end(tmp_path, 137)
    assert killed.is_transient and "killed by SIGKILL" in str(killed)
    stalled = end(tmp_path, 0, stall_minutes=1.5)
    assert stalled.is_transient and "no metric for 1.5 minutes" in str(stalled)


@pytest.mark.parametrize("code", [1, -6, -11])
def test_a_bug_is_not_worth_another_try(tmp_path: Path, code: int) -> None:
    failure = end(tmp_path, 1, f"[rank 0] ValueError: mine\n{TORCHRUN.format(code=code)}")
    assert not failure.is_transient
    assert "ValueError: mine" in str(failure)


def test_a_pre_empted_stage_is_worth_another_try_and_bad_input_is_not(tmp_path: Path) -> None:
    write_json(tmp_path / "exit.json", {"code": 75, "message": "stopped after saving"})
    assert end(tmp_path, 75).is_transient
    write_json(tmp_path / "exit.json", {"code": 2, "message": "shard 3 is corrupt"})
    with pytest.raises(NanochatError, match="shard 3 is corrupt") as failure:
        check_end("pretrain", tmp_path, 2, log_start=0, stall_minutes=None)
    assert not isinstance(failure.value, StageFailed)


def test_a_result_and_code_0_are_a_success(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {})
    check_end("pretrain", tmp_path, 0, log_start=0, stall_minutes=None)
