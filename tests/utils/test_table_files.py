"""Files of every type, compression and encoding give the same rows; damaged files are refused by name."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.utils.table_files import Malformed, read_file, read_lines

ROWS = [{"q": "Où?", "a": "là, bas"}, {"q": "Who?", "a": 'a "b"\nc'}]
CSV = 'q,a\nOù?,"là, bas"\nWho?,"a ""b""\nc"\n'


def zstandard(data):
    sink = io.BytesIO()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
        stream.flush()
        return sink.getvalue()


def zipped(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", data)
    return buffer.getvalue()


COMPRESSED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zipped}


def parquet(rows):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("suffix", [".jsonl", ".NDJSON", ".json", ".Csv", ".tsv", ".parquet"])
def test_every_type_gives_the_same_rows(tmp_path, suffix, compression):
    lines = "".join(json.dumps(row) + "\n\n" for row in ROWS)
    content = {
        ".jsonl": lines.encode(),
        ".NDJSON": lines.encode(),
        ".json": json.dumps(ROWS, indent=1).encode(),
        ".Csv": CSV.encode(),
        ".tsv": CSV.replace("q,a", "q\ta").replace("?,", "?\t").encode(),
        ".parquet": parquet(ROWS),
    }[suffix]
    path = tmp_path / f"my.data{suffix}{compression.upper()}"
    path.write_bytes(COMPRESSED[compression](content))
    assert list(read_file(path)) == ROWS


def test_zstandard_is_read(tmp_path):
    with pyarrow.CompressedOutputStream(str(tmp_path / "data.jsonl.zst"), "zstd") as stream:
        stream.write(json.dumps(ROWS[0]).encode())
    assert list(read_file(tmp_path / "data.jsonl.zst")) == ROWS[:1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_byte_order_marks_are_understood(tmp_path, suffix, encoding):
    text = {"csv": CSV, "json": json.dumps(ROWS, ensure_ascii=False)}.get(suffix)
    text = text or "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (tmp_path / f"data.{suffix}").write_bytes(text.encode(encoding))
    assert list(read_file(tmp_path / f"data.{suffix}")) == ROWS
    (tmp_path / "text.txt").write_bytes("Où?\nWho?".encode(encoding))
    assert list(read_lines(tmp_path / "text.txt")) == ["Où?", "Who?"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_recognised(tmp_path, delimiter):
    lines = [delimiter.join(cells) for cells in (["a", "b", "c d"], ["1", '"x,y;z|\t"', "3"])]
    (tmp_path / "data.csv").write_text("\r\n".join(lines))
    assert list(read_file(tmp_path / "data.csv")) == [{"a": "1", "b": "x,y;z|\t", "c d": "3"}]


def test_rows_of_the_wrong_length_and_repeated_headers_are_malformed(tmp_path):
    (tmp_path / "data.csv").write_text("\na,b,\n1\n1,2\n1,2,\n\n1,2,,,\n1,2,3,4\na, b,\n")
    rows = list(read_file(tmp_path / "data.csv"))
    assert rows == [
        "fewer cells than the 3 columns",
        "fewer cells than the 3 columns",
        {"a": "1", "b": "2"},
        {"a": "1", "b": "2"},
        "more cells than the 3 columns",
        "the header is repeated",
    ]
    assert [isinstance(row, Malformed) for row in rows] == [True, True, False, False, True, True]


def test_long_cells_are_read(tmp_path):
    long = "x" * 300_000
    (tmp_path / "data.csv").write_text(f"a,b\n{long},1\n")
    assert list(read_file(tmp_path / "data.csv")) == [{"a": long, "b": "1"}]


def test_json_lines_in_a_json_file_are_read(tmp_path):
    (tmp_path / "data.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert list(read_file(tmp_path / "data.json")) == ROWS


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv", "header.csv", "list.json", "rows.parquet"])
def test_empty_tables_have_no_rows(tmp_path, name):
    none = parquet([{"a": 1}]) and pyarrow.table({"a": pyarrow.array([], pyarrow.string())})
    if name == "rows.parquet":
        pyarrow.parquet.write_table(none, tmp_path / name)
    else:
        (tmp_path / name).write_text({"header.csv": "a,b\n", "list.json": "[]"}.get(name, ""))
    assert list(read_file(tmp_path / name)) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("quote.csv", b'a,b\n1,2\n3,"4\n5,6\n', "row that begins at line 3 cannot be read .*Close every quote"),
        ("quote.csv", b'a,b\n1,"2\n3,4\n5,"6\n', "row that begins at line 2 cannot be read"),
        ("twice.csv", b"a,b,a\n1,2,3\n", "several columns with the name 'a'"),
        ("latin.csv", b"a\n\xe9\n", "Give UTF-8 text"),
        ("zero.parquet", b"", "not an intact parquet file"),
        ("broken.parquet", b"PAR1 and then nothing PAR1", "not an intact parquet file"),
        ("cut.parquet", parquet(ROWS)[:-30], "not an intact parquet file"),
        ("plain.csv.gz", b"a,b\n1,2\n", r"plain\.csv\.gz cannot be read: Not a gzipped file"),
        ("cut.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-20], "cannot be read"),
        ("cut.csv.xz", lzma.compress(b"a,b\n1,2\n" * 99)[:-20], "cannot be read"),
        ("plain.csv.bz2", b"a,b\n", "cannot be read"),
        ("plain.csv.zst", b"a,b\n", "cannot be read"),
        ("plain.csv.zip", b"a,b\n", "cannot be read"),
        ("deep.json", b"[" * 100_000, "levels deep"),
        ("big.json", b"[" + b"1" * 5000 + b"]", "is not valid JSON"),
        ("cut.json", b'[{"a": 1},', "is not valid JSON"),
        ("cut.jsonl", b'{"a": 1}\n{"a": ', r"cut\.jsonl, line 2 is not valid JSON"),
        ("data.xlsx", b"", r"unsupported file type, '\.xlsx'"),
        ("data", b"", "unsupported file type, 'none'"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SelfExplainError, match=message):
        list(read_file(tmp_path / name))


def test_an_archive_of_several_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.csv.zip", "w") as archive:
        archive.writestr("a.csv", "a")
        archive.writestr("b.csv", "b")
    with pytest.raises(SelfExplainError, match="contains 2 files"):
        list(read_file(tmp_path / "data.csv.zip"))
