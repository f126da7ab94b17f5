"""Read the rows of tables: files, and datasets on the Hub."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import TableConfig
from selfexplain.groundtruth.sources.values import Skips
from selfexplain.utils.names import local_path, looks_like_path
from selfexplain.utils.table_files import FORMATS, TABLES, Malformed, format_of, read_file

PATIENCE = 100
"""Rows without a required column, from the first row on, after which the column counts as missing from the table."""


def read_columns(
    table: TableConfig,
    required: Sequence[str],
    optional: Sequence[str],
    skips: Skips,
    setting: str = "source.columns",
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table, with their numbers from 1.

    A row has the `required` columns, and the `optional` columns that it has in the table. Its keys are the names in
    `required` and `optional`, even if `table.columns` renames them. Values are not checked. If only one column is
    required, a row may also be plain text, which is then the value of that column.

    Args:
        table: the table.
        required: columns that every row needs; rows without one are skipped.
        optional: further columns to read.
        skips: counts of skipped rows, which are added to.
        setting: setting that names the columns, for errors.

    Raises:
        SelfExplainError: the table does not exist or cannot be read, or no row has a required column (the error
            suggests the closest name).
    """
    unknown = set(table.columns) - {*required, *optional}
    if unknown:
        raise SelfExplainError(
            f"source.columns maps {', '.join(sorted(unknown))}, but this source reads only the columns "
            f"{', '.join((*required, *optional))}. Remove or rename the others."
        )
    names = {name: table.columns.get(name, name) for name in (*required, *optional)}
    not_found = [names[name] for name in required]
    columns: dict[str, None] = {}
    number = 0
    for number, row in read_rows(table, skips, not_found[0] if len(required) == 1 else None):
        if not_found:
            not_found = [name for name in not_found if name not in row]
            columns |= dict.fromkeys(row)
            if not_found and number >= PATIENCE:
                break
        if missing := [names[name] for name in required if names[name] not in row]:
            skips.add(f"no column {missing[0]!r}", number)
        else:
            yield number, {name: row[column] for name, column in names.items() if column in row}
    if not_found and columns:
        nearest = get_close_matches(not_found[0], columns, n=1, cutoff=0.0)
        hint = f" If it is {nearest[0]!r}, set {setting} accordingly." if nearest else ""
        raise SelfExplainError(
            f"{table.path} has no column {not_found[0]!r} in rows 1 to {number}. Its columns are "
            f"{', '.join(map(repr, columns))}.{hint}"
        )


def read_rows(table: TableConfig, skips: Skips, text_column: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table unchanged, with their numbers from 1. Rows that are damaged or no objects are skipped.

    Args:
        table: the table.
        skips: counts of skipped rows, which are added to.
        text_column: column that rows of plain text are read as; None skips them.

    Raises:
        SelfExplainError: the table does not exist or cannot be read, or its rows are not objects.
    """
    n_objects, other = 0, ""
    for number, row in enumerate(_all_rows(table), start=1):
        if isinstance(row, Malformed):
            skips.add(row, number)
            continue
        if isinstance(row, str) and text_column is not None:
            row = {text_column: row}
        if isinstance(row, dict):
            n_objects += 1
            yield number, row
        else:
            other = other or f"row {number} is a JSON {type(row).__name__}"
            skips.add("not an object", number)
    if other and not n_objects:
        raise SelfExplainError(f"{table.path}: {other}, expected an object. Give a table with one object per row.")


def _all_rows(table: TableConfig) -> Iterator[Any]:
    if table.path is None:
        raise SelfExplainError(f"source.path is not set. Set it to a {FORMATS} file, or to the id of a Hub dataset.")
    path = local_path(table.path.replace("{split}", table.split))
    if path.is_file():
        yield from read_file(path)
    elif path.is_dir():
        raise SelfExplainError(f"{table.path} is a directory. Give a {FORMATS} file in it, or the id of a Hub dataset.")
    elif format_of(path.name) in TABLES or looks_like_path(table.path):
        raise SelfExplainError(
            f"The file {table.path} does not exist. Give a {FORMATS} file, or the id of a Hub dataset."
        )
    else:
        yield from _hub_rows(table)


def _hub_rows(table: TableConfig) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from httpx import HTTPError

    try:
        yield from load_dataset(table.path, table.subset, split=table.split, revision=table.revision, streaming=True)
    except (DatasetsError, HTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SelfExplainError(
            f"Dataset {table.path!r} cannot be read from the Hub: {reason} "
            f"Give its id (org/name), subset and split, or a {FORMATS} file."
        ) from error
