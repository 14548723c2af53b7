from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.artifacts import write_json
from nanochat_core.data.shards import (
    ROWS_PER_GROUP,
    TextCounts,
    TextShards,
    check_parquet,
    count_text,
    documents,
    read_columns,
    read_row_group,
    row_groups,
    write_shard,
)
from nanochat_core.errors import DataError

TEXTS = [f"document {i} é" for i in range(ROWS_PER_GROUP + 44)]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    write_shard(tmp_path / "a.parquet", TEXTS)
    return tmp_path / "a.parquet"


def test_what_is_written_is_read_in_order(shard: Path) -> None:
    assert list(documents([shard, shard])) == TEXTS * 2
    assert [path.name for path in shard.parent.iterdir()] == ["a.parquet"]


def test_a_row_group_that_gives_fewer_rows_than_announced_is_corrupt(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *args, **options: whole(*args, **options).slice(1))
    with pytest.raises(DataError, match=r"a\.parquet is corrupt in row group 1 \(43 of 44 rows\)"):
        read_row_group(shard, 1)


def test_row_groups_are_read_one_by_one(shard: Path) -> None:
    assert row_groups([shard]) == [(shard, 0, ROWS_PER_GROUP), (shard, 1, 44)]
    assert read_row_group(shard, 1) == TEXTS[ROWS_PER_GROUP:]


def test_documents_and_characters_are_counted(shard: Path) -> None:
    assert check_parquet(shard) == len(TEXTS)
    assert count_text(shard) == TextCounts(len(TEXTS), sum(map(len, TEXTS)), empty_documents=0)


def test_equal_texts_give_equal_bytes(shard: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "b.parquet", TEXTS)
    assert (tmp_path / "b.parquet").read_bytes() == shard.read_bytes()


def test_a_shard_cut_short_is_refused_in_one_line(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.parquet is no readable parquet file") as caught:
        check_parquet(shard)
    assert "\n" not in str(caught.value)


def test_a_footer_with_names_that_are_not_utf_8_is_refused_in_one_line(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes().replace(b"text", b"\xffext"))
    with pytest.raises(DataError, match="is no readable parquet file"):
        count_text(shard)


def test_a_corrupt_page_is_found_when_it_is_read(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[60:400] = b"\xff" * 340  # inside the first column chunk; the footer stays whole
    shard.write_bytes(data)
    assert check_parquet(shard) == len(TEXTS)
    with pytest.raises(DataError, match="corrupt in row group 0"):
        count_text(shard)


def test_columns_are_read_and_a_missing_one_an_empty_file_and_a_corrupt_page_refused(tmp_path: Path) -> None:
    path = tmp_path / "conversations.parquet"
    table = pa.table({"ids": [[1, 2], [3]] * 100, "mask": [[0, 1], [1]] * 100})
    pq.write_table(table, path, compression="zstd")
    assert read_columns(path, ["ids"]).to_pylist()[:2] == [{"ids": [1, 2]}, {"ids": [3]}]
    with pytest.raises(DataError, match=r"has no column 'messages' \(columns: ids, mask\)"):
        read_columns(path, ["ids", "messages"])
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 60 + data[64:])
    with pytest.raises(DataError, match=r"conversations\.parquet is corrupt"):
        read_columns(path, ["ids", "mask"])
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(DataError, match=r"conversations\.parquet has no rows"):
        read_columns(path, ["ids"])


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"body": ["x"]}, r"no column 'text' \(columns: body\)"),
        ({"text": [1]}, "is int64, expected strings"),
        ({"text": pa.array([], pa.string())}, "has no rows"),
    ],
)
def test_a_parquet_without_text_is_refused(tmp_path: Path, table: dict, expected: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=expected):
        check_parquet(tmp_path / "a.parquet")


def write_index(folder: Path, train: list[str], validation: str, **sha256: str) -> None:
    hashes = {name: sha256.get(name.split(".")[0], name) for name in (*train, validation)}
    write_json(folder / "index.json", {"train": train, "validation": validation, "sha256": hashes})


def test_shards_are_opened_with_their_hashes(shard: Path) -> None:
    write_shard(shard.with_name("b.parquet"), TEXTS[:5])
    write_index(shard.parent, ["a.parquet"], "b.parquet", a="11", b="22")
    shards = TextShards.open(shard.parent)
    assert shards.sha256 == {shard: "11", shard.with_name("b.parquet"): "22"}
    assert (shards.train, shards.validation) == ([shard], shard.with_name("b.parquet"))


def test_an_index_that_names_a_missing_shard_is_refused(shard: Path) -> None:
    write_index(shard.parent, ["a.parquet"], "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet does not exist: run the download stage again"):
        TextShards.open(shard.parent)


def test_a_validation_shard_that_is_trained_on_is_refused_by_name_by_link_and_by_content(shard: Path) -> None:
    write_index(shard.parent, ["a.parquet"], "a.parquet")
    with pytest.raises(DataError, match=r"validation shard a\.parquet is among the training shards"):
        TextShards.open(shard.parent)
    shard.with_name("link.parquet").symlink_to(shard)
    write_index(shard.parent, ["a.parquet"], "link.parquet")
    with pytest.raises(DataError, match=r"link\.parquet is among the training shards \(as a\.parquet\)"):
        TextShards.open(shard.parent)
    write_shard(shard.with_name("b.parquet"), TEXTS)
    write_index(shard.parent, ["a.parquet"], "b.parquet", a="11", b="11")
    with pytest.raises(DataError, match=r"b\.parquet is among the training shards \(as a\.parquet\)"):
        TextShards.open(shard.parent)


@pytest.mark.parametrize(
    "index", [{}, {"train": ["a.parquet"], "validation": "a.parquet"}, {"train": [], "validation": None, "sha256": {}}]
)
def test_an_index_without_hashes_or_shards_ends_in_one_line(shard: Path, index: dict) -> None:
    write_json(shard.parent / "index.json", index)
    with pytest.raises(DataError, match=r"index\.json does not list every shard .*run the download stage again"):
        TextShards.open(shard.parent)


def test_null_blank_and_tiny_documents_are_counted_and_a_shard_of_blanks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [None, "", " \n\t", "tiny", "   tiny  ", "long enough"]}), path)
    assert count_text(path) == TextCounts(documents=6, characters=27, empty_documents=5)
    pq.write_table(pa.table({"text": pa.array([None, "", " \n\t"], pa.string())}), path)
    with pytest.raises(DataError, match=r"a\.parquet: all of its 3 documents are empty"):
        count_text(path)


def test_a_flipped_bit_anywhere_in_our_own_shards_never_changes_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"{i * 7919 % 1000:x}" * 9 for i in range(60)]
    write_shard(path, texts)
    whole, refused = path.read_bytes(), 0
    for place in range(4, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        try:
            assert list(documents([path])) == texts
        except DataError as error:
            refused += "\n" not in str(error)
    assert refused > len(whole) / 10


def test_bytes_that_are_not_utf_8_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    wrong = pa.array([b"fine text", b"\xff\xfe and more"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": wrong}), path)
    with pytest.raises(DataError, match="corrupt in row group 0"):
        count_text(path)
