"""Test sets: which rows of which files are scored."""

from types import SimpleNamespace

import numpy as np
import pytest

from evaluation_data import write_dataset
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.test_sets import TestSet, check_width, held_out, read_test_sets, validation_rows
from selfexplain.groundtruth.statistics import DatasetStatistics


def test_out_of_distribution_sets_follow_their_task(datasets_of, feature_rows):
    datasets = datasets_of("feature_description", "input_ablation")
    statistics = DatasetStatistics(out_of_distribution={"activations": {"rows": 2}})
    write_dataset(datasets["feature_description"].root, feature_rows[:2], ("activations",), statistics)
    sets = read_test_sets(datasets, None, 0)
    assert [one.section for one in sets] == ["feature_description", "feature_description/activations", "input_ablation"]
    assert [(one.task, one.name, len(one.rows)) for one in sets] == [
        ("feature_description", None, 6),
        ("feature_description", "activations", 2),
        ("input_ablation", None, 20),
    ]


def test_a_limit_draws_rows_in_their_order(datasets_of, ablation_rows):
    path = datasets_of("input_ablation")["input_ablation"].rows("test")
    indices, rows = held_out(path, 7, 3)
    assert indices == sorted(np.random.default_rng(3).permutation(20)[:7].tolist())
    assert [row["prompt"] for row in rows] == [ablation_rows[index]["prompt"] for index in indices]
    assert held_out(path, None, 3)[0] == list(range(20))
    assert held_out(path, 7, 4)[0] != indices


def test_a_missing_split_is_refused(datasets_of):
    dataset = datasets_of("input_ablation")["input_ablation"]
    with pytest.raises(SelfExplainError, match=r"validation\.parquet"):
        validation_rows(dataset, None, 0)


def test_vectors_of_another_width_are_refused():
    rows = [{"activations": np.zeros((1, 4))}, {"activations": np.zeros((0, 0))}]
    test_set = TestSet("activation_patching", "new_facts", [0, 1], rows)
    check_width(test_set, SimpleNamespace(name="a", d_model=4))
    with pytest.raises(SelfExplainError, match=r"activation_patching/new_facts: .* width 4, but target b has width 8"):
        check_width(test_set, SimpleNamespace(name="b", d_model=8))
