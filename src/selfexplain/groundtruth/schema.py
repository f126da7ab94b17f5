"""The columns of each dataset, and how vectors are stored in them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

Dtype = Literal["float16", "float32"]


def features(task: str, d_model: int, dtype: Dtype = "float16") -> "Features":
    """Columns and types of a task's rows; vectors are lists of `d_model` values."""
    from datasets import Features, List, Value

    text, flag, number, real = Value("string"), Value("bool"), Value("int32"), Value("float32")
    exemplars = List({"tokens": List(text), "activations": List(real)})
    common = {
        "prompt": text,
        "completion": text,
        "placeholder_offsets": List(number),
        "activations": List(List(Value(dtype), length=d_model)),
        "activation_layers": List(number),
        "group": text,
        "target_model": text,
        "target_revision": text,
    }
    own = {
        "feature_description": {
            "layer": number,
            "feature_index": number,
            "sae_release": text,
            "sae_id": text,
            "description": text,
            "description_source": text,
            "exemplars": exemplars,
            "scoring_exemplars": exemplars,
            "simulator_score": real,
            "density": real,
        },
        "activation_patching": {
            "target_prompt": text,
            "prompt_ids": List(number),
            "prompt_tokens": List(text),
            "source_prompt": text,
            "layers": List(number),
            "position": number,
            "token": text,
            "token_type": text,
            "source_position": number,
            "clean_output": text,
            "patched_output": text,
            "clean_output_id": number,
            "patched_output_id": number,
            "changed": flag,
            "clean_log_prob": real,
            "patched_log_prob": real,
            "kl": real,
        },
        "input_ablation": {
            "question": text,
            "choices": List(text),
            "answer": text,
            "topic": text,
            "hint_style": text,
            "hinted": text,
            "target_prompt": text,
            "removed_text": text,
            "removed_span": List(number),
            "replacement": text,
            "answered_by": text,
            "full_output": text,
            "ablated_output": text,
            "changed": flag,
            "option_log_probs_full": List(real),
            "option_log_probs_ablated": List(real),
        },
    }
    return Features(common | own[task])


def to_table(task: str, rows: Sequence[Mapping[str, Any]], d_model: int) -> "pa.Table":
    """Rows as an Arrow table; float32 where any vector exceeds the range of float16."""
    import pyarrow as pa

    vectors = [np.asarray(vector, np.float32) for row in rows for vector in row["activations"]]
    stacked = np.stack(vectors) if vectors else np.empty((0, d_model), np.float32)
    with np.errstate(over="ignore"):
        dtype: Dtype = "float16" if np.isfinite(stacked.astype(np.float16)).all() else "float32"
    schema = features(task, d_model, dtype).arrow_schema
    lengths = np.array([len(row["activations"]) for row in rows], np.int64)
    columns = {
        name: _vector_column(stacked, lengths, schema.field(name).type)
        if name == "activations"
        else pa.array([row[name] for row in rows], schema.field(name).type)
        for name in schema.names
    }
    return pa.table(columns, schema=schema)


def widened(table: "pa.Table", task: str, d_model: int) -> "pa.Table":
    """The same table with float32 vectors."""
    return table.cast(features(task, d_model, "float32").arrow_schema)


def vectors_of(table: "pa.Table") -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """All vectors of a table, `(n, d)` in their own dtype, and how many each row has."""
    column = table["activations"].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    flat = column.flatten()
    values = flat.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(flat), flat.type.list_size), lengths


def _vector_column(stacked: NDArray, lengths: NDArray, kind: "pa.ListType") -> "pa.ListArray":
    import pyarrow as pa

    values = pa.array(stacked.astype(kind.value_type.value_type.to_pandas_dtype()).ravel())
    fixed = pa.FixedSizeListArray.from_arrays(values, type=kind.value_type)
    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), fixed, type=kind)
