"""Shards of rows keep the counts, and leave out rows with vectors that are not finite."""

import numpy as np

from selfexplain.groundtruth.row_shards import (
    NOT_FINITE,
    read_columns,
    read_row_shard,
    shard_counts,
    write_row_shard,
)
from selfexplain.groundtruth.schema import COMMON
from selfexplain.tasks import TASKS


def row(vector, position=0):
    values = {"text": "t", "texts": ["t"], "flag": True, "integer": 1, "integers": [1], "real": 0.5, "reals": [0.5]}
    columns = COMMON | TASKS["activation_patching"].columns
    own = {name: values.get(kind) for name, kind in columns.items() if not name.startswith("target_")}
    return own | {"target_prompt": "t", "activations": [vector], "position": position}


def test_rows_and_counts_are_read_back(target, tmp_path):
    rows = [row(np.full(target.d_model, n, np.float32), n) for n in range(3)]
    write_row_shard("activation_patching", target, rows, {"patches": 3}, tmp_path / "shard")
    assert shard_counts(tmp_path / "shard") == {"patches": 3}
    assert read_columns(tmp_path / "shard", ["position", "target_model"]) == [
        {"position": n, "target_model": "tiny-random"} for n in range(3)
    ]
    table = read_row_shard(tmp_path / "shard")
    assert table["activations"].to_pylist()[2] == [[2.0] * target.d_model]
    assert b"counts" not in table.schema.metadata and table.schema.metadata


def test_rows_with_infinity_or_nan_are_left_out_and_counted(target, tmp_path):
    vectors = [np.zeros(target.d_model), np.full(target.d_model, np.inf), np.full(target.d_model, np.nan)]
    rows = [row(vector, n) for n, vector in enumerate(vectors)]
    write_row_shard("activation_patching", target, rows, {}, tmp_path / "shard")
    assert read_columns(tmp_path / "shard", ["position"]) == [{"position": 0}]
    assert shard_counts(tmp_path / "shard") == {NOT_FINITE: 2}
