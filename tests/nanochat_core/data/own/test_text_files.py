"""A user's own files: every kind is read whole, and what cannot be read is named, counted and listed."""

import gzip
import json
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.data.own.bad_lines import ENOUGH, BadLines
from nanochat_core.data.own.text_files import MAX_PLAIN_CHARACTERS, find_text_files, kind_of, other_files, read_texts
from nanochat_core.errors import DataError


def texts_of(path: Path, **options: str) -> list[str]:
    """Return the documents of a file in which nothing is bad."""
    bad = BadLines()
    found = [text for _, text in read_texts(path, bad, **options)]
    assert bad.first == []
    return found


def bad_of(path: Path) -> list[str]:
    """Return what is bad in a file."""
    bad = BadLines()
    list(read_texts(path, bad))
    return [line.removeprefix(f"{path}, ") for line in bad.first]


def write_packed(path: Path, data: bytes) -> None:
    """Write `data` as the suffix of `path` says."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        path.write_bytes(data)


def lines_of(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=20))
@settings(max_examples=60)
def test_any_documents_come_back_from_every_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("kinds")
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        write_packed(folder / name, lines_of(texts))
        assert texts_of(folder / name) == texts
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), folder / "a.parquet", row_group_size=3)
    assert texts_of(folder / "a.parquet") == texts


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_a_column_is_chosen_and_a_null_is_an_empty_document(tmp_path: Path, name: str) -> None:
    rows = [{"body": "one", "n": 1}, {"body": None, "n": 2}]
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert texts_of(tmp_path / name, column="body") == ["one", ""]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"texts": ["a"], "n": [1]}, "no column 'text', did you mean 'texts'? (columns: texts, n)"),
        ({"text": [1]}, "the column 'text' is int64, expected strings (columns: text)"),
        (
            {"text": [["a"]], "n": [1]},
            "the column 'text' is list<element: string>, expected strings (columns: text, n)",
        ),
        ({"data": [{"text": "a"}]}, "no column 'text' (columns: data)"),
    ],
)
def test_a_parquet_file_without_the_column_lists_what_it_has(
    tmp_path: Path, columns: dict[str, list[object]], reason: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert bad_of(tmp_path / "a.parquet") == [f"the file: {reason}"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "a.parquet")
    assert bad_of(tmp_path / "a.parquet") == ["the file: more than one column 'text' (columns: text, text)"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "é"]).dictionary_encode(),
        pa.array(["a", None, "é"], pa.string_view()),
        pa.array(["a", None, "é"], pa.large_string()),
    ],
    ids=lambda column: str(column.type).split("<")[0],
)
def test_every_way_to_store_strings_is_read(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet") == ["a", "", "é"]


def test_a_footer_with_names_that_are_not_utf8_is_one_bad_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes().replace(b"text", b"\xffext"))
    assert "no readable parquet" in bad_of(tmp_path / "a.parquet")[0]


def test_a_row_that_is_no_utf8_leaves_the_others(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff", b"fine"])
    strings = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    bad = BadLines()
    assert list(read_texts(tmp_path / "a.parquet", bad)) == [("row 0", "good"), ("row 2", "fine")]
    assert bad.first == [f"{tmp_path}/a.parquet, row 1: not UTF-8 (invalid start byte)"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "no JSON"),
        (b'{"text": "\xff"}', "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "no object"),
        (b'{"texts": "a"}', "no field 'text', did you mean 'texts'? (fields: texts)"),
        (b'{"text": 5}', "of type int, expected a string"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_the_others_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines_of(["before"]) + line + b"\n\n" + lines_of(["after"]))
    bad = BadLines()
    assert list(read_texts(path, bad)) == [("line 1", "before"), ("line 4", "after")]
    assert bad.count == 1 and f"{path}, line 2: " in bad.first[0] and reason in bad.first[0]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_file_gives_what_is_whole_and_says_where_it_ends(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    texts = [f"document {i} of many" for i in range(20_000)]
    write_packed(path, lines_of(texts))
    path.write_bytes(path.read_bytes()[:-1000])
    bad = BadLines()
    found = [text for _, text in read_texts(path, bad)]
    assert found == texts[: len(found)] and len(found) < len(texts)
    assert "the file ends badly" in bad.first[-1] or "no JSON" in bad.first[-1]


def test_corrupt_files_are_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.jsonl.gz", "c.txt.zst"):
        (tmp_path / name).write_bytes(b"PAR1 nothing that could be unpacked PAR1")
        assert len(bad_of(tmp_path / name)) == 1, name
    (tmp_path / "d.txt").write_bytes(b"good\n\xff\xfe bad")
    assert bad_of(tmp_path / "d.txt") == ["line 2: not UTF-8 (invalid start byte): the whole file is left out"]


def test_a_corrupt_row_group_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"{i} " * 200 for i in range(60)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=20, use_dictionary=False, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + 30 : column.data_page_offset + column.total_compressed_size - 5] = bytes(
        column.total_compressed_size - 35
    )
    path.write_bytes(data)
    bad = BadLines()
    assert [text for _, text in read_texts(path, bad)] == texts[:20] + texts[40:]
    assert bad.entries == 1 and bad.count == 20 and "row group 1: corrupt" in bad.first[0]


DAMAGED_TEXTS = [f"document {i} of many é" for i in range(300)]


@given(st.data())
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_a_cut_or_changed_file_is_never_read_as_if_whole(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"whole-{name}"
    if not path.exists():
        write_packed(path, lines_of(DAMAGED_TEXTS))
        if name == "a.parquet":
            pq.write_table(pa.table({"text": DAMAGED_TEXTS}), path, row_group_size=100, write_page_checksum=True)
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(1, len(whole) - 1))
    if data.draw(st.booleans(), label="is cut"):
        whole = whole[:place]
    else:
        whole[place] ^= 0xFF
    damaged = path.with_name(f"damaged-{name}")
    damaged.write_bytes(whole)
    bad = BadLines()
    found = [text for _, text in read_texts(damaged, bad)]
    assert found == DAMAGED_TEXTS or bad.count


def test_files_are_found_in_order_and_hidden_and_foreign_ones_skipped(tmp_path: Path) -> None:
    for name in ("b/two.txt", "a/one.jsonl.zst", ".git/three.txt", "b/.four.md", "c.csv", "d.parquet.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.name for path in find_text_files(tmp_path)] == ["one.jsonl.zst", "two.txt"]
    assert find_text_files(tmp_path / "b" / "two.txt") == [tmp_path / "b" / "two.txt"]
    assert [path.name for path in other_files(tmp_path)] == ["c.csv", "d.parquet.gz"]
    assert kind_of(Path("A.TXT.GZ")) == ".txt"


def test_linked_folders_are_read_once_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("x")
    (tmp_path / "data").mkdir()
    for name in ("one", "two"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "data")
    assert [path.name for path in find_text_files(tmp_path / "data")] == ["a.txt"]


def test_a_missing_folder_and_one_without_text_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist: set download\.path"):
        find_text_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no file of these kinds"):
        find_text_files(tmp_path)
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match="is not of a kind that is read"):
        find_text_files(tmp_path / "a.csv")


def test_long_files_are_cut_between_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"{i} " + "word " * 300 for i in range(30)]
    write_packed(tmp_path / "book.txt.gz", "\r\n\r\n".join(paragraphs).encode())
    pieces = texts_of(tmp_path / "book.txt.gz")
    assert "\n\n".join(pieces) == "\n\n".join(paragraphs)
    assert len(pieces) > 1 and max(map(len, pieces)) <= MAX_PLAIN_CHARACTERS


def test_a_lone_surrogate_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "half \ud800 a character"}))
    assert texts_of(tmp_path / "a.jsonl") == ["half ? a character"]


def test_too_many_bad_lines_end_in_one_message_that_names_the_first_and_the_list(tmp_path: Path) -> None:
    bad = BadLines(tmp_path / "bad_lines.jsonl", allowed=6)
    for number in range(1, 9):
        bad.add(Path("a.jsonl"), f"line {number}", "no JSON")
        if number == 6:
            bad.check()
    with pytest.raises(DataError, match=r"8 bad lines, 6 allowed .*a\.jsonl, line 5: no JSON; and 3 more") as caught:
        bad.check()
    assert str(tmp_path / "bad_lines.jsonl") in str(caught.value)
    listed = [json.loads(line) for line in (tmp_path / "bad_lines.jsonl").read_text().splitlines()]
    assert [line["place"] for line in listed] == [f"line {number}" for number in range(1, 9)]


def test_reading_stops_where_far_too_much_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("x\n" * (ENOUGH + 50))
    for allowed, is_ended in ((0, True), (ENOUGH + 50, False), (None, False)):
        bad = BadLines(allowed=allowed)
        with pytest.raises(DataError, match=r"10,000 bad lines \(reading") if is_ended else nullcontext():
            list(read_texts(tmp_path / "a.jsonl", bad))
        assert bad.count == (ENOUGH if is_ended else ENOUGH + 50)


def test_a_reason_is_one_short_line_that_steers_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"\x1b[2J\n" + "x" * 10_000: 1}))
    (reason,) = bad_of(tmp_path / "a.jsonl")
    assert reason.isprintable() and len(reason) < 400
