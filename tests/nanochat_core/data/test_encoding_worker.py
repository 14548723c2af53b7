"""Processes that encode: they answer in order, say what is wrong in one line, and never outlive who started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nanochat_core.data.encoding_worker import EncodingWorkers
from nanochat_core.data.shards import write_shard
from nanochat_core.errors import DataError
from tests.fakes import byte_tokenizer

TEXTS = [f"document {index}" for index in range(20)]
STARTS_WORKERS = """
import sys, time
from pathlib import Path
from nanochat_core.data.encoding_worker import EncodingWorkers
from nanochat_core.tokenizer.bpe import Tokenizer
folder = Path(sys.argv[1])
workers = EncodingWorkers(Tokenizer.load(folder), folder, 2)
jobs = [workers.submit(folder / "a.parquet", 0, [0]) for _ in range(4)]
print(len([job.result() for job in jobs]), flush=True)
time.sleep(60)
"""

OUTLIVES_A_SIGTERM = """
import signal, sys, time
from pathlib import Path
from nanochat_core.data.encoding_worker import EncodingWorkers
from nanochat_core.tokenizer.bpe import Tokenizer
folder = Path(sys.argv[1])
workers = EncodingWorkers(Tokenizer.load(folder), folder, 1)
workers.submit(folder / "a.parquet", 0, [0]).result()
signals = []
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
print("ready", flush=True)
while not signals:
    time.sleep(0.01)
starts = len(workers._processes)
workers.submit(folder / "a.parquet", 0, [1]).result()
print(len(workers._processes) - starts + 1, "after the signal", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_tokenizer().save(tmp_path)
    write_shard(tmp_path / "a.parquet", TEXTS)
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_jobs_give_the_documents_that_were_asked_for(folder: Path, num_workers: int) -> None:
    workers = EncodingWorkers(byte_tokenizer(), folder, num_workers)
    jobs = {index: workers.submit(folder / "a.parquet", 0, [index, 19 - index]) for index in range(10)}
    for index, job in jobs.items():
        texts = [bytes(ids.tolist()).decode() for ids in job.result()]
        assert texts == [TEXTS[index], TEXTS[19 - index]]
    assert workers.submit(folder / "a.parquet", 0, []).result() == []
    workers.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_shard_ends_in_one_line_and_the_workers_go_on(folder: Path, num_workers: int) -> None:
    (folder / "b.parquet").write_bytes(b"PAR1 is not enough")
    workers = EncodingWorkers(byte_tokenizer(), folder, num_workers)
    with pytest.raises(DataError, match=r"b\.parquet is no readable parquet file"):
        workers.submit(folder / "b.parquet", 0, [0]).result()
    assert workers.submit(folder / "a.parquet", 0, [3]).result()[0].tolist() == list(TEXTS[3].encode())
    workers.close()


def kill_workers(folder: Path) -> None:
    for child in psutil.Process().children():
        if child.cmdline()[-1:] == [str(folder)]:
            child.kill()


def test_a_worker_that_was_killed_is_replaced(folder: Path) -> None:
    workers = EncodingWorkers(byte_tokenizer(), folder, 1)
    workers.submit(folder / "a.parquet", 0, [0]).result()
    kill_workers(folder)
    assert workers.submit(folder / "a.parquet", 0, [3]).result()[0].tolist() == list(TEXTS[3].encode())
    workers.close()


def test_workers_that_cannot_live_end_in_one_line(folder: Path) -> None:
    workers = EncodingWorkers(byte_tokenizer(), folder / "no tokenizer here", 1)
    with pytest.raises(DataError, match=r"Two processes that encode row group 0 of .*a\.parquet ended, .* status"):
        workers.submit(folder / "a.parquet", 0, [0]).result()
    workers.close()


def test_what_ends_a_rank_s_process_group_leaves_its_workers_to_it(folder: Path) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", OUTLIVES_A_SIGTERM, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert trainer.stdout.readline() == "ready\n"
    os.killpg(trainer.pid, signal.SIGTERM)  # as torchrun does to a rank that is to save and stop
    assert trainer.stdout.readline() == "1 after the signal\n"
    trainer.kill()
    trainer.communicate()


@pytest.mark.slow
def test_workers_end_with_a_trainer_that_was_killed(folder: Path) -> None:
    trainer = subprocess.Popen([sys.executable, "-c", STARTS_WORKERS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout.readline() == "4\n"
    workers = psutil.Process(trainer.pid).children()
    assert len(workers) == 2
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert len(gone) == 2 and not alive


def test_a_worker_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys, nanochat_core.data.encoding_worker, nanochat_core.data.token_shards; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
