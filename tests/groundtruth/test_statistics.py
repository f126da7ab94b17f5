"""`statistics.json` keeps the counts of builders, and has one reader and one writer."""

import json

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.statistics import DatasetStatistics

OLD = {
    "patches": 12,
    "counted": {"pairs": 3},
    "balance": {"lookup_rule_accuracy": 0.5, "lookup_rule_macro_f1": 0.25},
    "target_dtype": "float32",
    "splits": {"train": {"rows": 4, "groups": 2}},
}


def test_a_file_without_a_version_is_read_and_written_with_one(tmp_path):
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps(OLD))
    statistics = DatasetStatistics.read(path)
    assert statistics.counts == {"patches": 12, "counted": {"pairs": 3}}
    assert statistics.splits["train"].rows == 4 and statistics.balance.text_majority is None
    statistics.write(path)
    written = json.loads(path.read_text())
    assert written == {"schema_version": 1, **OLD} and list(written) == ["schema_version", *OLD]
    assert DatasetStatistics.read(path) == statistics


def test_empty_fields_are_not_written():
    assert DatasetStatistics(splits={}).to_data() == {"schema_version": 1}


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps(OLD | {"splits": {"train": {"rows": "many"}}}))
    with pytest.raises(SelfExplainError, match=r"splits\.train\.rows.*Build the dataset again"):
        DatasetStatistics.read(path)
    path.write_text(json.dumps(OLD | {"schema_version": 9}))
    with pytest.raises(SelfExplainError, match="schema version 9; this version of selfexplain reads versions up to 1"):
        DatasetStatistics.read(path)
    with pytest.raises(SelfExplainError, match=r"does not exist\. Build the dataset again"):
        DatasetStatistics.read(tmp_path / "missing.json")
