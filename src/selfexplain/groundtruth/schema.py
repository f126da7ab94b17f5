"""Define the columns of each dataset and how vectors are stored in them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from selfexplain.errors import SelfExplainError
from selfexplain.tasks import TASKS, Task
from selfexplain.tasks.task import ColumnType

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

Dtype = Literal["float16", "float32"]

VECTORS = "activations"
"""The column with a row's vectors, `(n_vectors, d_model)`."""

COMMON: Mapping[str, ColumnType | Literal["vectors"]] = {
    "prompt": "text",
    "completion": "text",
    "placeholder_offsets": "integers",
    VECTORS: "vectors",
    "activation_layers": "integers",
    "group": "text",
    "target_model": "text",
    "target_revision": "text",
}
"""Columns that every task has. A task's own columns, `Task.columns`, follow them."""

_LARGE_COLUMNS = ("prompt", "completion", "placeholder_offsets", VECTORS)
_LARGE_TYPES = ("exemplars",)


def columns_of(task: str) -> dict[str, str]:
    """Name -> type of every column of a task, in order."""
    return {**COMMON, **TASKS[task].columns}


def features(task: str, d_model: int, dtype: Dtype = "float16") -> "Features":
    """Column names and types of a task's rows. Vectors are lists of `d_model` values."""
    from datasets import Features, List, Value

    text, flag, integer, real = Value("string"), Value("bool"), Value("int32"), Value("float32")
    types = {
        "text": text,
        "texts": List(text),
        "flag": flag,
        "integer": integer,
        "integers": List(integer),
        "real": real,
        "reals": List(real),
        "exemplars": List({"tokens": List(text), "activations": List(real)}),
        "vectors": List(List(Value(dtype), length=d_model)),
    }
    return Features({name: types[kind] for name, kind in columns_of(task).items()})


def small_columns(task: str) -> tuple[str, ...]:
    """The columns of a task that are small enough to be read for all candidate rows at once."""
    return tuple(
        name for name, kind in columns_of(task).items() if name not in _LARGE_COLUMNS and kind not in _LARGE_TYPES
    )


def task_of(columns: Iterable[str]) -> Task:
    """The task whose rows have these columns: the one with the most of its own columns among them.

    Raises:
        SelfExplainError: no task has any of these columns.
    """
    names = set(columns)
    task = max(TASKS.values(), key=lambda task: len(names & set(task.columns)))
    if not names & set(task.columns):
        raise SelfExplainError(
            f"The columns {', '.join(sorted(names))} belong to no known task. "
            f"Expected the columns of one of {', '.join(TASKS)}."
        )
    return task


def to_table(task: str, rows: Sequence[Mapping[str, Any]], d_model: int) -> "pa.Table":
    """Convert rows to an Arrow table, with float32 vectors if any value exceeds the range of float16."""
    import pyarrow as pa

    vectors = [np.asarray(vector, np.float32) for row in rows for vector in row[VECTORS]]
    stacked = np.stack(vectors) if vectors else np.empty((0, d_model), np.float32)
    with np.errstate(over="ignore"):
        dtype: Dtype = "float16" if np.isfinite(stacked.astype(np.float16)).all() else "float32"
    schema = features(task, d_model, dtype).arrow_schema
    lengths = np.array([len(row[VECTORS]) for row in rows], np.int64)
    columns = {
        name: _vector_column(stacked, lengths, schema.field(name).type)
        if name == VECTORS
        else pa.array([row[name] for row in rows], schema.field(name).type)
        for name in schema.names
    }
    return pa.table(columns, schema=schema)


def to_float32(table: "pa.Table", task: str, d_model: int) -> "pa.Table":
    """The same table with float32 vectors."""
    return table.cast(features(task, d_model, "float32").arrow_schema)


def vectors_of(table: "pa.Table") -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """The vectors of a table.

    Returns:
        All vectors, `(n_vectors, d_model)`, in the dtype in which they are stored, and the number of vectors per row,
        `(n_rows,)`.
    """
    column = table[VECTORS].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    flat = column.flatten()
    values = flat.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(flat), flat.type.list_size), lengths


def _vector_column(stacked: NDArray, lengths: NDArray, kind: "pa.ListType") -> "pa.ListArray":
    """Vectors `(n_vectors, d_model)` as a list column with `lengths` vectors per row."""
    import pyarrow as pa

    values = pa.array(stacked.astype(kind.value_type.value_type.to_pandas_dtype()).ravel())
    fixed = pa.FixedSizeListArray.from_arrays(values, type=kind.value_type)
    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), fixed, type=kind)
