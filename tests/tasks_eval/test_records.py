"""Records come back as they were written, and a log tells its damaged lines from the others."""

from pathlib import Path

import pytest

from tasks_eval.records import SCHEMA, Record, RecordLog, read_logs, read_records, write_records


def answers_to(index: int, samples: int = 2) -> list[Record]:
    return [
        Record(
            index=index,
            task="made",
            prompt=f"Question {index}?\n“Ünïcode”",
            prompt_sha256="0" * 64,
            expected="4",
            correct=bool(sample % 2),
            answer=None if sample == 0 else "4",
            sample=sample,
            group="law",
            options=("A", "B"),
            logprobs=(-0.1, -2.5),
            num_tokens=(1, 3),
            completion="It is 4.",
            note="made up",
        )
        for sample in range(samples)
    ]


def test_a_table_of_records_holds_all_of_them_and_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    records = [record for index in range(3) for record in answers_to(index)]
    for name in ("a", "b"):
        write_records(tmp_path / name, records)
    assert read_records(tmp_path / "a") == records
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(tmp_path.glob(".*")) == [] and len(SCHEMA) == 14


def test_a_log_gives_back_each_question_with_all_its_answers(tmp_path: Path) -> None:
    for rank in range(3):
        RecordLog(tmp_path, "made", rank).append([answers_to(rank), answers_to(10 + rank)])
    RecordLog(tmp_path, "made", 1).append([answers_to(21)])
    everything = {index: answers_to(index) for index in (0, 1, 2, 10, 11, 12, 21)}
    assert read_logs(tmp_path, "made", rank=0, size=1) == everything
    shares = [read_logs(tmp_path, "made", rank=rank, size=2) for rank in range(2)]
    assert shares[0] | shares[1] == everything and not shares[0].keys() & shares[1].keys()
    assert read_logs(tmp_path, "other", rank=0, size=1) == {}


@pytest.mark.parametrize("damage", [b"5", b"", b"\n", b"\xff\xfe", b"}"])
@pytest.mark.parametrize("place", [0, 9, 40, -30, -2])
def test_a_damaged_line_is_as_if_it_were_not_there(damage: bytes, place: int, tmp_path: Path) -> None:
    RecordLog(tmp_path, "made", 0).append([answers_to(index) for index in range(3)])
    (path,) = tmp_path.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    hurt = lines[1][:place] + damage + (lines[1][place:][1:] or b"\n")
    path.write_bytes(lines[0] + hurt + lines[2])
    assert read_logs(tmp_path, "made", rank=0, size=1) == {0: answers_to(0), 2: answers_to(2)}


def test_a_line_that_was_cut_off_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    RecordLog(tmp_path, "made", 0).append([answers_to(0), answers_to(1)])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    RecordLog(tmp_path, "made", 0).append([answers_to(2)])
    assert read_logs(tmp_path, "made", rank=0, size=1) == {0: answers_to(0), 2: answers_to(2)}
