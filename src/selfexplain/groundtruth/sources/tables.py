"""Read the rows of tables: JSONL, JSON, CSV and parquet files, and datasets on the Hub."""

import csv
import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import TableConfig
from selfexplain.utils.names import looks_like_path

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


def read_columns(table: TableConfig, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table with the `required` columns, and the `optional` columns that the table has.

    The keys of a row are the names in `required` and `optional`, even if `table.columns` renames them.

    Raises:
        SelfExplainError: the table does not exist, a line cannot be read, or a required column is missing (the error
            suggests the closest name).
    """
    unknown = set(table.columns) - {*required, *optional}
    if unknown:
        raise SelfExplainError(
            f"source.columns maps {', '.join(sorted(unknown))}, but this source reads only the columns "
            f"{', '.join((*required, *optional))}. Remove or rename the others."
        )
    names = {name: table.columns.get(name, name) for name in (*required, *optional)}
    for number, row in enumerate(read_table(table), start=1):
        if missing := [names[name] for name in required if names[name] not in row]:
            nearest = get_close_matches(missing[0], row, n=1, cutoff=0.0)
            hint = f" If it is {nearest[0]!r}, set source.columns accordingly." if nearest else ""
            raise SelfExplainError(
                f"{table.path}, row {number} has no column {missing[0]!r}. Its columns are "
                f"{', '.join(map(repr, row))}.{hint}"
            )
        yield {name: row[column] for name, column in names.items() if column in row}


def read_table(table: TableConfig) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table unchanged.

    Raises:
        SelfExplainError: the table does not exist, or a line cannot be read.
    """
    if table.path is None:
        raise SelfExplainError(
            f"source.path is not set. Set it to a file ({', '.join(FORMATS)}) or to the id of a Hub dataset."
        )
    path = Path(table.path.replace("{split}", table.split)).expanduser()
    try:
        if path.is_file():
            yield from _file_rows(path)
        elif path.suffix in FORMATS or looks_like_path(table.path):
            raise SelfExplainError(
                f"The file {table.path} does not exist. Give a {', '.join(FORMATS)} file or the id of a Hub dataset."
            )
        else:
            yield from _hub_rows(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SelfExplainError(f"{table.path} cannot be read ({error}). Give UTF-8 text.") from error


def _file_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    elif path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    elif path.suffix == ".json":
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise SelfExplainError(
                f"{path} is not valid JSON ({error}). Give a file with a list of objects."
            ) from error
        yield from rows if isinstance(rows, list) else [rows]
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _jsonl_row(path, number, line)
    else:
        raise SelfExplainError(f"{path} has an unsupported file type. Give a {', '.join(FORMATS)} file.")


def _jsonl_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SelfExplainError(
            f"{path}, line {number} is not valid JSON ({error}). Give one JSON object per line."
        ) from error
    if not isinstance(row, dict):
        raise SelfExplainError(
            f"{path}, line {number} contains a JSON {type(row).__name__}, expected an object. Give one object per line."
        )
    return row


def _hub_rows(table: TableConfig) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(table.path, table.subset, split=table.split, revision=table.revision, streaming=True)
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as error:
        raise SelfExplainError(
            f"Dataset {table.path!r} cannot be read from the Hub: {str(error).splitlines()[0]} "
            f"Give its id (org/name), subset and split, or a {', '.join(FORMATS)} file."
        ) from error
    yield from rows
