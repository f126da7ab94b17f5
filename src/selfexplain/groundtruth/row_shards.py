"""Write and read shards of candidate rows: parquet files with counts in their metadata."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfexplain.groundtruth import schema
from selfexplain.target.load import Target

if TYPE_CHECKING:
    import pyarrow as pa

NOT_FINITE = "activations that are not finite"
"""Name of the count of rows that are left out because a vector contains NaN or infinity."""

_COUNTS = b"counts"

Rows = list[dict[str, Any]]


def write_row_shard(
    task: str, target: Target, rows: Iterable[Mapping[str, Any]], counts: Mapping[str, Any], path: Path
) -> None:
    """Write rows as parquet, with `counts` in the metadata. Rows with a vector that is not finite are left out."""
    import pyarrow.parquet as parquet

    rows = list(rows)
    of_target = {"target_model": target.name, "target_revision": target.revision}
    finite = [
        {**row, **of_target} for row in rows if all(np.isfinite(v).all() for v in map(np.asarray, row[schema.VECTORS]))
    ]
    if len(finite) < len(rows):
        counts = {**counts, NOT_FINITE: len(rows) - len(finite)}
    table = schema.to_table(task, finite, target.d_model)
    table = table.replace_schema_metadata({**table.schema.metadata, _COUNTS: json.dumps(counts)})
    parquet.write_table(table, path, compression="zstd")


def shard_counts(path: Path) -> dict[str, Any]:
    """The counts collected while the rows of a shard were computed."""
    import pyarrow.parquet as parquet

    return json.loads(parquet.read_metadata(path).metadata[_COUNTS])


def read_columns(path: Path, columns: Sequence[str]) -> Rows:
    """Some columns of the rows of a shard."""
    import pyarrow.parquet as parquet

    return parquet.read_table(path, columns=list(columns)).to_pylist()


def read_row_shard(path: Path) -> "pa.Table":
    """The rows of a shard as a table without counts in its metadata."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    return table.replace_schema_metadata({k: v for k, v in table.schema.metadata.items() if k != _COUNTS})
