"""Rows are run again and compared with the stored results."""

import pyarrow.parquet as parquet
import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import check
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.check import check_dataset
from selfexplain.groundtruth.config import AblationConfig
from selfexplain.groundtruth.dataset_directory import DatasetDirectory


@pytest.fixture
def patching(sensitive_target, world, pairs_config, tmp_path):
    build("activation_patching", pairs_config, sensitive_target, world, tmp_path, seed=0)
    return tmp_path


@pytest.fixture
def ablation(sensitive_target, world, tmp_path):
    build("input_ablation", AblationConfig(n_questions=200, n_rows=60), sensitive_target, world, tmp_path, seed=0)
    return tmp_path


@pytest.mark.parametrize("name", ["patching", "ablation"])
def test_all_rows_of_an_unchanged_target_are_confirmed(name, sensitive_target, monkeypatch, request):
    directory = request.getfixturevalue(name)
    loaded = []

    def load(model, revision, dtype):
        loaded.append((model, revision, dtype))
        return sensitive_target

    monkeypatch.setattr(check, "load_target", load)
    result = check_dataset(directory, 30)
    assert result.passed and result.n_rows == 30 and not result.disagreements
    assert loaded == [("tiny-random", None, "float32")]


def test_rows_of_old_datasets_can_be_checked(ablation, sensitive_target):
    """Old datasets have no manifest and lack two columns."""
    directory = DatasetDirectory(ablation)
    for path in ablation.glob("*.parquet"):
        parquet.write_table(parquet.read_table(path).drop_columns(["replacement", "answered_by"]), path)
    directory.manifest_path.unlink()
    assert check_dataset(ablation, 10, target=sensitive_target).passed


def test_a_different_target_does_not_pass(patching, sensitive_target):
    torch.manual_seed(1)
    torch.nn.init.normal_(sensitive_target.model.lm_head.weight)
    result = check_dataset(patching, 30, target=sensitive_target)
    assert not result.passed and result.disagreements
    first = result.disagreements[0]
    assert first.stored != first.found and first.split in ("train", "validation", "test")


def test_a_modified_file_raises_an_error(patching, sensitive_target):
    path = patching / "test.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(SelfExplainError, match=r"modified after it was written \(its SHA-256 differs\)"):
        check_dataset(patching, 3, target=sensitive_target)


def test_a_task_without_interventions_raises_an_error(tmp_path, target):
    import numpy as np

    from selfexplain.groundtruth.schema import COMMON, to_table
    from selfexplain.tasks import TASKS

    values = {"text": "t", "integer": 1, "integers": [1], "real": 0.5, "exemplars": []}
    row = {name: values.get(kind) for name, kind in (COMMON | TASKS["feature_description"].columns).items()}
    for split in ("train", "validation", "test"):
        table = to_table("feature_description", [row | {"activations": [np.zeros(4)]}], 4)
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(SelfExplainError, match="rows of feature description, which have no intervention"):
        check_dataset(tmp_path, 3, target=target)
