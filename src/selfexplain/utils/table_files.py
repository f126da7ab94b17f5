"""Read the rows and lines of files: JSONL, JSON, CSV, TSV, parquet and plain text, also compressed."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from selfexplain.errors import SelfExplainError
from selfexplain.utils.parsing import parse_json

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
TEXTS = (".txt", ".text", ".md")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zip")
DELIMITERS = ",;\t|"

FORMATS = f"{', '.join(TABLES[:-1])} or {TABLES[-1]}, also compressed as {', '.join(COMPRESSIONS)}"
"""The formats of tables, for errors."""

_MARKS = {  # UTF-32 first, because its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Malformed(str):
    """A row that cannot be read, and the reason."""


def format_of(name: str) -> str:
    """The suffix of a file in lower case, without that of a compression: ".csv" for "Data.CSV.gz"."""
    path = Path(name.lower())
    return path.with_suffix("").suffix if path.suffix in COMPRESSIONS else path.suffix


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, without their line ends.

    Raises:
        SelfExplainError: the file cannot be read or is not text.
    """
    with _reporting(path), _open(path) as file:
        yield from (line.removesuffix("\n") for line in _text(file))


def read_file(path: Path) -> Iterator[Any]:
    """The rows of a table: a dictionary per row, `Malformed` for a damaged row, or another JSON value.

    Raises:
        SelfExplainError: the file cannot be read, or has an unsupported type, two columns of the same name, or a
            syntax error.
    """
    readers: dict[str, Callable[[IO[bytes], Path], Iterator[Any]]] = {
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
    }
    if (suffix := format_of(path.name)) not in readers:
        raise SelfExplainError(f"{path} has an unsupported file type, {suffix or 'none'!r}. Give a {FORMATS} file.")
    with _reporting(path), _open(path) as file:
        yield from readers[suffix](file, path)


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Turn the errors of reading, decompressing and decoding into a `SelfExplainError`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise SelfExplainError(f"{path} cannot be read ({error}). Give UTF-8 text.") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SelfExplainError(f"{path} cannot be read: {reason}. Give an intact, readable file.") from error


def _open(path: Path) -> IO[bytes]:
    """The decompressed bytes of a file."""
    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zst": _open_zstandard,
        ".zip": _only_member,
    }
    return openers.get(path.suffix.lower(), lambda path: path.open("rb"))(path)


def _open_zstandard(path: Path) -> IO[bytes]:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))


def _only_member(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    members = [member for member in archive.namelist() if not member.endswith("/") and "__MACOSX" not in member]
    if len(members) != 1:
        raise SelfExplainError(f"{path} contains {len(members)} files. Give an archive with one file, or extract it.")
    return archive.open(members[0])


def _text(file: IO[bytes], newline: str | None = None) -> io.TextIOWrapper:
    """The decoded text of a file: UTF-8, or UTF-16 or UTF-32 if it begins with a byte-order mark."""
    buffered = io.BufferedReader(cast(io.RawIOBase, file))
    start = buffered.peek(4)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")
    return io.TextIOWrapper(buffered, encoding=encoding, newline=newline)


def _json_lines(file: IO[bytes], path: Path) -> Iterator[Any]:
    yield from _rows_of_lines(_text(file), path)


def _rows_of_lines(lines: Iterable[str], path: Path) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        if line := line.strip("\ufeff \t\r\n"):
            try:
                yield parse_json(line, f"{path}, line {number}")
            except SelfExplainError as error:
                raise SelfExplainError(f"{error} Give one JSON object per line.") from error


def _json(file: IO[bytes], path: Path) -> Iterator[Any]:
    """The rows of a JSON list; of a single object; or of a file that contains JSON lines."""
    text = _text(file).read()
    try:
        rows = parse_json(text, str(path))
    except SelfExplainError as error:
        if not _is_json_object(text.partition("\n")[0]):
            raise SelfExplainError(f"{error} Give a file with a list of objects.") from error
        yield from _rows_of_lines(io.StringIO(text), path)
    else:
        yield from rows if isinstance(rows, list) else [rows]


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _csv(file: IO[bytes], path: Path) -> Iterator[Any]:
    csv.field_size_limit(2**31 - 1)  # the default refuses cells of more than 131,072 characters
    text = _text(file, newline="")
    blank, first = next(((n, line) for n, line in enumerate(text) if line.strip()), (0, ""))
    delimiter = "\t" if format_of(path.name) == ".tsv" else _delimiter(first)
    reader = csv.reader(chain([first], text), delimiter=delimiter, strict=True)
    begin = blank + 1
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_names([name for name in header if name], path)
        begin = blank + reader.line_num + 1
        for cells in reader:
            if cells:
                yield _csv_row(header, cells)
            begin = blank + reader.line_num + 1
    except csv.Error as error:
        raise SelfExplainError(
            f"{path}: the row that begins at line {begin} cannot be read ({error}). Close every quote, and write a "
            "quote inside a quoted cell twice."
        ) from error


def _delimiter(header: str) -> str:
    """The delimiter that divides the header into the most cells; a comma if none divides it."""
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter))))


def _csv_row(header: list[str], cells: list[str]) -> dict[str, str] | Malformed:
    n = len(header)
    if [cell.strip() for cell in cells] == header:
        return Malformed("the header is repeated")
    if len(cells) < n:
        return Malformed(f"fewer cells than the {n} columns")
    if any(cell.strip() for cell in cells[n:]):
        return Malformed(f"more cells than the {n} columns")
    return {name: cell for name, cell in zip(header, cells, strict=False) if name}


def _parquet(file: IO[bytes], path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(path if path.suffix.lower() == ".parquet" else io.BytesIO(file.read()))
        _check_names(table.schema_arrow.names, path)
        for batch in table.iter_batches():
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise SelfExplainError(f"{path} is not an intact parquet file ({error}). Write it again.") from error


def _check_names(names: list[str], path: Path) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise SelfExplainError(f"{path} has several columns with the name {repeated[0]!r}. Rename or remove them.")
