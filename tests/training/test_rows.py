"""Training rows read from ground-truth datasets."""

import pytest
import torch
from datasets import Dataset

from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.training.rows import golden_rows, layers_by_task, training_rows

WITH_VECTORS, WITHOUT = "feature_description", "input_ablation"


@pytest.fixture
def datasets_dir(tmp_path):
    """Ten rows with a vector, in five groups and at layers 1 and 3, and four rows without vectors."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "prompt": "What is <activation>?",
            "completion": f"word {n}",
            "placeholder_offsets": [8],
            "activations": [torch.randn(32, generator=generator).tolist()],
            "activation_layers": [1 if n < 8 else 3],
            "group": str(n // 2),
        }
        for n in range(10)
    ]
    plain = {"prompt": "a", "placeholder_offsets": [], "activations": [], "activation_layers": [], "group": "a"}
    for task, of_task in ((WITH_VECTORS, rows), (WITHOUT, [plain | {"completion": str(n)} for n in range(4)])):
        (tmp_path / task).mkdir()
        Dataset.from_list(of_task).to_parquet(tmp_path / task / "train.parquet")
    return tmp_path


@pytest.fixture
def processor(tokenizer):
    return SelfExplainerProcessor.for_contract(tokenizer, InjectionConfig())


def test_rows_of_all_tasks_are_tokenised_in_order(datasets_dir, processor, tmp_path):
    rows = training_rows(datasets_dir, [WITHOUT, WITH_VECTORS], processor, 128, tmp_path / "cache")
    assert [len(row["activations"]) for row in rows] == [0] * 4 + [1] * 10
    assert [row["length"] == len(row["input_ids"]) == len(row["labels"]) for row in rows] == [True] * 14
    assert set(rows.column_names) >= {"input_ids", "labels", "positions", "length", "activations", "activation_layers"}
    assert "prompt" not in rows.column_names


def test_a_share_of_the_rows_keeps_whole_groups_and_is_nested(datasets_dir, processor, tmp_path):
    shares = {
        share: {
            tuple(row["labels"])
            for row in training_rows(datasets_dir, [WITH_VECTORS], processor, 128, tmp_path / "cache", share, seed=1)
        }
        for share in (0.4, 0.8, 1.0)
    }
    assert [len(rows) for rows in shares.values()] == [4, 8, 10]
    assert shares[0.4] < shares[0.8] < shares[1.0]


def test_golden_rows_are_the_first_with_vectors(datasets_dir, tmp_path):
    rows = golden_rows(datasets_dir, [WITHOUT, WITH_VECTORS], tmp_path / "cache")
    assert [row["completion"] for row in rows] == ["word 0", "word 1"]
    rows = golden_rows(datasets_dir, [WITHOUT], tmp_path / "cache")
    assert [row["completion"] for row in rows] == ["0", "1"]


def test_layers_are_collected_per_task(datasets_dir, tmp_path):
    layers = layers_by_task(datasets_dir, [WITH_VECTORS, WITHOUT], tmp_path / "cache")
    assert layers == {WITH_VECTORS: [1, 3], WITHOUT: []}
