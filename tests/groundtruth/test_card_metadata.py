"""`load_dataset` returns the rows of the directory that it was given, although its cache is named by the metadata."""

import shutil

import datasets
import pytest
import yaml
from datasets import load_dataset

from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.card_metadata import configurations
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_split
from selfexplain.groundtruth.splits import SPLITS


@pytest.fixture
def loaded(tmp_path):
    """Load a configuration of a directory with one shared cache."""

    def load(directory, name=None):
        return load_dataset(str(directory), name, cache_dir=str(tmp_path / "cache"))

    return load


def write_rows(directory, number, is_shared=False):
    """A dataset of one row per file, which contains `number`, with its card."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (*SPLITS, "activations", *(["vectors"] if is_shared else [])):
        datasets.Dataset.from_dict({"value": [number]}).to_parquet(directory / f"{name}.parquet")
    dataset = DatasetDirectory(directory)
    metadata = {"configs": list(configurations(["activations"], is_shared, dataset.hashes()))}
    dataset.card.write_text(f"---\n{yaml.safe_dump(metadata)}---\n")
    return directory


def test_every_directory_and_configuration_gives_its_own_rows(loaded, tmp_path):
    first, second = (write_rows(tmp_path / run / "data", n, is_shared=True) for n, run in enumerate("ab"))
    for directory, number in ((first, 0), (second, 1), (first, 0)):
        assert [part["value"] for part in loaded(directory).values()] == [[number]] * 3
        assert loaded(directory, "activations")["test"]["value"] == [number]
        assert loaded(directory, "vectors")["train"]["value"] == [number]
    write_rows(first, 2, is_shared=True)
    assert loaded(first)["train"]["value"] == loaded(first, "vectors")["train"]["value"] == [2]


def test_a_copy_of_a_directory_shares_the_cache(loaded, tmp_path):
    first = write_rows(tmp_path / "a" / "data", 0)
    loaded(first)
    before = set((tmp_path / "cache").rglob("*.arrow"))
    loaded(shutil.copytree(first, tmp_path / "b" / "data"))
    assert set((tmp_path / "cache").rglob("*.arrow")) == before


def test_only_files_with_a_known_hash_have_a_content_hash():
    splits, activations = configurations(
        ["activations"], False, {f"{split}.parquet": "0" for split in SPLITS}, "lab--m"
    )
    assert splits["config_name"] == "lab--m" and splits["default"]
    assert splits["data_files"][0] == {"split": "train", "path": "lab--m/train.parquet"}
    assert splits["description"].startswith("content hash ")
    assert activations["config_name"] == "lab--m-activations" and "description" not in activations


def test_builds_with_different_seeds_load_their_own_rows(loaded, sensitive_target, world, pairs_config, tmp_path):
    """Rebuilding in the same directory replaces the rows as well."""
    runs = [tmp_path / "a" / "data", tmp_path / "b" / "data"]
    for directory, seed in ((runs[0], 0), (runs[1], 4), (runs[0], 5)):
        build("activation_patching", pairs_config, sensitive_target, world, directory, seed)
        for split, rows in loaded(directory).items():
            stored = read_split(directory / f"{split}.parquet", ["prompt", "group", "kl"])
            assert rows.select_columns(stored.column_names).to_list() == stored.to_pylist()
