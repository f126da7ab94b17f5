"""A dataset is complete if its files are those of its manifest."""

import pytest

from selfexplain.groundtruth.dataset_directory import DatasetDirectory, DatasetManifest
from selfexplain.groundtruth.statistics import DatasetStatistics


@pytest.fixture
def dataset(tmp_path):
    directory = DatasetDirectory(tmp_path)
    directory.rows("train").write_bytes(b"rows")
    DatasetManifest(inputs="key", files=directory.hashes()).write(directory.manifest_path)
    return directory


def test_an_unchanged_dataset_is_complete_for_its_inputs(dataset):
    assert dataset.is_complete() and dataset.is_complete("key") and not dataset.is_complete("other")


@pytest.mark.parametrize("damage", ["changed", "removed", "added"])
def test_a_dataset_with_other_files_is_not_complete(dataset, damage):
    if damage == "changed":
        dataset.rows("train").write_bytes(b"swor")
    elif damage == "removed":
        dataset.rows("train").unlink()
    else:
        dataset.rows("test").write_bytes(b"rows")
    assert not dataset.is_complete()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"inputs": "key"}', '{"schema_version": 99, "inputs": "key", "files": {}}']
)
def test_a_dataset_with_an_unreadable_manifest_is_not_complete(dataset, text):
    dataset.manifest_path.write_text(text)
    assert not dataset.is_complete()


def test_a_manifest_without_a_version_is_read(dataset):
    text = dataset.manifest_path.read_text()
    dataset.manifest_path.write_text(text.replace('  "schema_version": 1,\n', ""))
    assert "schema_version" not in dataset.manifest_path.read_text() and dataset.is_complete("key")


def test_additional_test_sets_are_named_in_the_statistics(tmp_path):
    directory = DatasetDirectory(tmp_path)
    assert directory.out_of_distribution() == []
    DatasetStatistics(out_of_distribution={"activations": {"rows": 3}}).write(directory.statistics_path)
    assert directory.out_of_distribution() == ["activations"]
