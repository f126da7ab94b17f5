"""Columns come from the task record, and vectors are float16 unless they exceed its range."""

import numpy as np
import pyarrow as pa
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import schema
from selfexplain.tasks import BUILT_IN, TASKS

COMMON = ["prompt", "completion", "placeholder_offsets", "activations", "activation_layers", "group", "target_model",
          "target_revision"]  # fmt: skip


def row(*vectors):
    values = {"text": "t", "texts": ["t"], "flag": True, "integer": 1, "integers": [1], "real": 0.5, "reals": [0.5]}
    values |= {"exemplars": [{"tokens": ["t"], "activations": [1.0]}], "vectors": list(vectors)}
    columns = schema.COMMON | TASKS["activation_patching"].columns
    return {name: values[kind] for name, kind in columns.items()}


@pytest.mark.parametrize("task", BUILT_IN, ids=lambda task: task.name)
def test_common_columns_come_first_then_those_of_the_task(task):
    assert list(schema.features(task.name, 4)) == COMMON + list(task.columns)


def test_column_types_are_those_of_the_task_record():
    arrow = schema.features("feature_description", 4).arrow_schema
    assert arrow.field("layer").type == pa.int32() and arrow.field("density").type == pa.float32()
    assert arrow.field("exemplars").type.value_type.field("activations").type == pa.list_(pa.float32())
    arrow = schema.features("activation_patching", 4).arrow_schema
    assert arrow.field("changed").type == pa.bool_() and arrow.field("prompt_tokens").type == pa.list_(pa.string())
    assert arrow.field("activations").type.value_type == pa.list_(pa.float16(), 4)


def test_only_large_columns_are_left_out_of_the_small_ones():
    for task in BUILT_IN:
        small = schema.small_columns(task.name)
        assert set(small) >= {"group", "activation_layers"}
        assert not set(small) & {"activations", "prompt", "completion", "exemplars", "scoring_exemplars"}


def test_vectors_become_float32_if_one_exceeds_float16():
    small, large = np.full(4, 2.0, np.float32), np.full(4, 1e6, np.float32)
    table = schema.to_table("activation_patching", [row(small), row(small, small)], 4)
    vectors, lengths = schema.vectors_of(table)
    assert vectors.dtype == np.float16 and vectors.shape == (3, 4) and lengths.tolist() == [1, 2]
    vectors, _ = schema.vectors_of(schema.to_table("activation_patching", [row(small), row(large)], 4))
    assert vectors.dtype == np.float32 and vectors[1].tolist() == [1e6] * 4
    vectors, _ = schema.vectors_of(schema.to_float32(table, "activation_patching", 4))
    assert vectors.dtype == np.float32 and vectors.tolist() == [[2.0] * 4] * 3


@pytest.mark.parametrize("task", BUILT_IN, ids=lambda task: task.name)
def test_the_task_of_a_dataset_is_recognized_by_its_columns(task):
    names = [*COMMON, *task.columns]
    assert schema.task_of(names) is task
    assert schema.task_of(set(names) - {"replacement", "answered_by"}) is task


def test_columns_that_match_no_task_are_refused():
    with pytest.raises(
        SelfExplainError, match=r"columns prompt belong to no known task\. Expected .* feature_description"
    ):
        schema.task_of(["prompt"])
