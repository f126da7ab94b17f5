"""Read datasets from their parquet files, and store vectors that rows share."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.schema import VECTORS, vectors_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

VECTOR_IDS = "vector_ids"
"""The column that replaces `activations` if vectors are shared: indices into `vectors.parquet`."""


def read_split(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """Read a parquet split. Shared vectors are joined from `vectors.parquet`.

    Args:
        path: the parquet file.
        columns: columns to read; None for all.

    Raises:
        SelfExplainError: the file does not exist or has no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise SelfExplainError(
            f"{path} does not exist. Build the dataset first: selfexplain run RECIPE --stage dataset."
        )
    is_shared = _shares_vectors(path)
    stored = [VECTOR_IDS if is_shared and name == VECTORS else name for name in columns] if columns else None
    table = parquet.read_table(path, columns=stored)
    if not table.num_rows:
        raise SelfExplainError(f"{path} has no rows. Build the dataset again from a larger corpus.")
    if not is_shared or VECTOR_IDS not in table.column_names:
        return table
    vectors = parquet.read_table(DatasetDirectory(path.parent).vectors)["vector"].combine_chunks()
    ids = table[VECTOR_IDS].combine_chunks()
    joined = pa.ListArray.from_arrays(ids.offsets, vectors.take(ids.flatten()))
    index = table.column_names.index(VECTOR_IDS)
    return table.set_column(index, VECTORS, joined).replace_schema_metadata(None)


def read_dataset(path: Path, columns: Sequence[str], cache_dir: Path) -> "Dataset":
    """Some columns of a split as a `Dataset`. It is memory-mapped unless vectors are shared.

    Args:
        path: the parquet file.
        columns: columns to read.
        cache_dir: directory for the memory-mapped file.

    Raises:
        SelfExplainError: the file does not exist or has no rows.
    """
    from datasets import Dataset

    if path.is_file() and not _shares_vectors(path):
        return Dataset.from_parquet(str(path), columns=list(columns), cache_dir=str(cache_dir))
    return Dataset(read_split(path, columns))


def read_rows(path: Path) -> list[dict]:
    """Read the rows of a parquet split. `activations` are arrays `(n_vectors, d_model)`.

    Raises:
        SelfExplainError: the file does not exist or has no rows.
    """
    table = read_split(path)
    stacked, lengths = vectors_of(table)
    activations = np.split(stacked.copy(), np.cumsum(lengths)[:-1])
    rows = table.drop_columns(VECTORS).to_pylist()
    return [{**row, VECTORS: vectors} for row, vectors in zip(rows, activations, strict=True)]


def share_vectors(table: "pa.Table") -> tuple["pa.Table", "pa.Table"]:
    """Replace `activations` by `vector_ids`.

    Returns:
        The rows, and a table of the distinct vectors in the order of their ids.
    """
    import pyarrow as pa

    stacked, lengths = vectors_of(table)
    numbers: dict[bytes, int] = {}
    ids = [numbers.setdefault(vector.tobytes(), len(numbers)) for vector in stacked]
    distinct = stacked[np.unique(ids, return_index=True)[1]]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    kind = table.schema.field(VECTORS).type.value_type
    values = pa.FixedSizeListArray.from_arrays(pa.array(distinct.ravel()), type=kind)
    vectors = pa.table({"vector_id": pa.array(range(len(numbers)), pa.int64()), "vector": values})
    column = pa.ListArray.from_arrays(offsets, pa.array(ids, pa.int64()))
    index = table.column_names.index(VECTORS)
    return table.set_column(index, VECTOR_IDS, column).replace_schema_metadata(None), vectors


def _shares_vectors(path: Path) -> bool:
    import pyarrow.parquet as parquet

    return VECTOR_IDS in parquet.read_schema(path).names
