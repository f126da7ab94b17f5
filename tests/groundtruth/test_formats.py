"""Datasets are read back as they were written, with shared vectors joined."""

import numpy as np
import pyarrow.parquet as parquet
import pytest
from datasets import load_dataset

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_dataset, read_rows, read_split, share_vectors
from selfexplain.groundtruth.schema import COMMON, to_table
from selfexplain.groundtruth.sources import Corpus
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.tasks import TASKS


@pytest.fixture
def shared(tmp_path):
    """A split whose six rows have two distinct vectors, which are stored once, and the rows."""
    values = {"text": "t", "texts": ["t"], "flag": True, "integer": 1, "integers": [1], "real": 0.5, "reals": [0.5]}
    columns = COMMON | TASKS["activation_patching"].columns
    row = {name: values.get(kind) for name, kind in columns.items()}
    rows = [row | {"activations": [np.full(32, n // 3, np.float32)], "position": n} for n in range(6)]
    table, vectors = share_vectors(to_table("activation_patching", rows, 32))
    directory = DatasetDirectory(tmp_path)
    parquet.write_table(table, directory.rows("train"))
    parquet.write_table(vectors, directory.vectors)
    return directory.rows("train"), rows


def test_each_distinct_vector_is_stored_once(shared):
    path, _ = shared
    table = parquet.read_table(path)
    assert "activations" not in table.column_names
    assert table["vector_ids"].to_pylist() == [[0], [0], [0], [1], [1], [1]]
    vectors = parquet.read_table(path.with_name("vectors.parquet"))
    assert vectors["vector"].to_pylist() == [[0.0] * 32, [1.0] * 32]


def test_shared_vectors_are_joined_on_reading(shared, tmp_path):
    path, rows = shared
    for before, after in zip(rows, read_rows(path), strict=True):
        np.testing.assert_array_equal(after["activations"], before["activations"])
        assert after["activations"].dtype == np.float16 and after["position"] == before["position"]
    dataset = read_dataset(path, ["prompt", "activations"], tmp_path / "cache")
    assert dataset.column_names == ["prompt", "activations"] and dataset[5]["activations"] == [[1.0] * 32]
    assert read_split(path, ["position"]).column_names == ["position"]
    assert len(load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "c"))["train"]) == 6


def test_a_build_with_shared_vectors_has_the_same_rows(target, tmp_path):
    """Each feature has two rows, so a shared vector is stored half as often."""
    np.save(tmp_path / "layer_1.npy", np.random.default_rng(0).normal(size=(90, target.d_model)).astype(np.float32))
    words = [word for token in sorted(target.tokenizer.get_vocab()) if (word := token.removeprefix("Ġ")).isalpha()]
    rng = np.random.default_rng(0)
    corpus = Corpus("file", [" ".join(rng.choice(words, 10)) for _ in range(80)])
    settings = {"layers": (1,), "saes": str(tmp_path), "window": 12, "min_correlation": -1.0, "rows_per_feature": 2}
    for name, share in (("plain", False), ("shared", True)):
        config = FeatureConfig(**settings, share_vectors=share)
        build("feature_description", config, target, corpus, tmp_path / name, seed=0)
    n_rows = 0
    for split in SPLITS:
        plain, joined = (read_rows(tmp_path / name / f"{split}.parquet") for name in ("plain", "shared"))
        n_rows += len(plain)
        for one, other in zip(plain, joined, strict=True):
            np.testing.assert_array_equal(one.pop("activations"), other.pop("activations"))
            assert one == other
    shared = load_dataset(str(tmp_path / "shared"), "vectors", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(shared) == n_rows / 2
    assert set(DatasetDirectory(tmp_path / "shared").hashes()) == {"train.parquet", "validation.parquet",
                                                                   "test.parquet", "vectors.parquet"}  # fmt: skip


def test_a_missing_or_empty_split_raises_an_error(tmp_path, shared):
    with pytest.raises(SelfExplainError, match=r"test\.parquet does not exist\. Build the dataset first"):
        read_rows(tmp_path / "test.parquet")
    path, _ = shared
    parquet.write_table(parquet.read_table(path)[:0], tmp_path / "test.parquet")
    with pytest.raises(SelfExplainError, match=r"test\.parquet has no rows"):
        read_rows(tmp_path / "test.parquet")
